"""Cells are a function of the vectors that are there, and exact to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.partition import (
    ONE,
    add_cells,
    as_steps,
    assign,
    centre,
    choose_leaders,
    hash_rows,
    leader_bits,
    make_cells,
)


def unit_rows(
    rows: int, dimension: int = 24, *, seed: int = 0, spread: float = 1.0
) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, rows // 20), dimension))
    drawn = centres[random.integers(0, len(centres), rows)]
    drawn = drawn + spread * random.standard_normal((rows, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3))
def test_order_and_batches_change_nothing(rows: int, seed: int, bits: int, rounds: int) -> None:
    steps = as_steps(unit_rows(rows, seed=seed))
    hashes = hash_rows(steps)
    order = np.random.default_rng(seed).permutation(rows)
    centroids, cells = make_cells(steps, hashes, bits=bits, rounds=rounds)
    again, shuffled = make_cells(steps[order], hashes[order], bits=bits, rounds=rounds)
    assert (again == centroids).all()
    assert (shuffled == cells[order]).all()


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(0, 9))
def test_what_went_leaves_nothing_behind(rows: int, seed: int) -> None:
    """A superset's leaders that are still there lead still: hashes are of each row's own."""
    steps = as_steps(unit_rows(rows, seed=seed))
    hashes = hash_rows(steps)
    kept = np.random.default_rng(seed).random(rows) < 0.7
    whole, rest = choose_leaders(hashes, 2), choose_leaders(hashes[kept], 2)
    some = set(hashes[whole][kept[whole]].tolist())
    assert some <= set(hashes[kept][rest].tolist())


def test_products_are_exact_in_any_order_and_size() -> None:
    """The very longest vectors, and the worst of them: all in one direction."""
    longest = np.zeros((3, 384), np.float32)
    longest[0, 0], longest[1, :2], longest[2] = 1.0, 0.5**0.5, 384**-0.5
    rows = np.concatenate([longest, unit_rows(2000, 384)])
    steps = as_steps(rows)
    exact = steps.astype(np.int64) @ steps[:100].astype(np.int64).T
    assert abs(exact).max() < 2**24
    assert (steps @ steps[:100].T == exact).all()
    assert (steps[:, ::-1] @ steps[:100, ::-1].T == exact).all()
    cells, products = assign(steps, steps[:100])
    assert (cells == exact.argmax(axis=1)).all()
    assert (products == exact.max(axis=1)).all()


def test_sums_are_the_cells_and_their_centre_is_their_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.partition._BLOCK", 500)  # many parts
    steps = as_steps(unit_rows(300))
    cells = np.random.default_rng(1).integers(0, 9, 300).astype(np.int32)
    cells[cells == 4] = 5
    sums = add_cells(steps, cells, 10)
    for cell in range(10):
        assert (sums[cell] == steps[cells == cell].astype(np.int64).sum(axis=0)).all()
    centred = centre(sums)
    assert not centred[4].any() and not centred[9].any()
    for cell in set(cells.tolist()):
        direction = sums[cell] / np.linalg.norm(sums[cell])
        assert np.abs(centred[cell] - direction * ONE).max() <= 0.51


def test_there_are_a_few_times_the_root_of_cells() -> None:
    steps = as_steps(unit_rows(5000, 16))
    centroids, cells = make_cells(steps, hash_rows(steps))
    assert 2 < len(centroids) / 5000**0.5 < 12
    assert len(np.unique(cells)) > 0.8 * len(centroids)
    assert [leader_bits(n) for n in (1, 63, 100_000, 1_000_000, 10_000_000)] == [0, 2, 7, 10, 12]


def test_equal_contents_have_one_leader_and_nothing_has_no_cells() -> None:
    steps = as_steps(np.repeat(unit_rows(3), 4, axis=0))
    centroids, cells = make_cells(steps, hash_rows(steps), bits=0, rounds=0)
    assert len(centroids) == 3
    assert all(len(set(cells[at : at + 4].tolist())) == 1 for at in (0, 4, 8))
    centroids, cells = make_cells(steps[:0], hash_rows(steps[:0]))
    assert (len(centroids), len(cells)) == (0, 0)


def test_means_find_more_than_leaders() -> None:
    """What a step of Lloyd's is for."""
    rows = unit_rows(4000, 32, spread=0.9)
    steps, queries = as_steps(rows), as_steps(unit_rows(4100, 32, spread=0.9)[4000:])
    nearest = np.argsort(-(queries @ steps.T), axis=1, kind="stable")[:, :10]

    def find(rounds: int) -> float:
        centroids, cells = make_cells(steps, hash_rows(steps), bits=5, rounds=rounds)
        looked_at = np.argsort(-(queries @ centroids.T), axis=1, kind="stable")[:, : len(centroids) // 10]
        return float(
            np.mean([np.isin(cells[n], look).mean() for n, look in zip(nearest, looked_at, strict=True)])
        )

    assert find(1) > find(0)
