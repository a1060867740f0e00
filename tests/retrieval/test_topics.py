"""Topics are a function of the current set, however they came to be folded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.partition import Steps, as_steps
from retrieval.topics import Settled, Topic, build_topics, central_members, rank_content

DIMENSION = 16


def direction(number: int) -> Steps:
    """Few directions for many sources, so that some are equally near to several leaders."""
    row = np.random.default_rng(number % 40).standard_normal(DIMENSION)
    return as_steps(row[None] / np.linalg.norm(row))[0]


def rank_of(number: int) -> int:
    """Some sources have the same content. Small hashes are made likely, so that few sources have levels."""
    hashed = rank_content(hashlib.sha256(str(number // 2 if number % 5 == 0 else number).encode()).digest())
    return hashed >> (4 * (number % 3))


class Counted:
    """Directions by name, and how many were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, ids: Sequence[str]) -> Steps:
        self.asked += len(ids)
        return np.array([direction(int(name[1:])) for name in ids], np.float32).reshape(-1, DIMENSION)


def fold(numbers: Iterable[int], settled: dict[int, Settled] | None = None) -> list[Topic]:
    return build_topics({f"s{n}": rank_of(n) for n in numbers}, Counted(), settled)


def settle(
    topics: Sequence[Topic], present: set[int], lost: Sequence[Topic], *, knows_all: bool
) -> dict[int, Settled]:
    """What a service finds settled: topics that are still stored, of sources that are still there."""
    settled: dict[int, Settled] = defaultdict(Settled)
    for topic in topics:
        if int(topic.leader[1:]) not in present:
            continue
        if knows_all or topic not in lost:
            settled[topic.level].compared.add(topic.leader)
        if topic not in lost:
            still = [member for member in topic.members if int(member[1:]) in present]
            settled[topic.level].leader_of.update(dict.fromkeys(still, topic.leader))
    return settled


CHANGES = st.lists(
    st.tuples(
        st.sets(st.integers(0, 150), max_size=40), st.sets(st.integers(0, 150), max_size=20), st.booleans()
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES)
def test_any_history_gives_what_folding_at_once_gives(
    changes: list[tuple[set[int], set[int], bool]],
) -> None:
    """Sources come and go; what held one that went was erased with it, as a forget does."""
    present: set[int] = set()
    topics: list[Topic] = []
    for come, go, knows_all in changes:
        gone = go & present
        present = (present | come) - go
        lost = [topic for topic in topics if gone & {int(member[1:]) for member in topic.members}]
        topics = fold(present, settle(topics, present, lost, knows_all=knows_all))
        assert topics == fold(present)


@given(numbers=st.sets(st.integers(0, 400), min_size=2, max_size=120))
def test_every_source_is_in_one_topic_a_level(numbers: set[int]) -> None:
    topics = fold(numbers)
    members = [f"s{n}" for n in numbers]
    for level in range(1, topics[-1].level + 1):
        here = [topic for topic in topics if topic.level == level]
        assert sorted(member for topic in here for member in topic.members) == sorted(members)
        members = [topic.leader for topic in here]
    assert len(members) == 1


def test_one_more_source_reads_few_directions() -> None:
    """Unless it leads, only its own direction and the leaders' are needed."""
    numbers = set(range(1_000))
    ranks = {f"s{n}": rank_content(str(n).encode()) for n in numbers}
    topics = build_topics(ranks, Counted())
    assert topics[-1].level >= 3
    settled = settle(topics, numbers, (), knows_all=True)
    leaders = [topic.leader for topic in topics if topic.level == 1]
    newcomer = next(n for n in range(1_000, 2_000) if rank_content(str(n).encode()) >> 60)
    counted = Counted()
    ranks[f"s{newcomer}"] = rank_content(str(newcomer).encode())
    assert build_topics(ranks, counted, settled) == build_topics(ranks, Counted())
    assert counted.asked == len(leaders) + 1


def test_one_more_source_moves_few() -> None:
    """A newcomer joins one topic, or leads a new one: the typical one changes one or two of the lowest level."""
    ranks = {f"s{n}": rank_content(str(n).encode()) for n in range(400)}

    def lowest(given: dict[str, int]) -> dict[str, tuple[str, ...]]:
        return {topic.leader: topic.members for topic in build_topics(given, Counted()) if topic.level == 1}

    before = lowest(ranks)
    assert len(before) > 8
    changed = []
    for n in range(1000, 1060):
        after = lowest({**ranks, f"s{n}": rank_content(str(n).encode())})
        changed.append(sum(before.get(leader) != members for leader, members in after.items()))
    assert sorted(changed)[len(changed) // 2] <= 2


@pytest.mark.parametrize("numbers", [[], [1]])
def test_few_sources_have_no_topics(numbers: list[int]) -> None:
    assert fold(numbers) == []


def test_central_members_are_nearest_the_centre() -> None:
    names = [f"s{n}" for n in range(30)]
    units = Counted()(names)
    centre = units.sum(axis=0)
    best = max(names, key=lambda name: float(direction(int(name[1:])) @ centre))
    assert central_members(names, units)[0] == best
    assert len(central_members(names, units)) == 3
