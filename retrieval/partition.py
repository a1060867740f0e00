"""Cells of near vectors, as a pure function of the vectors that are there: so a search need not look at all.

Leaders are chosen by a hash of the content, every vector joins the leader it is nearest to, and the cells'
means are what searches and final cells go by (one step of Lloyd's algorithm, or more). Nothing is drawn,
nothing depends on order or history, and a vector that goes leaves nothing behind.

All arithmetic is on whole numbers small enough to be exact in single precision, so that a matrix product
gives the same bits in any order, batch and library. Nothing here knows ids, files or searches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.float32]
"""Vectors in whole steps, shape (rows, dimension)."""
Hashes = npt.NDArray[np.uint64]
"""One a row, evenly spread, of the row's content alone."""
Cells = npt.NDArray[np.int32]
"""Which cell each row is in, shape (rows,)."""

ONE = 4000
"""A unit's length in steps. By Cauchy and Schwarz no partial sum of a product of two vectors of this length
exceeds 2**24, the last whole number up to which single precision knows them all."""

_BLOCK = 1 << 24
"""So many products are held at a time."""


def as_steps(vectors: npt.NDArray[np.floating]) -> Steps:
    """Return unit vectors, shape (rows, dimension), rounded to whole steps."""
    # Half precision times the steps is exact in single precision: 11 bits by 12.
    wide = vectors.astype(np.float32 if vectors.dtype == np.float16 else np.float64)
    steps: Steps = np.rint(wide * ONE).astype(np.float32)
    return steps


def hash_rows(steps: Steps) -> Hashes:
    """Return a hash of each row's content."""
    rows = np.ascontiguousarray(steps.astype("<i2"))
    digests = b"".join(hashlib.sha256(row).digest()[:8] for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def leader_bits(rows: int) -> int:
    """Return how many leading zero bits make a leader.

    Cells become about a thousand, and between one and three roots of the rows.
    """
    length = rows.bit_length()
    return max(0, min(max(length // 2 - 1, length - 10), length // 2))


def choose_leaders(hashes: Hashes, bits: int) -> npt.NDArray[np.intp]:
    """Return the rows that lead, one of equal contents, ordered by hash; at least one where there is any."""
    order = np.argsort(hashes, kind="stable")
    first = np.ones(len(order), np.bool_)
    first[1:] = hashes[order][1:] != hashes[order][:-1]
    distinct = order[first]
    leading = hashes[distinct] >> np.uint64(64 - bits) == 0 if bits else np.ones(len(distinct), np.bool_)
    return distinct[leading] if leading.any() else distinct[:1]


def assign(steps: Steps, centroids: Steps) -> tuple[Cells, npt.NDArray[np.float32]]:
    """Return each row's nearest centroid (the first of equals) and their inner product, exact."""
    cells = np.empty(len(steps), np.int32)
    products = np.empty(len(steps), np.float32)
    for part in _parts(len(steps), len(centroids)):
        near = steps[part] @ centroids.T
        cells[part] = near.argmax(axis=1)
        products[part] = near[np.arange(len(near)), cells[part]]
    return cells, products


def add_cells(steps: Steps, cells: Cells, count: int) -> npt.NDArray[np.int64]:
    """Return the exact sum of each cell's rows, shape (count, dimension)."""
    sums = np.zeros((count, steps.shape[1]), np.int64)
    order = np.argsort(cells, kind="stable")
    held, starts = np.unique(cells[order], return_index=True)
    # In double precision these sums are exact up to 2**53, and reduceat wants one array.
    for part in _parts(len(held), steps.shape[1] * max(1, len(steps) // max(1, len(held)))):
        first = starts[part.start]
        last = starts[part.stop] if part.stop < len(starts) else len(order)
        rows = steps[order[first:last]].astype(np.float64)
        sums[held[part]] = np.add.reduceat(rows, starts[part] - first, axis=0).astype(np.int64)
    return sums


def centre(sums: npt.NDArray[np.int64]) -> Steps:
    """Return the directions of sums in whole steps; of a sum of nothing, zeros.

    Every operation is rounded correctly by IEEE 754 and none adds up, but for whole numbers.
    """
    largest = np.abs(sums).max(axis=1, initial=0)
    # Scaled so that squares add up exactly.
    scaled = np.rint(sums / np.maximum(largest, 1)[:, None] * (1 << 20)).astype(np.int64)
    lengths = np.sqrt((scaled * scaled).sum(axis=1).astype(np.float64))
    directions: Steps = np.rint(scaled / np.maximum(lengths, 1.0)[:, None] * ONE).astype(np.float32)
    return directions


def make_cells(
    steps: Steps, hashes: Hashes, *, bits: int | None = None, rounds: int = 1
) -> tuple[Steps, Cells]:
    """Return the cells' centroids, and each row's cell, after ``rounds`` of Lloyd's steps from the leaders.

    A centroid that nobody is nearest to stays, in its place.
    """
    if not len(steps):
        return steps, np.empty(0, np.int32)
    leaders = choose_leaders(hashes, leader_bits(len(steps)) if bits is None else bits)
    centroids = steps[leaders]
    cells, _ = assign(steps, centroids)
    for _ in range(rounds):
        centroids = _move(centroids, add_cells(steps, cells, len(centroids)))
        cells, _ = assign(steps, centroids)
    return centroids, cells


def _move(centroids: Steps, sums: npt.NDArray[np.int64]) -> Steps:
    moved = centroids.copy()
    held = np.flatnonzero(sums.any(axis=1))
    moved[held] = centre(sums[held])
    return moved


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
