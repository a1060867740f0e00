"""Packing of evidence: within the budget, joined where it touches, verbatim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.pack import Candidate, pack

TEXTS = {"a": "0123456789" * 10, "b": "abcdefghij" * 10}


def candidate(key: int, source: str, start: int, end: int, probability: float) -> Candidate:
    return Candidate(key, source, start, end, probability)


def test_touching_passages_become_one():
    packed = pack(
        [candidate(1, "a", 10, 20, 0.5), candidate(2, "b", 0, 10, 0.6), candidate(3, "a", 21, 30, 0.5)],
        TEXTS,
        characters=100,
    )
    assert [(item.keys, item.start, item.end, item.probability) for item in packed] == [
        ((1, 3), 10, 30, 0.75),
        ((2,), 0, 10, 0.6),
    ]
    assert packed[0].text == TEXTS["a"][10:30]


def test_best_last_is_the_reverse():
    items = [candidate(1, "a", 0, 5, 0.9), candidate(2, "b", 0, 5, 0.2)]
    first, last = (pack(items, TEXTS, characters=99, order=order) for order in ("best_first", "best_last"))
    assert first == last[::-1]


def test_quota_and_budget():
    items = [candidate(i, "a", 20 * i, 20 * i + 15, 0.9 - i / 10) for i in range(4)]
    items.append(candidate(9, "b", 0, 10, 0.1))
    assert {key for item in pack(items, TEXTS, characters=99, per_source=2) for key in item.keys} == {0, 1, 9}
    assert {key for item in pack(items, TEXTS, characters=26) for key in item.keys} == {0, 9}
    assert pack(items, TEXTS, characters=0) == []


SPANS = st.builds(
    lambda key, source, start, length, probability: Candidate(
        key, source, start, start + length, probability
    ),
    st.integers(0, 99),
    st.sampled_from("ab"),
    st.integers(0, 60),
    st.integers(0, 30),
    st.floats(0, 1),
)


@given(items=st.lists(SPANS, max_size=12), characters=st.integers(0, 120))
@pytest.mark.parametrize("order", ["best_first", "best_last"])
def test_what_is_packed_is_verbatim_and_within_the_budget(items, characters, order):
    packed = pack(items, TEXTS, characters=characters, order=order, gap=0)
    assert sum(len(item.text) for item in packed) <= characters
    for item in packed:
        assert item.text == TEXTS[item.source][item.start : item.end]
        assert 0 <= item.probability <= 1
