"""FAISS's copy on a GPU: kept in step with the rows, whatever comes and goes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from retrieval import faiss_vectors
from retrieval.faiss_vectors import GpuFlatVectors, count_gpus
from retrieval.vectors import NumpyVectors
from tests.index_kinds import Kind
from tests.retrieval.test_index_histories import play

KIND = Kind("faiss gpu", GpuFlatVectors, GpuFlatVectors.load)
needs_gpu = pytest.mark.skipif(count_gpus() == 0, reason="needs a CUDA device and the extra [gpu]")


class NoDevice:
    """What FAISS offers on a GPU, on the processor."""

    StandardGpuResources = object

    @staticmethod
    def GpuIndexFlatIP(resources, dimension):
        return faiss.IndexFlatIP(dimension)

    def __getattr__(self, name):
        return getattr(faiss, name)


def test_the_copy_follows_every_history(monkeypatch):
    """On the processor in the device's place: this is about the copy, not about the device."""
    monkeypatch.setattr(faiss_vectors, "_faiss", NoDevice())
    monkeypatch.setattr(faiss_vectors, "_MOST_ON_GPU", 60)
    play(KIND, histories=150, steps=20)


@pytest.mark.gpu
@needs_gpu
def test_histories_on_the_device():
    play(KIND, histories=100, steps=20)


@pytest.mark.gpu
@needs_gpu
def test_the_device_answers_as_the_plain_twin_does():
    rows = np.random.default_rng(0).standard_normal((20_000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index, plain = GpuFlatVectors(384), NumpyVectors(384)
    for each in (index, plain):
        each.add(np.arange(20_000), rows)
    for query in rows[:5] + 0.5 * rows[5:10]:
        got, expected = (each.search(query, limit=10) for each in (index, plain))
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]
