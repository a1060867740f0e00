"""What searches saved rows instead of their codes: the same hits, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest

from embedding.codes import rotate
from memory.errors import UnavailableError
from retrieval import coded
from retrieval.segments import as_stored
from retrieval.tiered import TieredVectors
from retrieval.torch_vectors import TorchVectors, fill
from retrieval.vectors import NumpyVectors

DIMENSION, ROWS, NEW = 32, 1500, 40


def unit_rows(seed: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return as_stored(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def make_tiered(keys, rows) -> TieredVectors:
    index = TieredVectors(DIMENSION, rotate=rotate, coded_rows=64)
    index.add(keys, rows)
    return index


def by_numpy(index: TieredVectors) -> NumpyVectors:
    plain = NumpyVectors(DIMENSION)
    plain.add(np.arange(ROWS), index.rows(np.arange(ROWS)))
    return plain


def by_torch(index: TieredVectors) -> TorchVectors:
    return fill(index.rows, ROWS, DIMENSION, "cpu")


@pytest.mark.parametrize("make", [by_numpy, by_torch])
def test_every_searcher_finds_what_comparing_all_finds(make, tmp_path, monkeypatch):
    """Saved rows, some of them removed, beside new ones; with filters that allow much and little."""
    monkeypatch.setattr(coded, "FEW", 20)
    name = make_tiered(np.arange(ROWS), unit_rows(1, ROWS)).save(tmp_path)
    index = TieredVectors.load(tmp_path, name, rotate=rotate, coded_rows=64)
    index.searcher = make(index)
    plain = NumpyVectors(DIMENSION)
    plain.add(np.arange(ROWS), unit_rows(1, ROWS))
    for each in (index, plain):
        each.add(np.arange(ROWS, ROWS + NEW), unit_rows(2, NEW))
        each.remove(np.arange(0, ROWS + NEW, 9))
    random = np.random.default_rng(3)
    for share in (None, 0.9, 0.3, 0.03):
        allowed = None if share is None else random.random(ROWS + NEW) < share
        for query in unit_rows(4, 8):
            for limit in (1, 10, 300):
                got, expected = (each.search(query, limit=limit, allowed=allowed) for each in (index, plain))
                assert [part.tolist() for part in got] == [part.tolist() for part in expected]
    # Files are none of the searcher's.
    assert index.save(tmp_path) == make_tiered(plain.keys(), plain.rows(plain.keys())).save(tmp_path)


def test_small_sets_are_compared_in_memory_whatever_searches(tmp_path):
    """No way to an engine is as short."""
    name = make_tiered(np.arange(10), unit_rows(1, 10)).save(tmp_path)
    index = TieredVectors.load(tmp_path, name, rotate=rotate, coded_rows=64)

    class Nobody:
        def search(self, query, *, limit, allowed=None):
            raise AssertionError("asked")

    index.searcher = Nobody()
    assert index.search(unit_rows(1, 10)[3], limit=1)[0].tolist() == [3]


def test_a_device_without_room_says_so(monkeypatch):
    import torch

    def refuse(self, keys, vectors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TorchVectors, "add", refuse)
    with pytest.raises(UnavailableError, match="no room for 5 vectors"):
        fill(lambda keys: unit_rows(1, len(keys)), 5, DIMENSION, "cpu")
