"""Exact nearest neighbours by inner product, filters inside the search.

The only importer of faiss. ``FlatVectors`` finds candidates with FAISS and scores them again in
double precision, so that a row's score does not depend on where it stands; ``NumpyVectors`` is the plain
twin it is tested against. Keys are numbers the caller gave; nothing here knows what they stand for.
"""

from __future__ import annotations

from threading import RLock
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from memory.errors import ConflictError, DimensionMismatchError

Keys = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.bool_]
"""A bitmap over keys, shape (keys,): ``key`` may be found when ``allowed[key]``; keys beyond its end may
not.
"""

_faiss: Any = faiss  # its stubs know the C++ constructors only, not the Python ones
_DECIMALS = 6
_SPARE = 32
_MOST_TIES = 1024


class VectorIndex(Protocol):
    """Unit vectors under keys. Safe to share between threads."""

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        """Add rows, shape (rows, dimension), under new keys ≥ 0; ``ConflictError`` if one is held."""

    def remove(self, keys: npt.ArrayLike) -> int:
        """Take rows out, unknown keys ignored; return how many went."""

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        """Return (keys, inner products rounded to 6 decimals), best first, for a query of shape (dimension,).

        Rows that tie with the last come along, up to ``limit`` + 1,024; ties stand in key order. The filter
        is exact.
        """

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        """Return the inner product of each held key, shape (keys,); -1.0 for a key not held."""

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        """Return the vectors of keys, all of which must be held; shape (keys, dimension)."""


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
        new, rows = _checked(keys, vectors, self._dimension)
        with self._lock:
            _refuse_held(new, self._held)
            if len(new):
                self._index.add_with_ids(rows, new)
            self._held.update(new.tolist())

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            going = self._held.intersection(_as_keys(keys).tolist())
            if going:
                self._index.remove_ids(np.array(sorted(going), dtype=np.int64))
            self._held -= going
            return len(going)

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = _checked_query(query, self._dimension)
        with self._lock:
            depth = limit + _SPARE
            while limit > 0 and self._held:
                keys = self._nearest(wanted, min(depth, len(self._held)), allowed)
                scores = self._scored(wanted, keys)
                whole = len(keys) < depth
                if whole or scores.min() < np.sort(scores)[-limit] or len(keys) >= limit + _MOST_TIES:
                    return _best(keys, scores, limit)
                depth *= 4
        return _best(np.empty(0, np.int64), np.empty(0), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted, asked = _checked_query(query, self._dimension), _as_keys(keys)
        with self._lock:
            held = np.array([key in self._held for key in asked.tolist()], dtype=np.bool_)
            scores = np.full(len(asked), -1.0)
            scores[held] = self._scored(wanted, asked[held])
        return scores

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        asked = _as_keys(keys)
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
        return _products(self._rows(keys), query)

    def _rows(self, keys: Keys) -> Matrix:
        if len(keys) == 0:
            return np.empty((0, self._dimension), dtype=np.float32)
        rows: Matrix = self._index.reconstruct_batch(keys)
        return rows


class NumpyVectors:
    """The plain twin: one dictionary, one loop. For tests and small tenants."""

    def __init__(self, dimension: int) -> None:
        self._rows: dict[int, npt.NDArray[np.float32]] = {}
        self._dimension = dimension
        self._lock = RLock()

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        new, rows = _checked(keys, vectors, self._dimension)
        with self._lock:
            _refuse_held(new, self._rows.keys())
            self._rows.update(zip(new.tolist(), rows.copy(), strict=True))

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(_as_keys(keys).tolist()))

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = _checked_query(query, self._dimension)
        with self._lock:
            keys = [
                key for key in self._rows if allowed is None or (key < len(allowed) and bool(allowed[key]))
            ]
            candidates = np.array(keys, dtype=np.int64)
            return _best(candidates, _products(self.rows(candidates), wanted), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted = _checked_query(query, self._dimension)
        with self._lock:
            return np.array(
                [
                    float(_products(self._rows[key][None], wanted)[0]) if key in self._rows else -1.0
                    for key in _as_keys(keys).tolist()
                ],
                dtype=np.float64,
            )

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        with self._lock:
            held = [self._rows[key] for key in _as_keys(keys).tolist()]
        return np.array(held, dtype=np.float32).reshape(len(held), self._dimension)


def _as_keys(keys: npt.ArrayLike) -> Keys:
    return np.asarray(keys, dtype=np.int64).reshape(-1)


def _checked(keys: npt.ArrayLike, vectors: Matrix, dimension: int) -> tuple[Keys, Matrix]:
    new = _as_keys(keys)
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[-1] if rows.ndim else 0)
    if len(new) != len(rows) or len(np.unique(new)) != len(new) or bool((new < 0).any()):
        raise ConflictError(f"{len(rows)} rows need as many distinct non-negative keys")
    return new, rows


def _refuse_held(new: Keys, held: Any) -> None:
    for key in new.tolist():
        if key in held:
            raise ConflictError(f"key {key} is held already")


def _checked_query(query: npt.NDArray[np.float32], dimension: int) -> npt.NDArray[np.float32]:
    flat = np.ascontiguousarray(query, dtype=np.float32).reshape(-1)
    if flat.shape[0] != dimension:
        raise DimensionMismatchError(dimension, flat.shape[0])
    return flat


def _products(rows: Matrix, query: npt.NDArray[np.float32]) -> Scores:
    """Products of single precision are exact in double; the sum's last bits are rounded off."""
    scores: Scores = np.round(rows.astype(np.float64) @ query.astype(np.float64), _DECIMALS)
    return scores + 0.0  # -0.0 becomes 0.0


def _best(keys: Keys, scores: Scores, limit: int) -> tuple[Keys, Scores]:
    order = np.lexsort((keys, -scores))
    keys, scores = keys[order], scores[order]
    if 0 < limit < len(keys):
        with_ties = int(np.count_nonzero(scores >= scores[limit - 1]))
        limit = min(with_ties, limit + _MOST_TIES)
    return keys[: max(limit, 0)], scores[: max(limit, 0)]
