"""Milvus behind the port, against a real server: what every kind promises, and what its files still hold."""

from __future__ import annotations

import time
from functools import partial
from itertools import count

import numpy as np
import pytest

from memory.errors import DimensionMismatchError, UnavailableError
from retrieval.engine_residue import Compacted, Retention, state_residue
from retrieval.vectors import NumpyVectors, digest_index
from tests import milvus
from tests.index_kinds import DIMENSION, Kind, matrix, vector
from tests.retrieval.test_index_histories import play

needs_milvus = pytest.mark.skipif(milvus.missing() is not None, reason=str(milvus.missing()))
LATE_SECONDS = 60.0


@pytest.fixture(scope="module")
def server():
    with milvus.serve() as running:
        yield running


@pytest.fixture(scope="module")
def kind(server):
    """An index kind whose indexes each have a collection of their own, dropped at the end."""
    from retrieval.milvus_vectors import MilvusVectors

    numbers, made = count(), []

    def opened(make, *args):
        collection = f"lethe_test_{time.time_ns()}_{next(numbers)}"
        made.append(make(*args, address=server.address, collection=collection))
        return made[-1]

    yield Kind("milvus", partial(opened, MilvusVectors), partial(opened, MilvusVectors.load))
    for index in made:
        index.drop()
        index.close()


def unit_rows(rows: int, dimension: int) -> np.ndarray:
    made = np.random.default_rng(rows).standard_normal((rows, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@needs_milvus
@pytest.mark.timeout(900)
def test_histories_leave_what_never_knowing_would(kind):
    """Fewer and shorter than other kinds': each step waits for the engine."""
    play(kind, histories=6, steps=12)


@needs_milvus
@pytest.mark.parametrize("few", [10_000, 300])
def test_filters_and_depth_change_no_answer(kind, monkeypatch, few):
    """Named keys, passing over, and naming in parts: each finds what the plain twin finds."""
    from retrieval import milvus_vectors

    monkeypatch.setattr(milvus_vectors, "_FEW", few)
    rows = unit_rows(3000, 64)
    index, plain = kind.make(64), NumpyVectors(64)
    if few == 300:
        index._most = 500
    for each in (index, plain):
        each.add(np.arange(3000), rows)
        each.remove(np.arange(0, 3000, 5))
    assert index.keys().tolist() == plain.keys().tolist()
    for share in (None, 0.9, 0.5, 0.15, 0.01):
        allowed = None if share is None else np.random.default_rng(2).random(2500) < share
        for query in rows[:2] + 0.5 * rows[2:4]:
            got, expected = (each.search(query, limit=20, allowed=allowed) for each in (index, plain))
            assert [part.tolist() for part in got] == [part.tolist() for part in expected]


@needs_milvus
def test_a_graph_finds_most_of_the_nearest_however_many_are_asked_for(server):
    from retrieval.milvus_vectors import MilvusVectors

    rows, plain = unit_rows(3000, 64), NumpyVectors(64)
    index = MilvusVectors(
        64,
        address=server.address,
        collection=f"lethe_graph_{time.time_ns()}",
        index_type="HNSW",
        index_params={"M": 32, "efConstruction": 200},
        search_params={"ef": 64},
    )
    for each in (index, plain):
        each.add(np.arange(3000), rows)
    index._client.flush(index._collection)
    for limit in (10, 700):
        query = rows[0] + 0.5 * rows[2]
        got, expected = (each.search(query, limit=limit) for each in (index, plain))
        shared = set(got[0].tolist()) & set(expected[0].tolist())
        assert len(got[0]) >= limit
        assert len(shared) >= 0.9 * limit
    index.drop()
    index.close()


@needs_milvus
def test_keys_too_large_for_a_bitmap_are_searched_by_what_admits_them(kind):
    """As many are passed over as it takes, or all are named."""
    rows = unit_rows(3000, 64)
    names = np.sort(np.random.default_rng(5).integers(0, 1 << 63, 3000))
    index, plain = kind.make(64), NumpyVectors(64)
    index.put(names, rows)
    plain.add(names, rows)
    assert index.find([*names[:2], 5]).tolist() == names[:2].tolist()
    for most, share in ((16_384, 0.5), (16_384, 0.02), (200, 0.1)):
        index._most = most
        admitted = names[np.random.default_rng(6).random(3000) < share]
        query = rows[0] + 0.5 * rows[2]
        got = index.search_where(
            query,
            limit=20,
            admits=lambda keys, admitted=admitted: np.isin(keys, admitted),
            list_admitted=lambda admitted=admitted: admitted,
            share=share,
        )
        alone = NumpyVectors(64)
        alone.add(admitted, plain.rows(admitted))
        expected = alone.search(query, limit=20)
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]


@needs_milvus
def test_another_process_sees_what_was_written(server, kind):
    """Nothing is kept in the client: a second one reads, at once, what the first wrote and removed."""
    from retrieval.milvus_vectors import MilvusVectors

    index = kind.make(DIMENSION)
    other = MilvusVectors(DIMENSION, address=server.address, collection=index._collection)
    index.add([1, 2, 3], matrix([1, 2, 3]))
    assert other.search(vector(2), limit=1)[0].tolist() == [2]
    index.remove([2])
    assert 2 not in other.search(vector(2), limit=9)[0].tolist()
    assert digest_index(other) == digest_index(index)
    other.close()
    with pytest.raises(DimensionMismatchError):
        MilvusVectors(DIMENSION + 1, address=server.address, collection=index._collection)


@needs_milvus
def test_compaction_rewrites_what_holds_removed_rows(server, kind):
    """Removed rows stay in live segments until compaction, then in superseded files until they are collected."""
    rows = unit_rows(4000, 384)
    index = kind.make(384)
    index.add(np.arange(4000), rows)
    index._client.flush(index._collection)
    (before,) = index._segments()
    index.remove([7, 8])
    assert sum(segment.num_rows for segment in index._segments()) == 4000  # the mark is no erasure
    compacted = index.compact(timeout_seconds=LATE_SECONDS)
    assert (compacted.rows, compacted.rewritten) == (3998, 1)
    assert index.compact(timeout_seconds=LATE_SECONDS).rows == 3998  # again, with nothing to do
    if server.files is None:
        return
    (now,) = index._segments()
    late = time.monotonic() + LATE_SECONDS
    while _files_of(server.files, before):
        assert time.monotonic() < late, "garbage collection does not delete what was rewritten"
        time.sleep(0.5)
    assert _files_of(server.files, now)  # so files of a segment are where they are looked for
    # What the statement says of the log is so: hence it is said.
    part = rows[7].astype(np.float16).astype(np.float32)[100:110].tobytes()
    assert any(part in path.read_bytes() for path in (server.files / "rocksmq").iterdir())


def _files_of(files, segment) -> list[str]:
    return [path.name for path in files.glob(f"*_log/*/*/{segment.segment_id}/**/*") if path.is_file()]


@needs_milvus
def test_silence_is_unavailable():
    from retrieval.milvus_vectors import MilvusVectors

    with pytest.raises(UnavailableError):
        MilvusVectors(8, address="http://127.0.0.1:1", collection="nowhere")


def test_the_statement_assures_no_more_than_was_checked():
    compacted = Compacted(version="v2.3.5", segments=3, rows=12, rewritten=1, seconds=2.0)
    known = state_residue(compacted, Retention(garbage_seconds=60, log_seconds=120))
    assert "3 live segments store 12 rows" in str(known["assured"])
    assert " 60 s after the compaction" in str(known["not_assured"])
    assert " 120 s after the write" in str(known["not_assured"])
    unknown = state_residue(compacted, Retention(log_seconds=None))
    assert "which is not known" in str(unknown["not_assured"])
    assert unknown["garbage_seconds"] == 14_400.0
