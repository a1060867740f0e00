"""Text in pictures, by PP-OCRv4 (Baidu's PaddleOCR) on the CPU.

The only importer of ``rapidocr_onnxruntime``, whose wheel holds the weights; they are loaded for the first
picture. One thread computes, so that the same pixels give the same lines whatever else the machine does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from memory.errors import DigestMismatchError, UnavailableError
from memory.ports import Pixels
from memory.values import TextLine

NAME = "rapidocr"
PACKAGE = "rapidocr-onnxruntime"
_MODULE = "rapidocr_onnxruntime"
_WEIGHTS = {
    "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
}
"""What finds lines, what reads them, and what tells which way is up; by sha256."""
MAX_ASPECT = 4
"""A picture that is longer is padded: it is scaled by its shorter side, and would take any memory."""
LEAST_SPACE = 0.012
"""A space more probable than this in a gap between letters is one, though no space is the best guess."""
ROW_OVERLAP, ROW_GAP = 0.6, 1.0
"""Lines are one that share so much of their height, and are no further apart than so many of it."""

log = structlog.get_logger(__name__)


def is_installed() -> bool:
    """Say whether the package is there; it has no wheel for Python 3.13 and later."""
    return find_spec(_MODULE) is not None


class RapidScreenText:
    """Finds and reads lines of Latin and Chinese script. Several threads may use it, one at a time."""

    name = NAME

    def __init__(self) -> None:
        told = (PACKAGE, version(PACKAGE), *_WEIGHTS.values(), str(MAX_ASPECT), str(LEAST_SPACE))
        self.digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
        self._engine: Any = None
        self._reading = threading.Lock()
        self._closed = False

    def read(self, picture: Pixels) -> tuple[TextLine, ...]:
        """Return the lines of text, from the top to the bottom.

        Raises ``DigestMismatchError`` when the weights are not those that were meant, and
        ``UnavailableError`` once it is closed.
        """
        with self._reading:
            if self._closed:
                raise UnavailableError("the service is stopping; the picture waits")
            if self._engine is None:
                self._engine = _load()
            found, _ = self._engine(_pad(picture[:, :, ::-1]))
        height, width = picture.shape[:2]
        return join_rows(_line(box, text, sure, width, height) for box, text, sure in found or ())

    def close(self) -> None:
        """Have what is under way end after its picture."""
        self._closed = True


def _load() -> Any:
    # Deferred: only pictures need it.
    import rapidocr_onnxruntime as package

    folder = Path(str(package.__file__)).parent / "models"
    for name, expected in _WEIGHTS.items():
        got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if got != expected:
            raise DigestMismatchError(name, expected, got)
    engine = package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
    engine.text_rec.postprocess_op = _Decoding(engine.text_rec.postprocess_op.character)
    log.info("text recognition loaded", model=NAME)
    return engine


def join_rows(lines: Iterable[TextLine]) -> tuple[TextLine, ...]:
    """Return lines with those made one that stand close beside each other: large words are found apart."""
    rows: list[TextLine] = []
    for line in sorted(lines, key=lambda line: (line.left, line.top)):
        index = next((at for at, row in enumerate(rows) if _goes_on(row, line)), None)
        if index is None:
            rows.append(line)
            continue
        row = rows[index]
        rows[index] = TextLine(
            f"{row.text} {line.text}",
            min(row.confidence, line.confidence),
            row.left,
            min(row.top, line.top),
            max(row.right, line.right),
            max(row.bottom, line.bottom),
        )
    return tuple(sorted(rows, key=lambda row: (row.top, row.left)))


def _goes_on(row: TextLine, line: TextLine) -> bool:
    lower = min(row.bottom - row.top, line.bottom - line.top)
    beside = min(row.bottom, line.bottom) - max(row.top, line.top) > ROW_OVERLAP * lower
    return beside and -lower < line.left - row.right < ROW_GAP * lower


class _Decoding:
    """Makes text of what the model says of each column of a line: greedy CTC, with more spaces.

    The model knows Chinese best and swallows spaces between words; what it takes for a space at all is one
    between letters. Within words it gives spaces next to nothing, between words .014 and more.
    """

    def __init__(self, characters: Sequence[str]) -> None:
        self._characters = characters
        self._space = len(characters) - 1

    def __call__(
        self, columns: npt.NDArray[np.float32], words: bool = False, **_: object
    ) -> list[tuple[str, float]]:
        """Return text and confidence of each line; ``columns`` are (lines, columns, characters)."""
        return [self._decode(line) for line in columns]

    def _decode(self, line: npt.NDArray[np.float32]) -> tuple[str, float]:
        best = line.argmax(axis=1)
        told = best != 0
        told[1:] &= best[1:] != best[:-1]
        places = np.flatnonzero(told)
        if not len(places):
            return "", 0.0
        text = self._characters[best[places[0]]]
        for before, place in pairwise(places):
            following = self._characters[best[place]]
            gap = line[before + 1 : place, self._space]
            if gap.size and gap.max() > LEAST_SPACE and _parts(text[-1], following):
                text += " "
            text += following
        return text, float(line[places, best[places]].mean(dtype=np.float64))


def _parts(before: str, after: str) -> bool:
    """Say whether a space may lie between two characters: not in scripts that are written without."""
    return all(each < "\u2e80" and not each.isspace() for each in (before, after))


def _pad(picture: Pixels) -> Pixels:
    """Return it with black below or to the right, when it is very long."""
    height, width = picture.shape[:2]
    below = max(0, -(-width // MAX_ASPECT) - height)
    beside = max(0, -(-height // MAX_ASPECT) - width)
    return np.ascontiguousarray(np.pad(picture, ((0, below), (0, beside), (0, 0))))


def _line(box: list[list[float]], text: str, confidence: float, width: int, height: int) -> TextLine:
    across = [min(max(0.0, x), float(width)) for x, _ in box]
    down = [min(max(0.0, y), float(height)) for _, y in box]
    return TextLine(text, float(confidence), min(across), min(down), max(across), max(down))
