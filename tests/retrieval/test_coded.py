"""Codes in cells: what bits and bytes tell is as good as is said, and files are the same wherever written."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedding.codes import rotate
from memory.errors import CorruptionError
from retrieval import coded
from retrieval.coded import CodedRows, write_coded
from retrieval.faiss_vectors import Codes, write_codes


def unit(rows, dimension, seed):
    drawn = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def turn(rows):
    return rotate(rows)


@pytest.mark.parametrize("dimension", [20, 64, 384])
@pytest.mark.parametrize("allowed", [None, 0.3])
def test_bits_add_up_the_query_by_signs(tmp_path, dimension, allowed):
    """Each row is in its cell alone, with the estimate that its signs give, off by the tables' eight bits."""
    rows, query = turn(unit(500, dimension, 1)), turn(unit(1, dimension, 2))[0]
    cells = np.random.default_rng(3).integers(0, 7, 500).astype(np.int32)
    cells[cells == 4] = 5  # an empty one
    name = write_codes(tmp_path, dimension, np.packbits(rows > 0, axis=1, bitorder="little"), cells, 8)
    codes = Codes(tmp_path / name)
    assert codes.sizes.tolist() == np.bincount(cells, minlength=8).tolist()
    bitmap = None if allowed is None else np.random.default_rng(4).random(500) < allowed
    asked = np.array([1, 3, 4, 6])
    places, estimates = codes.search(query, asked, count=500, allowed=bitmap)
    admitted = np.isin(cells, asked) if bitmap is None else np.isin(cells, asked) & bitmap
    assert sorted(places.tolist()) == np.flatnonzero(admitted).tolist()
    assert (np.diff(estimates) <= 0).all()
    exact = np.where(rows > 0, 1, -1) @ query * (np.pi / 2 / dimension) ** 0.5
    assert np.abs(estimates - exact[places]).max() < 0.03
    few, best = codes.search(query, asked, count=5, allowed=bitmap)
    assert best.tolist() == estimates[:5].tolist()
    assert len(few) == 5


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    rows = unit(6_000, 96, 5)
    rows[17] = 0.0
    names = write_coded(folder, 96, rotate, lambda: [rows[:2_000], rows[2_000:]])
    return folder, names, rows


def test_an_estimate_is_off_by_no_more_than_it_says(stored):
    folder, names, rows = stored
    index = CodedRows(folder, names, rotate)
    for query in unit(20, 96, 6):
        low, high = index._estimate(np.arange(len(rows)), query @ rotate(np.eye(96, dtype=np.float32)))
        exact = rows @ query
        outside = (exact < low - 1e-6) | (exact > high + 1e-6)
        assert outside.mean() < 0.001
        assert (high - low).mean() < 0.02


def test_blocks_and_order_of_writing_change_no_byte(stored, tmp_path):
    folder, names, rows = stored
    assert write_coded(tmp_path, 96, rotate, lambda: [rows[:1], rows[1:4_321], rows[4_321:]]) == names
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_what_is_left_over_is_few_and_holds_the_best(stored):
    """So that a dozen or two are read in half precision, not hundreds."""
    folder, names, rows = stored
    index = CodedRows(folder, names, rotate)
    left, held = [], []
    for query in unit(100, 96, 7):
        found = index.find(query, limit=10, errors=3.0)
        left.append(len(found))
        held.append(np.isin(np.argsort(-(rows @ query), kind="stable")[:10], found).mean())
    assert np.mean(held) > 0.98
    assert np.mean(left) < 20


def test_threads_find_what_one_finds(stored, monkeypatch):
    folder, names, rows = stored
    monkeypatch.setattr(coded, "FEW", 20)
    monkeypatch.setattr(coded, "LEAST_SCANNED", 2_000)
    index = CodedRows(folder, names, rotate)
    allowed = np.random.default_rng(8).random(len(rows)) < 0.4
    asked = [(query, bitmap) for query in unit(60, 96, 9) for bitmap in (None, allowed)]

    def find(one):
        return index.find(one[0], limit=10, allowed=one[1]).tolist()

    alone = list(map(find, asked))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(find, asked)) == alone


def test_a_filter_may_admit_only_what_is_far_from_the_query(tmp_path):
    """As "of another project": what is nearest of that is found, not what is near of nothing."""
    random = np.random.default_rng(10)
    topics = unit(100, 64, 11)
    of = random.integers(0, 100, 60_000)
    rows = topics[of] + 0.08 * random.standard_normal((60_000, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = CodedRows(tmp_path, write_coded(tmp_path, 64, rotate, lambda: [rows]), rotate)
    held = []
    for topic in range(20):
        query = rows[np.flatnonzero(of == topic)[0]]
        far = np.argsort(topics @ topics[topic])[: random.integers(5, 80)]
        allowed = np.isin(of, far)
        assert allowed.sum() > coded.FEW
        best = np.argsort(np.where(allowed, -(rows @ query), np.inf), kind="stable")[:10]
        found = index.find(query, limit=10, allowed=allowed)
        assert allowed[found].all()
        held.append(np.isin(best, found).mean())
    assert np.mean(held) > 0.9


def test_as_many_are_found_as_are_asked_for(stored, monkeypatch):
    folder, names, _ = stored
    monkeypatch.setattr(coded, "LEAST_SCANNED", 100)
    index = CodedRows(folder, names, rotate)
    query = unit(1, 96, 12)[0]
    assert len(index.find(query, limit=2_500)) >= 2_500
    assert len(index.find(np.zeros(96, np.float32), limit=10)) >= 10


def test_the_same_row_over_and_over_can_be_written(tmp_path):
    """None of few different rows may be among those that cells are fitted to."""
    for seed in range(3):
        rows = np.repeat(unit(1, 16, seed), 70_000, axis=0)
        index = CodedRows(tmp_path, write_coded(tmp_path, 16, rotate, lambda rows=rows: [rows]), rotate)
        assert len(index.find(rows[0], limit=10)) >= 10


def test_codes_of_other_rows_are_refused(stored, tmp_path):
    folder, names, rows = stored
    others = write_coded(folder, 96, rotate, lambda: [rows[:3_000]])
    with pytest.raises(CorruptionError, match="holds other rows"):
        CodedRows(folder, [names[0], others[1]], rotate)
