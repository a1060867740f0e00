"""Tiers against the plain twin: what is found is scored exactly, what went is nowhere, files tell no history."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.codes import rotate
from memory.errors import ConflictError, CorruptionError
from retrieval import coded
from retrieval.faiss_vectors import Codes
from retrieval.segments import as_stored, write_segment
from retrieval.tiered import TieredVectors, list_files, write_tiered
from retrieval.vectors import NumpyVectors, digest_index

DIMENSION = 32
CODED = 64


def vectors(keys) -> np.ndarray:
    rows = np.array(
        [np.random.default_rng(int(key) % 700).standard_normal(DIMENSION) for key in keys], np.float32
    ).reshape(-1, DIMENSION)
    return as_stored(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def make(keys=()) -> TieredVectors:
    index = TieredVectors(DIMENSION, rotate=rotate, coded_rows=CODED)
    index.add(sorted(keys), vectors(sorted(keys)))
    return index


def reload(index: TieredVectors, folder) -> TieredVectors:
    return TieredVectors.load(folder, index.save(folder), rotate=rotate, coded_rows=CODED)


KEYS = st.sets(st.integers(0, 900), max_size=300)


@settings(max_examples=60, deadline=None)
@given(saved=KEYS, removed=KEYS, added=KEYS, allowed=st.none() | KEYS, limit=st.integers(1, 30))
def test_agrees_with_the_plain_twin(tmp_path_factory, saved, removed, added, allowed, limit):
    """With so few rows everything admitted is compared, so the answers are equal, not about equal."""
    folder = tmp_path_factory.mktemp("tiers")
    index, twin = reload(make(saved), folder), NumpyVectors(DIMENSION)
    twin.add(sorted(saved), vectors(sorted(saved)))
    for each in (index, twin):
        assert each.remove(sorted(removed)) == len(saved & removed)
        fresh = sorted(added - (saved - removed))
        each.add(fresh, vectors(fresh))
    bitmap = None
    if allowed is not None:
        bitmap = np.zeros(800, np.bool_)
        bitmap[[key for key in allowed if key < 800]] = True
    query = vectors([7])[0]
    assert [part.tolist() for part in index.search(query, limit=limit, allowed=bitmap)] == [
        part.tolist() for part in twin.search(query, limit=limit, allowed=bitmap)
    ]
    asked = [*sorted(saved | added), 5000]
    assert index.score(query, asked).tolist() == twin.score(query, asked).tolist()
    assert digest_index(index) == digest_index(twin)
    assert len(index) == len(twin)


@settings(max_examples=30, deadline=None)
@given(kept=KEYS, gone=KEYS, early=KEYS)
def test_files_are_a_function_of_what_is_there(tmp_path_factory, kept, gone, early):
    straight, crooked = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("crooked")
    name = make(kept).save(straight)
    index = make(gone | (kept & early))
    index = reload(index, crooked)
    index.remove(sorted(gone - kept))
    late = sorted(kept - set(index.keys().tolist()))
    index.add(late, vectors(late))
    index = reload(index, crooked)
    assert index.save(crooked) == name
    for file in list_files(straight, name):
        assert (straight / file).read_bytes() == (crooked / file).read_bytes()


def test_a_held_key_is_refused(tmp_path):
    index = reload(make(range(100)), tmp_path)
    with pytest.raises(ConflictError):
        index.add([40], vectors([1]))
    index.remove([40])
    index.add([40], vectors([1]))
    assert index.rows([40]).tolist() == vectors([1]).tolist()
    assert len(index) == 100


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 vectors in weak clusters, of 64 dimensions, in codes; half of the keys are odd numbers left out."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((50, 64))
    rows = centres[random.integers(0, 50, 20_300)] + 1.5 * random.standard_normal((20_300, 64))
    rows = as_stored((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    rows, queries = rows[300:], rows[:300]
    keys = np.arange(20_000) * 2
    folder = tmp_path_factory.mktemp("many")
    parts = [rows[:7000], rows[7000:7001], rows[7001:]]
    name = write_tiered(folder, 64, keys, parts, rotate=rotate)
    return folder, name, keys, rows, queries


def recall(index, queries, keys, rows, allowed=None):
    mine = np.ones(len(keys), np.bool_) if allowed is None else allowed[keys]
    found = 0
    for query in queries:
        truth = keys[mine][np.argsort(-(rows[mine] @ query), kind="stable")[:10]]
        found += len(np.intersect1d(truth, index.search(query, limit=10, allowed=allowed)[0][:10]))
    return found / (10 * len(queries))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_what_is_near_is_found_under_any_filter(many, share):
    folder, name, keys, rows, queries = many
    index = TieredVectors.load(folder, name, rotate=rotate)
    allowed = None if share == 1.0 else np.random.default_rng(2).random(40_000) < share
    assert recall(index, queries, keys, rows, allowed) >= 0.97


def test_what_is_found_is_admitted_held_and_scored_exactly(many):
    folder, name, keys, rows, queries = many
    index = TieredVectors.load(folder, name, rotate=rotate)
    gone = keys[::3]
    index.remove(gone)
    allowed = np.random.default_rng(3).random(39_000) < 0.7
    for query in queries[:50]:
        found, scores = index.search(query, limit=40, allowed=allowed)
        assert len(found) == 40
        assert not np.isin(found, gone).any()
        assert allowed[found].all()
        assert scores.tolist() == index.score(query, found).tolist()
    assert recall(index, queries, np.setdiff1d(keys, gone), np.delete(rows, np.s_[::3], axis=0)) >= 0.97


def test_all_is_found_when_all_is_asked_for(many):
    folder, name, keys, _, queries = many
    index = TieredVectors.load(folder, name, rotate=rotate)
    found, _ = index.search(queries[0], limit=20_000)
    assert sorted(found.tolist()) == keys.tolist()


def test_cells_that_are_far_need_not_be_looked_through(many, monkeypatch):
    """A quarter of the rows holds nearly all that is near, of an eighth of them two thirds and more."""
    folder, name, keys, rows, queries = many
    looked_through = []
    search = Codes.search

    def counting(codes, turned, cells, **options):
        looked_through.append(codes.sizes[cells].sum() / len(rows))
        return search(codes, turned, cells, **options)

    monkeypatch.setattr(Codes, "search", counting)
    monkeypatch.setattr(coded, "LEAST_SCANNED", 1)
    index = TieredVectors.load(folder, name, rotate=rotate)
    found = []
    for share in (1 / 8, 1 / 4):
        monkeypatch.setattr(coded, "SHARE", share)
        looked_through.clear()
        found.append(recall(index, queries, keys, rows))
        assert share <= np.mean(looked_through) < 1.2 * share
    assert found[0] >= 0.67
    assert found[1] >= 0.85
    half = np.random.default_rng(4).random(40_000) < 0.5
    assert recall(index, queries, keys, rows, half) >= 0.85


@pytest.mark.parametrize("which", ["rows", "bytes", "codes", "names"])
@pytest.mark.parametrize("damage", ["torn", "flipped", "missing"])
def test_damage_is_noticed(many, tmp_path, which, damage):
    source, name, *_ = many
    folder = tmp_path / "copy"
    shutil.copytree(source, folder)
    files = list_files(folder, name)
    path = folder / {"names": files[0], "rows": files[2], "bytes": files[-2], "codes": files[-1]}[which]
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "torn" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises((CorruptionError, FileNotFoundError)):
        TieredVectors.load(folder, name, rotate=rotate)


def test_files_of_another_format_are_told_as_damaged(tmp_path):
    """So that who clears away what nobody names goes on, and they are remade."""
    about = {"kind": "tiered", "dimension": 8, "files": [], "codes": "ab.codes"}
    name = write_segment(tmp_path, about, {"keys": np.arange(20)})
    with pytest.raises(CorruptionError, match="another format"):
        list_files(tmp_path, name)
    with pytest.raises(CorruptionError):
        TieredVectors.load(tmp_path, name, rotate=rotate)
