"""Codes come from a rotation, the same everywhere, and tell angles apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.codes import encode_codes, hamming, rotate
from memory.errors import DimensionMismatchError


def unit_rows(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(dimension=st.integers(1, 200))
def test_the_rotation_is_orthonormal(dimension):
    matrix = rotate(np.eye(dimension, dtype=np.float32))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-5)


@given(seed=st.integers(0, 10**6))
def test_the_rotation_keeps_inner_products(seed):
    vectors = unit_rows(8, 384, seed)
    rotated = rotate(vectors)
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, atol=1e-5)


def test_the_rotation_spreads_one_coordinate_over_all():
    """Otherwise a code bit would depend on few coordinates and say little."""
    matrix = np.abs(rotate(np.eye(384, dtype=np.float32)))
    assert matrix.max() < 0.35
    assert (matrix > 1e-6).mean() > 0.95


def test_codes_are_the_same_on_every_machine():
    """Stored codes must be comparable with those of another machine: the bits are pinned."""
    grid = (np.arange(5 * 384, dtype=np.int64) * 7919 % 1009 - 504).reshape(5, 384).astype(np.float32)
    digest = hashlib.sha256(encode_codes(grid).tobytes()).hexdigest()
    assert digest == "decc35cb3c4a8179c74a71f3b2ffddd0c1033468548a06ef3a34d195ee81a5ac"


def test_a_code_depends_on_its_own_row_only():
    vectors = unit_rows(20, 96)
    together = encode_codes(vectors)
    assert all(np.array_equal(encode_codes(vectors[i : i + 1])[0], together[i]) for i in range(20))


@pytest.mark.parametrize("dimension", [5, 32, 100, 384])
def test_hamming_counts_differing_bits(dimension):
    codes = encode_codes(unit_rows(50, dimension))
    assert codes.shape == (50, -(-dimension // 8))
    bits = np.unpackbits(codes, axis=1)
    assert hamming(codes[3], codes).tolist() == (bits != bits[3]).sum(axis=1).tolist()
    assert hamming(codes[3:4], codes)[3] == 0


def test_hamming_follows_the_angle():
    """The share of differing bits estimates angle / pi (sign projections, Charikar 2002)."""
    base, other = unit_rows(1, 384, 1)[0], unit_rows(1, 384, 2)[0]
    other = other - (other @ base) * base
    other /= np.linalg.norm(other)
    angles = np.linspace(0.1, np.pi - 0.1, 40)
    turned = (np.cos(angles)[:, None] * base + np.sin(angles)[:, None] * other).astype(np.float32)
    share = hamming(encode_codes(base[None]), encode_codes(turned)) / 384
    assert np.abs(share - angles / np.pi).max() < 0.12
    assert np.corrcoef(share, angles)[0, 1] > 0.98


def test_codes_of_different_lengths_are_refused():
    with pytest.raises(DimensionMismatchError):
        hamming(encode_codes(unit_rows(1, 64)), encode_codes(unit_rows(3, 128)))
