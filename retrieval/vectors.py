"""Nearest neighbours by inner product: the port, and the plain index that every other kind is tested against.

Whatever a kind looks through to find candidates, it scores them again in double precision from the same
half-precision rows, so that a row's score depends neither on where it stands nor on the kind. Filters act
inside the search. Keys are numbers the caller gave; nothing here knows what they stand for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from pathlib import Path
from threading import RLock
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from memory.errors import ConflictError, CorruptionError, DimensionMismatchError
from retrieval.segments import as_stored, read_segment, write_segment

Keys = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.bool_]
"""A bitmap over keys, shape (keys,): ``key`` may be found when ``allowed[key]``; keys beyond its end may
not.
"""

Rotate = Callable[[Matrix], Matrix]
"""A fixed orthonormal rotation of rows, shape (rows, dimension), that knows no data (``embedding.codes``)."""

MOST_TIES = 1024
_DECIMALS = 6
_SIGN_AND_NUMBER = np.int32(-0x70000001)
"""All bits but those between the sign and a half-precision number shifted into its place."""
_BIAS = np.float32(2.0 ** (127 - 15))
_DIGEST_ROWS = 8192


class VectorIndex(Protocol):
    """Unit vectors under keys. Safe to share between threads."""

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        """Add rows, shape (rows, dimension), under new keys ≥ 0; ``ConflictError`` if one is held.

        They are kept in half precision.
        """

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

    def keys(self) -> Keys:
        """Return all keys held, ascending."""

    def save(self, folder: Path) -> str:
        """Write what is held into ``folder``; return the name it can be loaded by.

        The same rows under the same keys give the same name and the same bytes, whatever came and went.
        """

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Open what ``save`` wrote; ``CorruptionError`` when it is torn or altered."""


class Searcher(Protocol):
    """What ``TieredVectors`` may ask instead of its codes: the saved rows, under their places 0, 1, 2 …

    Every ``VectorIndex`` filled so is one. What it finds is scored again from the files.
    """

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        """Return (places, inner products), best first, ties with the last among them."""


def digest_index(index: VectorIndex) -> str:
    """Return the sha256 of what an index holds: keys, ascending, and rows; equal for every kind."""
    digest = hashlib.sha256(f"{index.dimension}\n".encode())
    keys = index.keys()
    for start in range(0, len(keys), _DIGEST_ROWS):
        part = keys[start : start + _DIGEST_ROWS]
        digest.update(part.astype("<i8").tobytes())
        digest.update(index.rows(part).astype("<f2").tobytes())
    return digest.hexdigest()


def save_rows(index: VectorIndex, folder: Path) -> str:
    """Write keys and rows into one segment: ``save`` of the kinds that need no more than these."""
    keys = index.keys()
    arrays: dict[str, npt.NDArray[Any]] = {"keys": keys, "rows": index.rows(keys).astype(np.float16)}
    return write_segment(folder, {"kind": "vectors", "dimension": index.dimension}, arrays)


def load_rows(folder: Path, name: str) -> tuple[int, Keys, npt.NDArray[np.float16]]:
    """Return dimension, keys and rows of a segment that ``save_rows`` wrote."""
    segment = read_segment(folder / name)
    if segment.about.get("kind") != "vectors":
        raise CorruptionError(f"{name}: holds no vectors")
    keys, rows = segment.arrays["keys"], segment.arrays["rows"]
    return int(rows.shape[1]), np.asarray(keys, np.int64), rows


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
        new, rows = checked_rows(keys, vectors, self._dimension)
        with self._lock:
            refuse_held(new, self._rows.keys())
            self._rows.update(zip(new.tolist(), rows.copy(), strict=True))

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(as_keys(keys).tolist()))

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = checked_query(query, self._dimension)
        with self._lock:
            keys = [
                key for key in self._rows if allowed is None or (key < len(allowed) and bool(allowed[key]))
            ]
            candidates = np.array(keys, dtype=np.int64)
            return best(candidates, products(self.rows(candidates), wanted), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted = checked_query(query, self._dimension)
        with self._lock:
            return np.array(
                [
                    float(products(self._rows[key][None], wanted)[0]) if key in self._rows else -1.0
                    for key in as_keys(keys).tolist()
                ],
                dtype=np.float64,
            )

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        with self._lock:
            held = [self._rows[key] for key in as_keys(keys).tolist()]
        return np.array(held, dtype=np.float32).reshape(len(held), self._dimension)

    def keys(self) -> Keys:
        with self._lock:
            return np.array(sorted(self._rows), dtype=np.int64)

    def save(self, folder: Path) -> str:
        with self._lock:
            return save_rows(self, folder)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        dimension, keys, rows = load_rows(folder, name)
        index = cls(dimension)
        index.add(keys, widen(rows))
        return index


def as_keys(keys: npt.ArrayLike) -> Keys:
    """Return keys as a flat array."""
    return np.asarray(keys, dtype=np.int64).reshape(-1)


def checked_rows(keys: npt.ArrayLike, vectors: Matrix, dimension: int) -> tuple[Keys, Matrix]:
    """Return new keys and their rows as they are kept; raise unless they fit each other and the dimension."""
    new = as_keys(keys)
    rows = as_stored(np.ascontiguousarray(vectors, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[-1] if rows.ndim else 0)
    if len(new) != len(rows) or len(np.unique(new)) != len(new) or bool((new < 0).any()):
        raise ConflictError(f"{len(rows)} rows need as many distinct non-negative keys")
    return new, rows


def refuse_held(new: Keys, held: Container[int]) -> None:
    """Raise ``ConflictError`` when one of the keys is held."""
    for key in new.tolist():
        if key in held:
            raise ConflictError(f"key {key} is held already")


def checked_query(query: npt.NDArray[np.float32], dimension: int) -> npt.NDArray[np.float32]:
    """Return a query of shape (dimension,); raise ``DimensionMismatchError`` when it is not one."""
    flat = np.ascontiguousarray(query, dtype=np.float32).reshape(-1)
    if flat.shape[0] != dimension:
        raise DimensionMismatchError(dimension, flat.shape[0])
    return flat


def widen(rows: npt.NDArray[np.float16]) -> Matrix:
    """Return half-precision rows in single precision, exactly, several times as fast as ``astype`` does.

    The bits are moved to where single precision has them, and the exponent's bias is made up for by a product
    (finite numbers only).
    """
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_NUMBER
    wide = bits.view(np.float32)
    wide *= _BIAS
    return wide


def products(rows: Matrix, query: npt.NDArray[np.float32]) -> Scores:
    """Return inner products, shape (rows,), each the same whatever rows stand beside it.

    Products of single precision are exact in double; the sum's last bits are rounded off.
    """
    return as_scores(np.vecdot(rows.astype(np.float64), query.astype(np.float64)))


def as_scores(sums: Scores) -> Scores:
    """Return sums made in double precision, in whatever order, as they are told."""
    scores: Scores = np.round(sums, _DECIMALS)
    return scores + 0.0  # -0.0 becomes 0.0


def best(keys: Keys, scores: Scores, limit: int) -> tuple[Keys, Scores]:
    """Return the best ``limit``, ties in key order, with up to 1,024 that tie with the last."""
    order = np.lexsort((keys, -scores))
    keys, scores = keys[order], scores[order]
    if 0 < limit < len(keys):
        with_ties = int(np.count_nonzero(scores >= scores[limit - 1]))
        limit = min(with_ties, limit + MOST_TIES)
    return keys[: max(limit, 0)], scores[: max(limit, 0)]
