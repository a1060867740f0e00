"""The torch index where tests of all kinds do not look: its selection, its storage, and on a GPU its twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.codes import encode_codes, hamming
from retrieval import torch_vectors
from retrieval.torch_vectors import TorchVectors, compare_codes, multiply_rows
from retrieval.vectors import NumpyVectors, digest_index

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def unit_rows(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=200, deadline=None)
@given(figures=st.lists(st.integers(-5, 5), min_size=1, max_size=60), depth=st.integers(1, 70))
def test_the_kth_greatest_is_what_sorting_says(figures, depth):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_vectors, "_GROUP", 4)
        found = torch_vectors._kth(torch.tensor(figures, dtype=torch.int16), depth)
    assert int(found) == sorted(figures, reverse=True)[:depth][-1]


@pytest.mark.parametrize("dimension", [8, 24, 100, 384])
def test_codes_differ_in_as_many_bits_as_the_plain_count_says(dimension):
    codes = encode_codes(unit_rows(50, dimension))
    words = torch.from_numpy(torch_vectors._as_words(codes))
    assert (-compare_codes(words, words[3])).tolist() == hamming(codes[3], codes).tolist()


def test_what_is_reranked_does_not_depend_on_history(monkeypatch):
    """Codes of few bits tie by the hundred: which of them are looked at again must not follow their places."""
    monkeypatch.setattr(torch_vectors, "RERANKED", 20)
    monkeypatch.setattr(torch_vectors, "_WIDER", 1)
    rows = unit_rows(900, 8)
    one, other = (TorchVectors(8, device="cpu", encode=encode_codes) for _ in range(2))
    one.add(np.arange(900), rows)
    one.remove(np.arange(0, 900, 3))
    kept = np.setdiff1d(np.arange(900), np.arange(0, 900, 3))[::-1]
    for start in range(0, len(kept), 100):
        other.add(kept[start : start + 100], rows[kept[start : start + 100]])
    for query in unit_rows(30, 8, seed=1):
        answers = [[part.tolist() for part in index.search(query, limit=5)] for index in (one, other)]
        assert answers[0] == answers[1]


def test_blocks_and_gathering_change_no_answer(monkeypatch):
    """Scans in many blocks, and filters on either side of the line between gathering and masking."""
    rows, query = unit_rows(700, 16), unit_rows(1, 16, seed=1)[0]
    plain = NumpyVectors(16)
    plain.add(np.arange(700), rows)
    monkeypatch.setattr(torch_vectors, "_BLOCK", {"cpu": 64, "cuda": 64})
    index = TorchVectors(16, device="cpu", room=10)
    index.add(np.arange(700), rows)
    for allowed in (20, 174, 176, 500):
        bits = np.arange(900) < allowed
        got, expected = (each.search(query, limit=30, allowed=bits) for each in (index, plain))
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]
    assert index.score(query, np.arange(700)).tolist() == plain.score(query, np.arange(700)).tolist()


def test_single_precision_is_not_taken_at_its_word():
    """Rows that differ by less than a sum in single precision is exact to come in their true order."""
    row = unit_rows(1, 384)[0].astype(np.float16)
    rows = np.repeat(row[None], 400, axis=0)
    for place in range(1, 400):
        rows[place, place % 384] = np.nextafter(rows[place, place % 384], np.float16(place % 2 * 2 - 1))
    index, plain = TorchVectors(384, device="cpu"), NumpyVectors(384)
    for each in (index, plain):
        each.add(np.arange(400), rows.astype(np.float32))
    query = unit_rows(1, 384, seed=5)[0]
    for limit in (1, 10, 100):
        got, expected = (each.search(query, limit=limit) for each in (index, plain))
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]


@pytest.mark.parametrize("kept", [0, 5, 60, 99])
def test_nothing_of_a_removed_row_stays_in_the_storage(kept):
    """Neither where it stood nor behind the end, in rows, codes or keys, nor after growing."""
    rows = unit_rows(100, 16).astype(np.float16)
    index = TorchVectors(16, device="cpu", encode=encode_codes)
    before = index._storages()
    index.add(np.arange(1, 101), rows.astype(np.float32))
    first = index._storages()
    going = np.random.default_rng(kept).permutation(100)[kept:]
    index.remove(going + 1)
    for storage in index._storages():
        assert len(storage[kept:].nonzero()) == 0
    assert not set(index._keys.tolist()) & set((going + 1).tolist())
    held = index._matrix.numpy().tobytes()
    assert not any(rows[place].tobytes() in held for place in going)
    index.add(np.arange(200, 400), unit_rows(200, 16, seed=2))
    assert index._storages()[0] is not first[0]
    for storage in (*before, *first):
        assert len(storage.nonzero()) == 0


def test_rows_of_an_unknown_key_are_refused():
    index = TorchVectors(4, device="cpu")
    with pytest.raises(KeyError):
        index.rows([3])
    assert index.score(np.ones(4, np.float32), [-1, 3]).tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("device", "encode"),
    [
        pytest.param("cpu", None, id="cpu, rows"),
        pytest.param("cuda", None, id="cuda, rows", marks=on_gpu),
        pytest.param("cuda", encode_codes, id="cuda, codes", marks=on_gpu),
    ],
)
def test_a_device_answers_as_the_processor_does(device, encode):
    """Many rows, after removals: the exact scan as the plain twin, the scan of codes as on the processor."""
    rows = unit_rows(20_000, 384)
    index = TorchVectors(384, device=device, encode=encode)
    twin = NumpyVectors(384) if encode is None else TorchVectors(384, device="cpu", encode=encode)
    for each in (index, twin):
        each.add(np.arange(20_000), rows)
        each.remove(np.arange(0, 20_000, 9))
    assert digest_index(index) == digest_index(twin)
    for number, query in enumerate(rows[:8] + 0.5 * rows[8:16]):
        allowed = np.random.default_rng(number).random(20_000) < (1.0, 0.5, 0.1, 0.001)[number % 4]
        got, expected = (each.search(query, limit=10, allowed=allowed) for each in (index, twin))
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("count", "dimension"), [(1, 24), (64, 384), (1000, 100), (4097, 1024)])
def test_kernels_do_what_the_plain_scans_do(count, dimension):
    from retrieval import torch_kernels

    rows = torch.from_numpy(unit_rows(count, dimension)).half().cuda()
    query = torch.from_numpy(unit_rows(1, dimension, seed=1)[0]).cuda()
    scores = torch_kernels.multiply_rows(rows, query, torch.empty(count, device="cuda"))
    assert float((scores - multiply_rows(rows, query)).abs().max()) < dimension * 2.0**-24
    words = torch.from_numpy(torch_vectors._as_words(encode_codes(rows.float().cpu().numpy()))).cuda()
    found = torch_kernels.compare_codes(words, words[0], torch.empty(count, dtype=torch.int16, device="cuda"))
    assert torch.equal(found, compare_codes(words, words[0]))
