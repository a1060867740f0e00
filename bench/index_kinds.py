"""What the index bench asks of an index, and Lethe's own kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bench.index_data import DIMENSION, Keys, Matrix
from embedding.codes import rotate
from retrieval.faiss_vectors import FlatVectors
from retrieval.tiered import FILE_ROWS, TieredVectors, list_files, write_tiered
from retrieval.vectors import VectorIndex

BATCH = 10_000
"""Rows handed over at once while building."""


class NotOfferedError(Exception):
    """The index has no such operation."""


class Kind(ABC):
    """An index in a folder of its own: built there, opened by another process, searched, changed.

    Keys are 0, 1, 2 ... Every row has a bucket (0 to 999); a search with a ``bound`` may find rows whose
    bucket is below it. Methods raise ``NotOfferedError`` where the index has no such thing.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    about: ClassVar[str]
    """How it is set up: every parameter that is not its default."""
    settings: ClassVar[tuple[int, ...]]
    """Values of the one knob that trades speed for recall, least accurate first."""
    exact: ClassVar[bool] = False
    filters: ClassVar[bool] = True

    def __init__(self, folder: Path, *, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        self.folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def build(self, rows: Matrix, buckets: Keys) -> None:
        """Index all rows, shape (rows, 384), under keys 0 ... and keep it in the folder."""

    @abstractmethod
    def open(self) -> None:
        """Make what the folder holds ready to be searched."""

    @abstractmethod
    def prepare(self, setting: int, bound: int | None) -> None:
        """Set what stays the same for many searches. Not timed."""

    @abstractmethod
    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        """Return the keys found, best first, at most ``limit``."""

    @abstractmethod
    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        """Add rows that the next search can find."""

    @abstractmethod
    def remove(self, keys: Keys) -> None:
        """Take rows out."""

    @abstractmethod
    def settle(self) -> None:
        """Write everything to the folder after the compaction that the index offers, if any."""

    def close(self) -> None:
        """Let go of everything; what runs beside it ends."""
        self.__dict__.pop("index", None)

    def processes(self) -> list[int]:
        """Return the ids of processes that serve the index besides this one."""
        return []


class _Lethe(Kind):
    """Any kind behind Lethe's port."""

    index: VectorIndex

    package = "lethe"

    @abstractmethod
    def empty(self) -> VectorIndex: ...

    @abstractmethod
    def load(self, name: str) -> VectorIndex: ...

    def build(self, rows: Matrix, buckets: Keys) -> None:
        self.index = self.empty()
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            self.index.add(np.arange(start, start + len(part)), part)
        self.settle()
        np.save(self.folder / "buckets.npy", buckets.astype(np.int16))

    def open(self) -> None:
        self.index = self.load((self.folder / "name").read_text())
        self.buckets = np.load(self.folder / "buckets.npy")

    def prepare(self, setting: int, bound: int | None) -> None:
        # The service has such a bitmap at hand: it is made once and kept until the catalog changes.
        self.allowed = None if bound is None else self.buckets < bound

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        return self.index.search(query, limit=limit, allowed=self.allowed)[0][:limit]

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        self.index.add(keys, rows)

    def remove(self, keys: Keys) -> None:
        self.index.remove(keys)

    def settle(self) -> None:
        name = self.index.save(self.folder)
        marker = self.folder / "name"
        before = marker.read_text() if marker.exists() else name
        marker.write_text(name)
        if before != name:  # the store drops the segment that no manifest names any more
            (self.folder / before).unlink(missing_ok=True)


class LetheFlat(_Lethe):
    """Every row compared, single precision in RAM."""

    name = "lethe flat"
    about = "FlatVectors: exact, every row compared; fp16 on disk, fp32 in RAM"
    settings = (0,)
    exact = True

    def empty(self) -> VectorIndex:
        return FlatVectors(DIMENSION)

    def load(self, name: str) -> VectorIndex:
        return FlatVectors.load(self.folder, name)


class LetheTiered(_Lethe):
    """One-bit codes to find, half-precision rows on disk to score."""

    name = "lethe tiered"
    about = (
        "TieredVectors: one bit a dimension in cells, one byte a dimension, fp16 rows mapped from files; the "
        "setting is how many tenths of a standard error of a code's estimate make a row worth a look"
    )
    settings = (3, 6, 9, 12, 14, 16, 20, 25)
    index: TieredVectors

    def empty(self) -> VectorIndex:
        return TieredVectors(DIMENSION, rotate=rotate)

    def load(self, name: str) -> VectorIndex:
        return TieredVectors.load(self.folder, name, rotate=rotate)

    def build(self, rows: Matrix, buckets: Keys) -> None:
        blocks = (rows[start : start + FILE_ROWS] for start in range(0, len(rows), FILE_ROWS))
        name = write_tiered(self.folder, DIMENSION, np.arange(len(rows)), blocks, rotate=rotate)
        (self.folder / "name").write_text(name)
        np.save(self.folder / "buckets.npy", buckets.astype(np.int16))

    def prepare(self, setting: int, bound: int | None) -> None:
        super().prepare(setting, bound)
        self.index.errors = setting / 10

    def settle(self) -> None:
        # What the store does at a compaction: files without what went, mapped in place of those before.
        name = self.index.save(self.folder)
        (self.folder / "name").write_text(name)
        self.index = TieredVectors.load(self.folder, name, rotate=rotate)
        kept = {"name", "buckets.npy", *list_files(self.folder, name)}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()


LETHE: tuple[type[Kind], ...] = (LetheFlat, LetheTiered)
