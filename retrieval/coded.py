"""Saved rows as codes in cells: one bit a dimension to find what may be near, one byte to tell what is.

Cells are a function of the rows that are there (``retrieval.partition``): a search looks through those whose
centroids are nearest. Bits and bytes are a function of each row alone, after the fixed rotation. Files are
never written to again: bytes are mapped, bits are copied by each process. Nothing here knows keys or what is
not saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory.errors import CorruptionError
from retrieval.faiss_vectors import Codes, write_codes
from retrieval.partition import Steps, as_steps, assign, hash_rows, leader_bits, make_cells
from retrieval.segments import check_file, read_segment, write_segment
from retrieval.vectors import Allowed, Keys, Matrix, Rotate

ERRORS = 2.0
"""A row is looked at when so many standard errors of its code's estimate could bring it among the best."""
SHARE = 1 / 9
LEAST_SCANNED = 32_768
"""Cells with so many rows are looked through, or with ``SHARE`` of all where that is more."""
FEW = 2_000
"""So few rows that a filter admits are all estimated by their bytes."""
_KIND = "codes"
_LEAST, _SPARE, _AMONG, _MOST = 1024, 8, 50, 1 << 15
_SURE = 4.0
"""So many standard errors of its bytes' estimate a row is trusted to be off by."""
_LEVELS = 127
_SAMPLE = 16_384
_SAMPLE_BITS, _ROUNDS = 6, 3


class CodedRows:
    """The codes of saved rows. Rows are known by their places 0, 1, 2 ... Safe to share between threads."""

    def __init__(self, folder: Path, names: Sequence[str], rotate: Rotate) -> None:
        """Open what ``write_coded`` wrote; raises ``CorruptionError`` when it is damaged."""
        name, codes = names
        segment = read_segment(folder / name)
        if segment.about.get("kind") != _KIND:
            raise CorruptionError(f"{name}: holds no codes")
        self._bytes: npt.NDArray[np.int8] = segment.arrays["bytes"]
        self._steps: npt.NDArray[np.float32] = segment.arrays["steps"]
        self._centroids: Matrix = segment.arrays["centroids"]
        self._sample: npt.NDArray[np.int32] = segment.arrays["sample"]
        self._stride = _stride(len(self._bytes))
        self._rotation = rotate(np.eye(self._bytes.shape[1], dtype=np.float32))
        check_file(folder / codes)
        self._codes = Codes(folder / codes)
        if self._codes.sizes.sum() != len(self._bytes) or len(self._codes.sizes) != len(self._centroids):
            raise CorruptionError(f"{name}: {codes} holds other rows")

    def __len__(self) -> int:
        return len(self._bytes)

    def find(
        self,
        query: npt.NDArray[np.float32],
        *,
        limit: int,
        errors: float = ERRORS,
        allowed: Allowed | None = None,
    ) -> Keys:
        """Return the places of those rows that may be among the ``limit`` best, a few more than that.

        ``allowed`` is a bitmap over places. Among the rows in the cells that are looked through, each is
        returned that by the error of its bits and then of its bytes could be among the best.
        """
        turned = query @ self._rotation
        if self.compares_all(limit, allowed) or not turned.any():
            places = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        else:
            some = None if self._count(allowed) == len(self) else allowed
            places = self._search(query, turned, limit, errors, some)
        low, high = self._estimate(places, turned)
        return places if limit >= len(places) else places[high >= np.partition(low, -limit)[-limit]]

    def compares_all(self, limit: int, allowed: Allowed | None) -> bool:
        """Tell whether so few rows are admitted that each is compared."""
        return self._count(allowed) <= max(FEW, 2 * limit)

    def _count(self, allowed: Allowed | None) -> int:
        return len(self) if allowed is None else int(np.count_nonzero(allowed))

    def _choose(self, query: npt.NDArray[np.float32], allowed: Allowed | None) -> npt.NDArray[np.int64]:
        """Return the cells nearest to a query that hold such a share of the rows as is looked through.

        Under a filter it is a share of what that admits, which may be far from the query: so it is counted,
        by a sample. The fewer rows a filter admits, the further away are the nearest of them.
        """
        sizes = self._codes.sizes
        if allowed is not None:
            sizes = np.bincount(self._sample[allowed[:: self._stride]], minlength=len(sizes))
        wanted = max(LEAST_SCANNED / len(self), SHARE)
        wanted /= (self._count(allowed) / len(self)) ** (1 / 3)
        if wanted >= 1 or not sizes.any():
            return np.arange(len(sizes))
        order = np.argsort(-(self._centroids @ query), kind="stable")
        held = np.cumsum(sizes[order])
        return order[: int(np.searchsorted(held, wanted * held[-1])) + 1]

    def _search(
        self,
        query: npt.NDArray[np.float32],
        turned: npt.NDArray[np.float32],
        limit: int,
        errors: float,
        allowed: Allowed | None,
    ) -> Keys:
        """Return the places of rows in the nearest cells that their bits do not rule out."""
        # Gao & Long 2024, theorem 3.2: the error of the estimate, of rows at right angles to the query.
        error = errors * ((np.pi / 2 - 1) / len(turned)) ** 0.5
        cells, admitted = self._choose(query, allowed), self._count(allowed)
        count = max(_LEAST, _SPARE * limit, int(self._codes.sizes[cells].sum()) // _AMONG)
        while True:
            places, estimates = self._codes.search(turned, cells, count=count, allowed=allowed)
            if len(places) < min(2 * limit, admitted) and len(cells) < len(self._codes.sizes):
                cells = np.arange(len(self._codes.sizes))  # these hold too few of what is admitted
                continue
            low, _ = self._estimate(places[: 2 * limit], turned)
            least = np.partition(low, -limit)[-limit] if limit < len(low) else -np.inf
            hopeful = max(len(low), int(np.count_nonzero(estimates + error >= least)))
            if hopeful < len(places) or len(places) < count or count >= _MOST:
                return places[:hopeful]
            count *= 4

    def _estimate(self, places: Keys, turned: npt.NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """Return between what each row's inner product with a unit query lies, by its bytes."""
        steps = np.take(self._steps, places)
        about = np.vecdot(np.take(self._bytes, places, axis=0).astype(np.float32), turned) * steps
        # Each coordinate is off by a share of a step that is evenly spread.
        off = np.float32(_SURE / 12**0.5) * steps
        return about - off, about + off


def write_coded(
    folder: Path, dimension: int, rotate: Rotate, blocks: Callable[[], Iterable[npt.NDArray[np.floating]]]
) -> list[str]:
    """Write the codes of unit rows and return the files' names; ``blocks`` yields the rows at each call."""

    def in_steps() -> Iterator[npt.NDArray[np.float32]]:
        return map(as_steps, blocks())

    hashes = np.concatenate([np.empty(0, np.uint64), *map(hash_rows, in_steps())])
    rows = len(hashes)
    bits = leader_bits(rows)
    spare = np.uint64(64 - max(0, bits - _SAMPLE_BITS))
    some = hashes >> spare == 0 if spare < 64 else np.ones(rows, np.bool_)
    if not some.any():  # few different rows, over and over
        some = hashes == hashes.min()
    centroids, _ = make_cells(_pick(in_steps(), some), hashes[some], bits=bits, rounds=_ROUNDS)
    cells = np.concatenate([np.empty(0, np.int32), *(assign(block, centroids)[0] for block in in_steps())])
    in_bytes, steps = np.empty((rows, dimension), np.int8), np.empty(rows, np.float32)
    codes = np.empty((rows, -(-dimension // 8)), np.uint8)
    start = 0
    for block in blocks():
        turned = rotate(np.asarray(block, np.float32))
        part = slice(start, start + len(block))
        start += len(block)
        steps[part] = np.abs(turned).max(axis=1) / np.float32(_LEVELS)
        # A row of nothing but zeros has no step.
        in_bytes[part] = np.rint(turned / np.where(steps[part] > 0, steps[part], 1)[:, None])
        codes[part] = np.packbits(turned > 0, axis=1, bitorder="little")
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "bytes": in_bytes,
        "steps": steps,
        "centroids": centroids,
        "sample": cells[:: _stride(rows)],
    }
    return [
        write_segment(folder, {"kind": _KIND}, arrays),
        write_codes(folder, dimension, codes, cells, len(centroids)),
    ]


def _stride(rows: int) -> int:
    """Return every how manieth row's cell is kept at hand."""
    return max(1, rows // _SAMPLE)


def _pick(blocks: Iterable[Steps], wanted: npt.NDArray[np.bool_]) -> Steps:
    start, picked = 0, []
    for block in blocks:
        picked.append(block[wanted[start : start + len(block)]])
        start += len(block)
    return np.concatenate(picked)
