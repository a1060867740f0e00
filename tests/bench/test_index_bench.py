"""The parts of the index bench: true neighbours, recall, dimension, memory, traces, and a whole small run."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from bench import index, index_child, index_data
from bench.index_data import (
    find_nearest,
    in_blocks,
    load_set,
    local_dimension,
    synthetic_block,
    synthetic_blocks,
)
from bench.index_figures import best_peers, qps_at, ram_at, recall, summarise
from bench.index_kinds import LetheFlat
from bench.index_memory import cached_bytes, disk_bytes, drop_cache, find_traces, read_memory

MIB = 1 << 20


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _point(at: float, speed: float, ram: float = 1.0) -> dict[str, object]:
    return {"recall@10": at, "qps": {"median": speed}, "ram_mib": ram}


def test_neighbours_are_exact_across_blocks_and_under_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_data, "BLOCK", 64)
    drawn = np.random.default_rng(0)
    rows, queries = _unit(drawn.standard_normal((300, 16))), _unit(drawn.standard_normal((7, 16)))
    keys, products = find_nearest(in_blocks(rows), queries, 10)
    assert np.array_equal(keys, np.argsort(-(queries @ rows.T), axis=1)[:, :10])
    assert np.allclose(products, -np.sort(-(queries @ rows.T), axis=1)[:, :10], atol=1e-6)
    allowed = drawn.random(300) < 0.5
    keys, _ = find_nearest(in_blocks(rows), queries, 10, allowed)
    masked = np.where(allowed, queries @ rows.T, -9)
    assert np.array_equal(keys, np.argsort(-masked, axis=1)[:, :10])
    few = np.zeros(300, bool)
    few[[3, 200, 299]] = True
    assert sorted(find_nearest(in_blocks(rows), queries, 10, few)[0][0].tolist()) == [3, 200, 299]


def test_recall_counts_what_was_found_and_ties_with_the_last() -> None:
    rows = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0.6, -0.8], [0, 1]], np.float32)
    query = np.array([[1, 0]], np.float32)
    _, products = find_nearest(in_blocks(rows), query, 3)
    assert recall([np.array([0, 1, 2])], products, query, rows) == 1
    assert recall([np.array([0, 1, 3])], products, query, rows) == 1  # as near as row 2
    assert recall([np.array([0, 4, 1])], products, query, rows) == pytest.approx(2 / 3)
    assert recall([np.array([0, 0, 0])], products, query, rows) == pytest.approx(1 / 3)
    assert recall([np.array([], np.int64)], products, query, rows) == 0
    assert recall([np.array([4, 0, 1, 2])], products, query, rows) == pytest.approx(
        2 / 3
    )  # the fourth is late


@pytest.mark.parametrize("dimension", [3, 8])
def test_local_dimension_of_a_known_one(dimension: int) -> None:
    # A small piece of a sphere of that dimension: 20,000 points around each query, evenly.
    drawn = np.random.default_rng(1)
    rows = np.zeros((20_000, 32))
    rows[:, : dimension + 1] = drawn.standard_normal((20_000, dimension + 1))
    queries = np.zeros((100, 32))
    queries[:, : dimension + 1] = drawn.standard_normal((100, dimension + 1))
    _, products = find_nearest([_unit(rows)], _unit(queries), 100)
    assert local_dimension(products) == pytest.approx(dimension, rel=0.12)


def test_synthetic_rows_are_the_same_in_any_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_data, "BLOCK", 50)
    small, large = np.vstack(list(synthetic_blocks(120))), np.vstack(list(synthetic_blocks(200)))
    assert small.shape == (120, 384)
    assert np.array_equal(small, large[:120])
    assert np.allclose(np.linalg.norm(large, axis=1), 1, atol=1e-6)
    assert not np.array_equal(synthetic_block(0, 50), synthetic_block(1, 50))


def test_memory_counts_cached_files_once_and_not_those_apart(tmp_path: Path) -> None:
    own, apart = tmp_path / "own", tmp_path / "apart"
    for folder in (own, apart):
        folder.mkdir()
        (folder / "rows").write_bytes(os.urandom(8 * MIB))
    drop_cache(tmp_path)
    if cached_bytes(own):
        pytest.skip("this file system does not drop its cache")
    before = read_memory([os.getpid()], own, apart=[apart])
    assert before.files == 0
    assert disk_bytes(own) >= 8 * MIB
    maps = []
    for folder in (own, apart):
        with (folder / "rows").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        maps.append(mapped)
        assert sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE)) > 0
    held = mmap.mmap(-1, 4 * MIB)
    held.write(b"x" * (4 * MIB))
    after = read_memory([os.getpid()], own, apart=[apart])
    assert after.files == 8 * MIB
    # Libraries count by a share, which is smaller with every other process that comes to map them.
    assert 3 * MIB <= after.processes - before.processes < 7 * MIB
    assert after.total == after.files + after.processes
    for mapped in (held, *maps):
        mapped.close()


def test_traces_are_found_in_single_and_half_precision(tmp_path: Path) -> None:
    rows = _unit(np.random.default_rng(2).standard_normal((4, 384)))
    (tmp_path / "deep").mkdir()
    (tmp_path / "single").write_bytes(b"x" * 5 + rows[0].tobytes())
    (tmp_path / "deep" / "half").write_bytes(rows[1].astype(np.float16).tobytes())
    (tmp_path / "empty").touch()
    assert find_traces(rows[:1], tmp_path) == ["single"]
    assert find_traces(rows[:3], tmp_path) == ["deep/half", "single"]
    assert find_traces(rows[2:], tmp_path) == []


def test_speed_at_a_recall_lies_between_the_settings_around_it() -> None:
    curve = [_point(0.90, 1000, 5), _point(0.98, 400, 6), _point(1.0, 100, 7)]
    assert qps_at(curve) == pytest.approx(200)  # halfway between 400 and 100, in logarithms
    assert qps_at(curve, 0.98) == pytest.approx(400)
    assert ram_at(curve) == 7
    assert qps_at(curve[:2]) is None
    assert ram_at(curve[:2]) is None
    assert qps_at([_point(0.995, 300), _point(1.0, 100)]) == 300  # the fastest measured, not more
    # A setting that is slower than one that finds more is nobody's choice.
    assert qps_at([_point(0.98, 50), _point(0.995, 300)]) == pytest.approx(300)


def test_summary_sets_the_best_of_each_side_against_one_another() -> None:
    kinds = {
        "lethe a": {"curve": [_point(1.0, 300, 100)]},
        "lethe b": {"curve": [_point(0.9, 900, 10)]},
        "one": {"curve": [_point(0.992, 600, 400)]},
        "other": {"curve": [_point(0.999, 500, 200)]},
        "broken": {"failed": "exit status 1"},
    }
    told = summarise(kinds)
    assert (told["lethe"], told["best_peer"]) == ("lethe a", "one")
    assert (told["qps_ratio_at_99"], told["ram_ratio"]) == (0.5, 0.25)
    assert best_peers(kinds, 2) == ["one", "other"]


def test_an_index_is_built_served_and_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(index_data.SIZES, "tiny", 3_000)
    monkeypatch.setattr(index_data, "QUERIES", 120)
    monkeypatch.setattr(index_data, "EXTRA", 200)
    data = load_set("synthetic", "tiny", tmp_path / "vectors")
    made = index_child.build(LetheFlat(tmp_path / "index", threads=1), data)
    assert made["disk"]["bytes_per_vector"] > 768  # type: ignore[index]
    served = index_child.serve(LetheFlat(tmp_path / "index", threads=1), data, tmp_path / "vectors")
    (point,) = served["curve"]  # type: ignore[misc]
    assert point["recall@10"] >= 0.999
    assert point["qps"]["median"] > 0
    assert all(
        each["recall@10"] >= 0.99
        for each in served["filters"].values()  # type: ignore[attr-defined]
        if isinstance(each, dict)
    )
    changed = index_child.change(LetheFlat(tmp_path / "index", threads=1), data)
    assert changed["insert"]["found_share"] == 1  # type: ignore[index]
    removal = changed["removal"]
    assert removal["still_found"] == 0 and removal["bytes_gone"] is True  # type: ignore[index]
    results = tmp_path / "index.json"
    figures = {**served, **changed}
    index._keep(results, "synthetic-tiny", {"vectors": 3_000}, "lethe flat", figures)
    index._keep(results, "synthetic-tiny", {"vectors": 3_000}, "peer", {"curve": [_point(0.999, 1e-3)]})
    kept = json.loads(results.read_text())
    assert set(kept["sets"]["synthetic-tiny"]["kinds"]) == {"lethe flat", "peer"}
    assert kept["summary"]["qps_ratio_at_99"] > 1
