"""The kinds of vector index that the contract tests run over: to add one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from embedding.codes import encode_codes, rotate
from retrieval.faiss_vectors import FlatVectors
from retrieval.segments import as_stored
from retrieval.tiered import TieredVectors
from retrieval.torch_vectors import TorchVectors
from retrieval.vectors import NumpyVectors, VectorIndex

DIMENSION = 24
CONTENTS = 50


@dataclass(frozen=True)
class Kind:
    """A name, and how one is made and opened. An approximate kind may miss rows, but not mis-score them."""

    name: str
    make: Callable[[int], VectorIndex]
    load: Callable[[Path, str], VectorIndex]
    exact: bool = True
    rows_alone: bool = True
    """Whether it saves what any kind can open."""

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind("numpy", NumpyVectors, NumpyVectors.load),
    Kind("faiss flat", FlatVectors, FlatVectors.load),
    Kind(
        "tiered",
        partial(TieredVectors, rotate=rotate, coded_rows=32),
        partial(TieredVectors.load, rotate=rotate, coded_rows=32),
        exact=False,
        rows_alone=False,
    ),
    Kind("torch", partial(TorchVectors, device="cpu"), partial(TorchVectors.load, device="cpu")),
    Kind(
        "torch codes",
        partial(TorchVectors, device="cpu", encode=encode_codes),
        partial(TorchVectors.load, device="cpu", encode=encode_codes),
        exact=False,
    ),
]


@cache
def vector(content: int) -> np.ndarray:
    """Return the unit vector of one of the contents, the same for those 50 apart; shape (DIMENSION,)."""
    row = np.random.default_rng(content % CONTENTS).standard_normal(DIMENSION).astype(np.float32)
    return as_stored(row / np.linalg.norm(row))


def matrix(contents) -> np.ndarray:
    """Return vectors of contents; shape (contents, DIMENSION)."""
    return np.array([vector(content) for content in contents], np.float32).reshape(-1, DIMENSION)


def bitmap(allowed) -> np.ndarray:
    """Return keys as the port's filter; it ends with the last that is allowed."""
    bits = np.zeros(max(allowed, default=-1) + 1, dtype=np.bool_)
    bits[list(allowed)] = True
    return bits
