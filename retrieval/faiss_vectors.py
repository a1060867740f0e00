"""Vectors in FAISS: every row compared, on the processor or a CUDA device, or one-bit codes in cells.

The only importer of faiss. What changes is locked here: FAISS has no locks of its own.
"""

from __future__ import annotations

import math
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
    """One-bit codes in cells, read only: in a cell, the query's coordinates are added up by their signs.

    A code of four bits is one of a product quantizer whose centroids are the sixteen signs of four
    coordinates, so that FAISS's fast scan (André, Kermarrec & Le Scouarnec, VLDB 2015) adds them up in
    registers: 2 to 6 ns a row and core at 384 dimensions. Each process holds a copy of the codes.
    """

    def __init__(self, path: Path) -> None:
        """Open what ``write_codes`` wrote; raises ``CorruptionError`` when FAISS cannot read it."""
        try:
            self._index: Any = _faiss.read_index(str(path))
        except RuntimeError as error:
            raise CorruptionError(f"{path.name}: FAISS cannot read it") from error
        lists = self._index.invlists
        self.sizes = np.array([lists.list_size(cell) for cell in range(self._index.nlist)], np.int64)
        """How many rows are in each cell."""

    def search(
        self,
        turned: npt.NDArray[np.float32],
        cells: npt.NDArray[np.int64],
        *,
        count: int,
        allowed: Allowed | None,
    ) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return (places, estimates) of the ``count`` best in these cells, best first.

        ``turned`` is the query after the rotation, ``allowed`` a bitmap over places. The estimate of the
        inner product with a unit row is unbiased. Safe to call from several threads.
        """
        query = np.zeros(self._index.d, np.float32)
        query[: len(turned)] = turned
        asked = np.ascontiguousarray(cells, np.int64)
        unused = np.zeros(len(asked), np.float32)
        estimates, places = np.empty(count, np.float32), np.empty(count, np.int64)
        # Named, for FAISS keeps no reference to it.
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        about = _faiss.IVFSearchParameters(
            nprobe=len(asked), sel=None if bits is None else _faiss.IDSelectorBitmap(bits)
        )
        self._index.search_preassigned_c(
            1,
            _faiss.swig_ptr(query),
            count,
            *map(_faiss.swig_ptr, (asked, unused, estimates, places)),
            False,
            about,
        )
        found = int(np.count_nonzero(places >= 0))
        return places[:found], estimates[:found]


def write_codes(
    folder: Path, dimension: int, codes: npt.NDArray[np.uint8], cells: npt.NDArray[np.int32], count: int
) -> str:
    """Write rows' codes in ``count`` cells; return the file's name.

    ``codes`` are packed signs, little end first, shape (rows, ceil(dimension / 8)); ``cells`` is each row's.
    """
    width = 8 * codes.shape[1]
    # FAISS wants centroids of cells; which to look through is always told it.
    coarse = _faiss.IndexFlatIP(width)
    coarse.add(np.zeros((count, width), np.float32))
    index = _faiss.IndexIVFPQFastScan(coarse, width, count, width // 4, 4, _faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False
    index.is_trained = True
    signs = np.array([[2 * (at >> bit & 1) - 1 for bit in range(4)] for at in range(16)], np.float32)
    # A unit row's mean product with its own signs is the root of 2 / pi, of so many roots of the dimension.
    signs *= np.float32(math.sqrt(math.pi / 2 / dimension))
    _faiss.copy_array_to_vector(np.tile(signs.ravel(), width // 4), index.pq.centroids)
    packer = index.get_CodePacker()
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(count + 1))
    for cell in range(count):
        places = order[starts[cell] : starts[cell + 1]]
        if len(places):
            packed = _packed(codes[places], packer)
            index.invlists.add_entries(cell, len(places), *map(_faiss.swig_ptr, (places, packed)))
    index.ntotal = len(codes)
    return write_file(folder, [_faiss.serialize_index(index).data], CODES_SUFFIX)


def _packed(codes: npt.NDArray[np.uint8], packer: Any) -> npt.NDArray[np.uint8]:
    """Return codes as FAISS's fast scan reads them: blocks of rows, in each half-byte by half-byte."""
    blocks = -(-len(codes) // packer.nvec)
    flat = np.zeros((blocks, packer.nvec, codes.shape[1]), np.uint8)
    flat.reshape(-1, codes.shape[1])[: len(codes)] = codes
    packed = np.zeros((blocks, packer.block_size), np.uint8)
    for block, into in zip(flat, packed, strict=True):
        packer.pack_all(_faiss.swig_ptr(block), _faiss.swig_ptr(into))
    return packed
