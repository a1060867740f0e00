"""Text in pictures, by PP-OCRv4 (Baidu's PaddleOCR) on the CPU.

The only importer of ``rapidocr_onnxruntime``, whose wheel holds the weights; they are loaded for the first
picture. One thread computes, so that the same pixels give the same lines whatever else the machine does.
"""

from __future__ import annotations

import hashlib
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
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

log = structlog.get_logger(__name__)


def is_installed() -> bool:
    """Say whether the package is there; it has no wheel for Python 3.13 and later."""
    return find_spec(_MODULE) is not None


class RapidScreenText:
    """Finds and reads lines of Latin and Chinese script. Several threads may use it, one at a time."""

    name = NAME

    def __init__(self) -> None:
        told = (PACKAGE, version(PACKAGE), *_WEIGHTS.values(), str(MAX_ASPECT))
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
        return tuple(_line(box, text, sure, width, height) for box, text, sure in found or ())

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
    log.info("text recognition loaded", model=NAME)
    return engine


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
