"""Vectors in tiers: codes to find candidates (``retrieval.coded``), half-precision rows to score them.

What was saved is immutable files that all processes map: the rows, and their codes. What came
since lies beside them in memory and is compared whole, as are small sets; what went is left out of every
search until the next save writes files without it. Nothing here knows what keys stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Self

import numpy as np
import numpy.typing as npt

from memory.errors import ConflictError, CorruptionError
from memory.values import JsonValue
from retrieval.coded import ERRORS, CodedRows, write_coded
from retrieval.faiss_vectors import FlatVectors
from retrieval.segments import read_segment, write_segment
from retrieval.vectors import (
    Allowed,
    Keys,
    Matrix,
    Rotate,
    Scores,
    Searcher,
    as_keys,
    best,
    checked_query,
    products,
    widen,
)

CODED_ROWS = 16_384
"""From so many rows on there are codes; fewer are compared whole in about a millisecond."""
FILE_ROWS = 1 << 16
"""So many rows a file, where the caller does not say where files begin."""
_KIND = "tiered"
_BLOCK = 8192
_SINGLY = 256
"""So few rows are fetched one by one: faster than file by file."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Half-precision rows in files one after another, mapped. Row ``i`` counts through all of them."""

    starts: npt.NDArray[np.int64]
    files: tuple[npt.NDArray[np.float16], ...]
    dimension: int

    def __len__(self) -> int:
        return int(self.starts[-1])

    def get(self, places: Keys) -> Matrix:
        """Return rows by place, shape (places, dimension)."""
        if len(self.files) == 1:
            return widen(np.take(self.files[0], places, axis=0))
        if 0 < len(places) <= _SINGLY:
            of = np.searchsorted(self.starts, places, "right") - 1
            within = (places - self.starts[of]).tolist()
            return widen(np.array([self.files[f][at] for f, at in zip(of.tolist(), within, strict=True)]))
        found = np.empty((len(places), self.dimension), np.float16)
        of = np.searchsorted(self.starts, places, "right") - 1
        for at in np.unique(of).tolist():
            mine = np.flatnonzero(of == at)
            found[mine] = np.take(self.files[at], places[mine] - self.starts[at], axis=0)
        return widen(found)


class TieredVectors:
    """Codes in memory, rows on disk, what is new beside them. Safe to share between threads.

    Searches are approximate where there are codes: among the rows that are near by their codes, all that
    could be among the best are scored exactly.
    """

    def __init__(self, dimension: int, *, rotate: Rotate, coded_rows: int = CODED_ROWS) -> None:
        self.errors = ERRORS
        self.searcher: Searcher | None = None
        """Searches what is saved in place of the codes, where they would be; to be set before any search."""
        self._dimension = dimension
        self._rotate = rotate
        self._coded_rows = coded_rows
        self._new = FlatVectors(dimension)
        self._saved = np.empty(0, np.int64)
        self._is_dense = True
        self._left = np.empty(0, np.bool_)
        self._gone = 0
        self._rows = Rows(np.zeros(1, np.int64), (), dimension)
        self._codes: CodedRows | None = None
        self._lock = RLock()

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        return len(self._saved) - self._gone + len(self._new)

    @property
    def has_codes(self) -> bool:
        """Whether what is saved is searched through codes; else it is in memory whole."""
        return self._codes is not None

    @property
    def new_rows(self) -> int:
        """Return how many rows are in memory whole: what is new, or all of a small set."""
        return len(self._new)

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        new = as_keys(keys)
        with self._lock:
            _, held = self._places(new)
            if held.any():
                raise ConflictError(f"key {int(new[held][0])} is held already")
            self._new.add(new, vectors)

    def remove(self, keys: npt.ArrayLike) -> int:
        going = np.unique(as_keys(keys))
        with self._lock:
            places, held = self._places(going)
            left = self._left.copy()  # searches under way keep the one they took
            left[places[held]] = False
            self._left = left
            self._gone += int(held.sum())
            return int(held.sum()) + self._new.remove(going)

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = checked_query(query, self._dimension)
        with self._lock:
            codes, rows, saved, new = self._codes, self._rows, self._saved, self._new
            open_rows = self._open_rows(allowed)
        keys, scores = new.search(wanted, limit=limit, allowed=allowed)
        if codes is None or limit < 1:
            return keys, scores
        places = self._find(codes, wanted, limit, open_rows)
        near = rows.get(places)
        exact = products(near, wanted)
        found = places if self._is_dense else saved[places]
        return best(np.concatenate([keys, found]), np.concatenate([scores, exact]), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted, asked = checked_query(query, self._dimension), as_keys(keys)
        with self._lock:
            places, held = self._places(asked)
            rows, new = self._rows, self._new
        scores = np.empty(len(asked))
        scores[held] = products(rows.get(places[held]), wanted)
        scores[~held] = new.score(wanted, asked[~held])
        return scores

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        asked = as_keys(keys)
        with self._lock:
            places, held = self._places(asked)
            found = np.empty((len(asked), self._dimension), np.float32)
            found[held] = self._rows.get(places[held])
            found[~held] = self._new.rows(asked[~held])
        return found

    def keys(self) -> Keys:
        with self._lock:
            return np.union1d(self._saved[self._left], self._new.keys())

    def save(self, folder: Path) -> str:
        with self._lock:
            keys = self.keys()
            ends = [*range(0, len(keys), FILE_ROWS), len(keys)]
            matrices = (self.rows(keys[start:end]) for start, end in pairwise(ends))
            return write_tiered(
                folder, self._dimension, keys, matrices, rotate=self._rotate, coded_rows=self._coded_rows
            )

    @classmethod
    def load(cls, folder: Path, name: str, *, rotate: Rotate, coded_rows: int = CODED_ROWS) -> Self:
        segment = read_segment(folder / name)
        about = segment.about
        if about.get("kind") != _KIND:
            raise CorruptionError(f"{name}: holds no tiered vectors")
        dimension = int(str(about["dimension"]))
        files = tuple(
            read_segment(folder / file, scattered=True).arrays["rows"] for file in _names(about["files"])
        )
        index = cls(dimension, rotate=rotate, coded_rows=coded_rows)
        saved = segment.arrays["keys"]
        rows = Rows(np.cumsum([0, *(len(file) for file in files)]), files, dimension)
        if len(rows) != len(saved):
            raise CorruptionError(f"{name}: {len(saved)} keys for {len(rows)} rows")
        if about["codes"] is None:
            for start in range(0, len(saved), _BLOCK):
                part = np.arange(start, min(len(saved), start + _BLOCK))
                index._new.add(saved[part], rows.get(part))
            return index
        index._codes = CodedRows(folder, _names(about["codes"]), rotate)
        index._rows, index._saved = rows, saved
        index._left = np.ones(len(saved), np.bool_)
        index._is_dense = bool(len(saved) == 0 or saved[-1] == len(saved) - 1)
        return index

    def _places(self, keys: Keys) -> tuple[Keys, npt.NDArray[np.bool_]]:
        """Return where keys stand among the saved rows, and which of them do."""
        if len(self._saved) == 0:
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        if self._is_dense:
            held = (keys >= 0) & (keys < len(self._saved))
            places = np.where(held, keys, 0)
        else:
            places = np.minimum(np.searchsorted(self._saved, keys), len(self._saved) - 1)
            held = self._saved[places] == keys
        return places, held & self._left[places]

    def _open_rows(self, allowed: Allowed | None) -> Allowed | None:
        """Return the bitmap over the saved rows of those that may be found; ``None`` for all of them."""
        if allowed is None:
            return self._left if self._gone else None
        count = len(self._saved)
        if self._is_dense:
            known = np.zeros(count, np.bool_) if len(allowed) < count else allowed[:count]
            if len(allowed) < count:
                known[: len(allowed)] = allowed
        else:
            within = self._saved < len(allowed)
            known = np.zeros(count, np.bool_)
            known[within] = allowed[self._saved[within]]
        return known & self._left if self._gone else known

    def _find(
        self, codes: CodedRows, query: npt.NDArray[np.float32], limit: int, allowed: Allowed | None
    ) -> Keys:
        """Return the places of saved rows that may be among the best."""
        if self.searcher is None or codes.compares_all(limit, allowed):
            return codes.find(query, limit=limit, errors=self.errors, allowed=allowed)
        return self.searcher.search(query, limit=limit, allowed=allowed)[0]


def write_tiered(
    folder: Path,
    dimension: int,
    keys: Keys,
    matrices: Iterable[npt.NDArray[np.floating]],
    *,
    rotate: Rotate,
    coded_rows: int = CODED_ROWS,
) -> str:
    """Write ascending keys and their rows, one file for each of ``matrices``, and codes where they are many.

    Returns the name of the segment that names them all; the same keys, rows and files give the same name.
    """
    names = [
        write_segment(folder, {"kind": "rows"}, {"rows": np.asarray(matrix, np.float16)})
        for matrix in matrices
    ]
    files = [read_segment(folder / name).arrays["rows"] for name in names]

    def blocks() -> Iterator[npt.NDArray[np.float16]]:
        for file in files:
            for start in range(0, len(file), _BLOCK):
                yield file[start : start + _BLOCK]

    codes: list[JsonValue] | None = None
    if len(keys) >= coded_rows:
        codes = [*write_coded(folder, dimension, rotate, blocks)]
    about: dict[str, JsonValue] = {
        "kind": _KIND,
        "dimension": dimension,
        "files": list(names),
        "codes": codes,
    }
    return write_segment(folder, about, {"keys": keys.astype(np.int64)})


def list_files(folder: Path, name: str) -> Sequence[str]:
    """Return the names of all files that a saved index is made of, its own among them."""
    about = read_segment(folder / name).about
    return [name, *_names(about["files"]), *_names(about["codes"] or [])]


def _names(files: JsonValue) -> list[str]:
    if not isinstance(files, list):
        raise CorruptionError(f"{files}: files of another format")
    return [str(file) for file in files]
