"""Binary codes of vectors: one bit a dimension, the sign after a fixed rotation.

The rotation knows no data, so forgetting has nothing to undo in it: signs drawn from SHAKE-256, and fast
Walsh-Hadamard transforms (the structured rotations of Andoni et al. 2015, as RaBitQ uses them, Gao & Long
2024). It is made of additions, subtractions and one scale, element by element, so every machine gets the same
codes.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

from memory.errors import DimensionMismatchError
from memory.ports import Vectors

Codes = npt.NDArray[np.uint8]
"""Packed sign bits, shape (rows, ceil(dimension / 8)); the bits beyond the dimension are zero."""

ROUNDS = 4
_BLOCK = 256


def rotate(vectors: Vectors) -> Vectors:
    """Return the rows after the fixed orthonormal rotation of their dimension; shape (rows, dimension).

    A transform needs a power of two: in other dimensions it takes head and tail by turns, overlapping.
    """
    dimension = vectors.shape[1]
    rotated = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        rotated[block] = _rotated(np.ascontiguousarray(vectors[block].T, np.float32), dimension).T
    return rotated


def encode_codes(vectors: Vectors) -> Codes:
    """Return one packed code a row, shape (rows, ceil(dimension / 8))."""
    return np.packbits(rotate(vectors) > 0, axis=1)


def hamming(query: Codes, codes: Codes) -> npt.NDArray[np.int64]:
    """Return in how many bits each of ``codes`` differs from ``query``, one code.

    The share of differing bits estimates the angle between the vectors, as a share of a half turn.
    Raises ``DimensionMismatchError`` (in bytes) when the codes are of different lengths.
    """
    width = codes.shape[1]
    if query.size != width:
        raise DimensionMismatchError(width, query.size)
    word = np.uint64 if width % 8 == 0 else np.uint8
    different = np.ascontiguousarray(codes).view(word) ^ np.ascontiguousarray(query).reshape(1, width).view(
        word
    )
    distances: npt.NDArray[np.int64] = np.bitwise_count(different).sum(axis=1, dtype=np.int64)
    return distances


@cache
def _signs(dimension: int) -> Vectors:
    """Return the random signs of all rounds, shape (ROUNDS, dimension)."""
    stream = hashlib.shake_256(f"lethe rotation {dimension}".encode()).digest(ROUNDS * dimension)
    odd = np.frombuffer(stream, dtype=np.uint8).reshape(ROUNDS, dimension) & 1
    return np.where(odd, -1, 1).astype(np.float32)


def _rotated(columns: Vectors, dimension: int) -> Vectors:
    """Rotate columns, shape (dimension, columns): side by side they are added whole, and stay in cache."""
    width = 1 << (dimension.bit_length() - 1)
    rotated = columns.copy()
    for number, signs in enumerate(_signs(dimension)):
        rotated *= signs[:, None]
        start = 0 if number % 2 == 0 else dimension - width
        block = rotated[start : start + width]
        block[:] = _hadamard(block)
    return rotated


def _hadamard(columns: Vectors) -> Vectors:
    """Return the columns' orthonormal Walsh-Hadamard transform; their length is a power of two."""
    width = len(columns)
    here, there = columns.copy(), np.empty_like(columns)
    half = 1
    while half < width:
        pairs = here.reshape(width // (2 * half), 2, half, -1)
        made = there.reshape(pairs.shape)
        np.add(pairs[:, 0], pairs[:, 1], out=made[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=made[:, 1])
        here, there = there, here
        half *= 2
    return here * np.float32(width**-0.5)
