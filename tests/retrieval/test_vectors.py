"""What every kind of index promises, on small sets where every kind finds everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import ConflictError, DimensionMismatchError
from retrieval.segments import as_stored
from retrieval.vectors import widen
from tests import index_kinds

DIMENSION = 16
KINDS = [pytest.param(kind.make, id=kind.name) for kind in index_kinds.KINDS]
KEYS = st.sets(st.integers(0, 200), max_size=60)


def vector(key: int) -> np.ndarray:
    row = np.random.default_rng(key % 50).standard_normal(DIMENSION).astype(np.float32)
    # Keys 50 apart are duplicates, so that ties happen.
    return as_stored(row / np.linalg.norm(row))


def matrix(keys) -> np.ndarray:
    return np.array([vector(key) for key in keys], dtype=np.float32).reshape(len(keys), DIMENSION)


def build(kind, keys):
    index = kind(DIMENSION)
    index.add(sorted(keys), matrix(sorted(keys)))
    return index


@settings(max_examples=60, deadline=None)
@given(stored=KEYS, removed=KEYS, allowed=st.none() | KEYS, limit=st.integers(1, 30))
def test_all_agree(stored, removed, allowed, limit):
    bitmap = None
    if allowed is not None:
        bitmap = np.zeros(150, dtype=np.bool_)
        bitmap[[key for key in allowed if key < 150]] = True
    answers = []
    for kind in index_kinds.KINDS:
        index = build(kind.make, stored)
        assert index.remove(sorted(removed)) == len(stored & removed)
        answers.append([part.tolist() for part in index.search(vector(7), limit=limit, allowed=bitmap)])
    assert answers == [answers[0]] * len(answers)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(stored=KEYS, forgotten=KEYS)
def test_forgotten_rows_are_never_found(kind, stored, forgotten):
    """Removal is exact: the rest stay findable, unknown keys are ignored."""
    index = build(kind, stored)
    index.remove(sorted(forgotten))
    keys, _ = index.search(vector(0), limit=999)
    assert set(keys.tolist()) == stored - forgotten
    assert len(index) == len(stored - forgotten)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_place(kind):
    """A row scores the same first or last, alone or among many: bits, not about."""
    many = np.random.default_rng(1).standard_normal((500, 384)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    query = many[3] + 0.3 * many[9]
    query /= np.linalg.norm(query)
    forward, backward = kind(384), kind(384)
    forward.add(np.arange(500), many)
    backward.add(np.arange(500)[::-1], many[::-1])
    for one, other in zip(forward.search(query, limit=40), backward.search(query, limit=40), strict=True):
        assert one.tolist() == other.tolist()
    keys, scores = forward.search(query, limit=40)
    assert forward.score(query, keys).tolist() == scores.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_ties_come_along_in_key_order(kind):
    index = build(kind, {0, 50, 100, 150, 1})
    keys, _ = index.search(vector(0), limit=2)
    assert keys.tolist() == [0, 50, 100, 150]


@pytest.mark.parametrize("kind", KINDS)
def test_misuse_is_refused(kind):
    index = build(kind, {1})
    with pytest.raises(ConflictError):
        index.add([1], matrix([1]))
    with pytest.raises(ConflictError):
        index.add([2, 2], matrix([2, 2]))
    with pytest.raises(DimensionMismatchError):
        index.add([3], np.zeros((1, DIMENSION + 1), dtype=np.float32))
    with pytest.raises(DimensionMismatchError):
        index.search(np.zeros(3, dtype=np.float32), limit=1)
    assert len(index) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_empty_answers(kind):
    index = kind(DIMENSION)
    assert index.search(vector(0), limit=3)[0].tolist() == []
    index.add([4], matrix([4]))
    assert index.search(vector(0), limit=0)[0].tolist() == []
    assert index.search(vector(0), limit=3, allowed=np.zeros(9, dtype=np.bool_))[0].tolist() == []
    assert index.score(vector(4), [4, 5])[1] == -1.0
    assert index.rows([4]).tolist() == matrix([4]).tolist()


def test_widening_is_exact():
    """All finite half-precision numbers, subnormal ones and both zeros among them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert widen(finite).tobytes() == finite.astype(np.float32).tobytes()
