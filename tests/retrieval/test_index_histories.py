"""Every kind of index through random histories, against a dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from memory.errors import ConflictError
from retrieval.vectors import MOST_TIES, NumpyVectors, digest_index
from tests.index_kinds import DIMENSION, KINDS, Kind, bitmap, matrix, vector

KEYS = st.sets(st.integers(0, 80), max_size=40)
CONTENT = st.integers(0, 49)
HISTORIES = 300


class History(RuleBasedStateMachine):
    """What comes and goes in an index, its snapshots, and its sudden ends."""

    kind: Kind

    @initialize()
    def begin(self) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.index = self.kind.make(DIMENSION)
        self.held: dict[int, np.ndarray] = {}
        self.saved: tuple[str, dict[int, np.ndarray]] | None = None

    @rule(keys=KEYS, content=CONTENT)
    def add(self, keys: set[int], content: int) -> None:
        """Add what is new; what is held is refused as a whole."""
        rows = {key: vector(content + key) for key in keys}
        if keys & self.held.keys():
            with pytest.raises(ConflictError):
                self.index.add(list(rows), _stacked(rows))
            rows = {key: row for key, row in rows.items() if key not in self.held}
        self.index.add(list(rows), _stacked(rows))
        self.held |= rows

    @rule(keys=KEYS, content=CONTENT)
    def update(self, keys: set[int], content: int) -> None:
        rows = {key: vector(content + 3 * key) for key in sorted(keys & self.held.keys(), reverse=True)}
        assert self.index.remove(list(rows)) == len(rows)
        self.index.add(list(rows), _stacked(rows))
        self.held |= rows

    @rule(keys=KEYS)
    def remove(self, keys: set[int]) -> None:
        """Take out what is held, what is not, and one of them twice."""
        assert self.index.remove([*keys, *list(keys)[:1]]) == len(keys & self.held.keys())
        self.held = {key: row for key, row in self.held.items() if key not in keys}

    @rule(content=CONTENT, limit=st.integers(0, 60), allowed=st.none() | KEYS)
    def search(self, content: int, limit: int, allowed: set[int] | None) -> None:
        self.check_search(content, limit, allowed)

    def check_search(self, content: int, limit: int, allowed: set[int] | None) -> None:
        """Search, and compare with what sorting the dictionary says."""
        # Half of another vector, so that not every best score is 1 or a tie.
        query = vector(content) + 0.5 * vector(content + 17)
        found = [key for key in self.held if allowed is None or key in allowed]
        scores = dict(zip(found, _scores([self.held[key] for key in found], query), strict=True))
        keys, told = self.index.search(
            query, limit=limit, allowed=None if allowed is None else bitmap(allowed)
        )
        ordered = sorted(scores, key=lambda key: (-scores[key], key))
        assert [scores[key] for key in keys.tolist()] == told.tolist()  # none forbidden, none removed
        assert keys.tolist() == [key for key in ordered if key in set(keys.tolist())]
        if limit == 0:
            assert len(keys) == 0
        elif self.kind.exact or limit >= len(scores):
            ties = [key for key in ordered[limit:] if scores[key] == scores[ordered[limit - 1]]]
            assert keys.tolist() == ordered[:limit] + ties[:MOST_TIES]
        else:
            assert len(keys) >= limit

    @rule(content=CONTENT, keys=KEYS)
    def score(self, content: int, keys: set[int]) -> None:
        query = vector(content)
        asked = sorted(keys)
        scores = dict(zip(self.held, _scores(list(self.held.values()), query), strict=True))
        expected = [scores.get(key, -1.0) for key in asked]
        assert self.index.score(query, asked).tolist() == expected

    @rule()
    def snapshot(self) -> None:
        self.saved = self.index.save(self.folder), dict(self.held)

    @rule()
    def crash(self) -> None:
        """What was not saved is lost, what was is there."""
        if self.saved is None:
            self.index, self.held = self.kind.make(DIMENSION), {}
        else:
            name, held = self.saved
            self.index, self.held = self.kind.load(self.folder, name), dict(held)

    @rule()
    def merge(self) -> None:
        """Go on from a new file, without the one before."""
        before = self.saved
        self.snapshot()
        assert self.saved is not None
        if before is not None and before[0] != self.saved[0]:
            (self.folder / before[0]).unlink()
        self.crash()

    @invariant()
    def holds_what_it_should(self) -> None:
        assert len(self.index) == len(self.held)
        assert self.index.keys().tolist() == sorted(self.held)
        keys = list(self.held)
        assert self.index.rows(keys).tobytes() == _stacked(self.held).tobytes()
        # After every step, so that one step's error is not mended by the next before anything looks.
        self.check_search(len(self.held), 5, None)

    def teardown(self) -> None:
        """Whatever came and went: the digest and the files of an index that never knew."""
        if not hasattr(self, "index"):
            return
        twin, plain = self.kind.make(DIMENSION), NumpyVectors(DIMENSION)
        for key in sorted(self.held, reverse=True):
            twin.add([key], self.held[key][None])
        plain.add(list(self.held), _stacked(self.held))
        assert digest_index(self.index) == digest_index(plain)
        name = self.index.save(self.folder)
        with tempfile.TemporaryDirectory() as other:
            assert twin.save(Path(other)) == name
            assert (Path(other) / name).read_bytes() == (self.folder / name).read_bytes()
        self.scratch.cleanup()


def _stacked(rows: dict[int, np.ndarray]) -> np.ndarray:
    return np.array(list(rows.values()), np.float32).reshape(len(rows), DIMENSION)


def _scores(rows: list[np.ndarray], query: np.ndarray) -> list[float]:
    sums = np.array(rows, np.float64).reshape(len(rows), DIMENSION) @ query.astype(np.float64)
    return (np.round(sums, 6) + 0.0).tolist()


def play(kind: Kind, *, histories: int, steps: int) -> None:
    """Drive an index of this kind through so many histories of at most so many steps."""
    machine = type("History", (History,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_history_leaves_what_never_knowing_would(kind):
    play(kind, histories=HISTORIES, steps=20)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_most_of_the_nearest_are_found_among_many(kind, tmp_path):
    """At thousands of rows, with filters that allow much and little: recall@10, and scores that are exact."""
    random = np.random.default_rng(3)
    rows = random.standard_normal((9000, 64)).astype(np.float32)
    rows[:, :24] *= 3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index, plain = kind.make(64), NumpyVectors(64)
    for each in (index, plain):
        each.add(np.arange(9000), rows)
        each.remove(np.arange(0, 9000, 7))
    index = kind.load(tmp_path, index.save(tmp_path))
    for share in (1.0, 0.5, 0.1, 0.01, 0.001):
        allowed = random.random(9000) < share
        found = wanted = 0
        for query in rows[:20] + 0.3 * rows[20:40]:
            keys, scores = index.search(query, limit=10, allowed=allowed)
            expected, told = plain.search(query, limit=10, allowed=allowed)
            assert plain.score(query, keys).tolist() == scores.tolist()
            assert allowed[keys].all()
            found += len(set(keys.tolist()) & set(expected.tolist()))
            wanted += len(expected)
            if kind.exact:
                assert (keys.tolist(), scores.tolist()) == (expected.tolist(), told.tolist())
        assert found >= 0.9 * wanted  # these vectors have no clusters: texts are easier


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.rows_alone], ids=str)
def test_what_another_kind_saved_opens(kind, tmp_path):
    """Kinds that save rows alone share one file, so that a store can change its kind without deriving anew."""
    plain = NumpyVectors(DIMENSION)
    plain.add([5, 2], matrix([5, 2]))
    opened = kind.load(tmp_path, plain.save(tmp_path))
    assert digest_index(opened) == digest_index(plain)
    assert opened.search(vector(5), limit=1)[0].tolist() == [5]
