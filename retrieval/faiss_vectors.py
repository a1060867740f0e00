"""Vectors in FAISS: every row compared, on the processor or a CUDA device, or one-bit codes in cells.

The only importer of faiss. Take a lock around each index: FAISS has none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import RLock
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from memory.errors import CorruptionError
from retrieval.segments import write_file
from retrieval.vectors import (
    MOST_TIES,
    Allowed,
    Keys,
    Matrix,
    Rotate,
    Scores,
    as_keys,
    best,
    checked_query,
    checked_rows,
    load_rows,
    products,
    refuse_held,
    save_rows,
    widen,
)

_faiss: Any = faiss  # its stubs know the C++ constructors only, not the Python ones
CODES_SUFFIX = ".codes"
_SPARE = 32
_MANY = 4
_MOST_ON_GPU = 2048
"""So deep FAISS selects on a GPU."""


class FlatVectors:
    """Every row compared (FAISS ``IDMap2,Flat``): exact, removable, about 0.1 ms per 1,000 rows of 384."""

    def __init__(self, dimension: int) -> None:
        self._flat = _faiss.IndexFlatIP(dimension)
        self._index: Any = _faiss.IndexIDMap2(self._flat)
        self._held: set[int] = set()
        self._dimension = dimension
        self._lock = RLock()

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        return len(self._held)

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        new, rows = checked_rows(keys, vectors, self._dimension)
        with self._lock:
            refuse_held(new, self._held)
            if len(new):
                self._index.add_with_ids(rows, new)
            self._held.update(new.tolist())

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            going = self._held.intersection(as_keys(keys).tolist())
            if going:
                self._index.remove_ids(np.array(sorted(going), dtype=np.int64))
            self._held -= going
            return len(going)

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = checked_query(query, self._dimension)
        with self._lock:
            depth = limit + _SPARE
            while limit > 0 and self._held:
                keys = self._nearest(wanted, min(depth, len(self._held)), allowed)
                scores = self._scored(wanted, keys)
                whole = len(keys) < depth
                if whole or scores.min() < np.sort(scores)[-limit] or len(keys) >= limit + MOST_TIES:
                    return best(keys, scores, limit)
                depth *= 4
        return best(np.empty(0, np.int64), np.empty(0), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted, asked = checked_query(query, self._dimension), as_keys(keys)
        with self._lock:
            held = np.array([key in self._held for key in asked.tolist()], dtype=np.bool_)
            scores = np.full(len(asked), -1.0)
            scores[held] = self._scored(wanted, asked[held])
        return scores

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        asked = as_keys(keys)
        with self._lock:
            return self._rows(asked)

    def _nearest(self, query: npt.NDArray[np.float32], depth: int, allowed: Allowed | None) -> Keys:
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            if not bits.any():
                return np.empty(0, dtype=np.int64)
            parameters = _faiss.SearchParameters(sel=_faiss.IDSelectorBitmap(bits))
        _, keys = self._index.search(query[None], depth, params=parameters)
        found: Keys = keys[0][keys[0] >= 0].astype(np.int64)
        return found

    def _scored(self, query: npt.NDArray[np.float32], keys: Keys) -> Scores:
        return products(self._rows(keys), query)

    def _rows(self, keys: Keys) -> Matrix:
        if len(keys) == 0:
            return np.empty((0, self._dimension), dtype=np.float32)
        rows: Matrix = self._index.reconstruct_batch(keys)
        return rows

    def keys(self) -> Keys:
        with self._lock:
            return np.array(sorted(self._held), dtype=np.int64)

    def save(self, folder: Path) -> str:
        with self._lock:
            return save_rows(self, folder)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        dimension, keys, rows = load_rows(folder, name)
        index = cls(dimension)
        index.add(keys, widen(rows))
        return index


class GpuFlatVectors(FlatVectors):
    """``FlatVectors`` with a copy on CUDA device 0 that unfiltered searches go to; needs the extra ``[gpu]``.

    FAISS's flat index on a GPU knows no filters and no removal: filtered searches, and those deeper than
    2,048, stay on the processor; after a removal the next search copies all rows anew, after an addition
    the new ones.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self._resources: Any = _faiss.StandardGpuResources()
        self._copy: Any = None
        self._order: Keys = np.empty(0, dtype=np.int64)

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            gone = super().remove(keys)
            if gone:
                self._copy = None
            return gone

    def _nearest(self, query: npt.NDArray[np.float32], depth: int, allowed: Allowed | None) -> Keys:
        if allowed is not None or depth > _MOST_ON_GPU:
            return super()._nearest(query, depth, allowed)
        self._follow()
        _, places = self._copy.search(query[None], depth)
        keys: Keys = self._order[places[0][places[0] >= 0]]
        return keys

    def _follow(self) -> None:
        if self._copy is None:
            # In single precision, not half: it would round the query, and find other rows.
            self._copy = _faiss.GpuIndexFlatIP(self._resources, self._dimension)
        copied = self._copy.ntotal
        if copied < self._flat.ntotal:
            self._copy.add(self._flat.reconstruct_n(copied, self._flat.ntotal - copied))
            self._order = _faiss.vector_to_array(self._index.id_map)


def count_gpus() -> int:
    """Return how many CUDA devices FAISS can use: none without its GPU build."""
    return int(_faiss.get_num_gpus()) if hasattr(_faiss, "StandardGpuResources") else 0


class Codes:
    """Binary codes of rows 0, 1, 2 …, mapped from a file and read only: one bit a dimension, all compared.

    About 4 ns a row and core at 384 dimensions (FAISS ``IndexBinaryFlat``), and none is fitted, linked or
    placed by another: a code is a function of its row alone.
    """

    def __init__(self, path: Path, rotate: Rotate, dimension: int) -> None:
        """Open what ``write_codes`` wrote; raises ``CorruptionError`` when FAISS cannot read it."""
        try:
            self._index: Any = _faiss.read_index_binary(str(path), _faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise CorruptionError(f"{path.name}: FAISS cannot read it") from error
        self._index.use_heap = False  # counts by distance: the same time for a hundred or a few thousand
        self._rotation = rotate(np.eye(dimension, dtype=np.float32))
        count, width = int(self._index.ntotal), int(self._index.code_size)
        # FAISS writes the codes last.
        offset = path.stat().st_size - count * width
        self._codes: npt.NDArray[np.uint8] = np.asarray(
            np.memmap(path, np.uint8, "r", offset=offset, shape=(count, width))
        )
        if count and not np.array_equal(self._codes[-1], self._index.reconstruct(count - 1)):
            raise CorruptionError(f"{path.name}: the codes are not where they should be")

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(
        self, query: npt.NDArray[np.float32], *, count: int, allowed: Allowed | None
    ) -> tuple[Keys, npt.NDArray[np.int32]]:
        """Return (rows, differing bits) of the ``count`` nearest by their codes, nearest first.

        Equal ones stand in row order. Safe to call from several threads: searches change nothing. FAISS asks
        its own filter for each row, which takes longer than comparing it; so where many are allowed some more
        are fetched and the others passed over, and where few are, those alone are compared.
        """
        code = np.packbits(query @ self._rotation > 0)
        if allowed is None:
            return self._scan(code, count)
        admitted = int(np.count_nonzero(allowed))
        if _MANY * admitted < len(self):
            return self._compare(code, count, np.flatnonzero(allowed))
        depth = min(len(self), int(1.2 * count * len(self) / max(1, admitted)) + count)
        while True:
            rows, differing = self._scan(code, depth)
            kept = allowed[rows]
            if depth == len(self) or np.count_nonzero(kept) >= min(count, admitted):
                return rows[kept][:count], differing[kept][:count]
            depth = min(len(self), 4 * depth)

    def _scan(self, code: npt.NDArray[np.uint8], count: int) -> tuple[Keys, npt.NDArray[np.int32]]:
        distances, rows = self._index.search(code[None], count)
        found = rows[0] >= 0
        return _nearest(rows[0][found], distances[0][found])

    def _compare(
        self, code: npt.NDArray[np.uint8], count: int, rows: Keys
    ) -> tuple[Keys, npt.NDArray[np.int32]]:
        word = np.uint64 if len(code) % 8 == 0 else np.uint8
        codes = np.take(self._codes, rows, axis=0).view(word)
        differing = np.bitwise_count(codes ^ code.view(word)).sum(axis=1, dtype=np.int32)
        if count < len(rows):
            last = np.partition(differing, count - 1)[count - 1]
            within = np.flatnonzero(differing <= last)
            rows, differing = rows[within], differing[within]
        rows, differing = _nearest(rows, differing)
        return rows[:count], differing[:count]


def _nearest(rows: Keys, differing: npt.NDArray[np.int32]) -> tuple[Keys, npt.NDArray[np.int32]]:
    order = np.lexsort((rows, differing))
    return rows[order], differing[order]


def write_codes(folder: Path, dimension: int, rotate: Rotate, blocks: Iterable[Matrix]) -> str:
    """Write the codes of unit rows, given in order, and return the file's name in ``folder``."""
    index = _faiss.IndexBinaryFlat(8 * -(-dimension // 8))
    for block in blocks:
        index.add(np.packbits(rotate(block) > 0, axis=1))
    return write_file(folder, [_faiss.serialize_index_binary(index).data], CODES_SUFFIX)
