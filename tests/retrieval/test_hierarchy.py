"""Inner nodes: exact sums, deterministic summaries, topics that forget."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.values import Parsed, Passage, Section
from retrieval.hierarchy import (
    SUMMARY_CHARACTERS,
    add_up,
    build_topics,
    central_members,
    fold_nodes,
    quantize,
    summarise,
    unit,
)

TEXT = (
    "Harbour dues are paid on arrival. The harbour master keeps the book.\n"
    "Boats longer than nine metres pay double dues. The book of dues lies in the harbour office.\n"
    "Dogs are welcome. Tea is served at four.\n"
)


def parsed() -> Parsed:
    lines = [0, TEXT.index("Boats"), TEXT.index("Dogs"), len(TEXT)]
    return Parsed(
        "Rules",
        TEXT,
        (
            Section(0, len(TEXT), ()),
            Section(0, lines[2], ("Dues",), 0),
            Section(lines[2], lines[3], ("Other",), 0),
        ),
        tuple(Passage(lines[i], lines[i + 1], section=1 if i < 2 else 2) for i in range(3)),
    )


def vectors(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 24)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_nodes_follow_the_outline():
    """The source first, then sections that gather several passages; one that holds a single passage has no node."""
    nodes = fold_nodes(parsed(), vectors(3))
    assert [(node.section, node.passages) for node in nodes] == [(0, (0, 1, 2)), (1, (0, 1))]
    assert np.array_equal(nodes[1].total, add_up(vectors(3)[:2]))


def test_taking_a_passage_out_is_exact():
    rows = vectors(50)
    assert np.array_equal(add_up(rows) - quantize(rows[7]), add_up(np.delete(rows, 7, axis=0)))


def test_unit_vectors_are_unit_and_nothing_is_zero():
    assert abs(float(np.linalg.norm(unit(add_up(vectors(9))))) - 1) < 1e-6
    assert unit(np.zeros(4, dtype=np.int64)).tolist() == [0, 0, 0, 0]


def test_summary_is_whole_sentences_about_the_matter():
    spans = summarise(parsed(), (0, 1, 2))
    sentences = [TEXT[start:end] for start, end in spans]
    assert 1 <= len(spans) <= 3
    assert spans == tuple(sorted(spans))
    assert all(sentence.endswith(".") and sentence in TEXT for sentence in sentences)
    assert any("dues" in sentence for sentence in sentences)
    assert sum(end - start for start, end in spans) <= SUMMARY_CHARACTERS
    assert summarise(parsed(), ()) == ()


def sources(numbers) -> dict[str, tuple[bytes, np.ndarray]]:
    return {
        f"s{number}": (hashlib.sha256(str(number).encode()).digest(), add_up(vectors(3, seed=number)))
        for number in numbers
    }


def shape(topics):
    return [(topic.level, topic.leader, topic.members, topic.total.tolist()) for topic in topics]


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    kept=st.sets(st.integers(0, 120), max_size=60),
    gone=st.sets(st.integers(121, 200), max_size=20),
)
def test_topics_are_a_function_of_the_current_set(data, kept, gone):
    """Insertion order and what came and went leave no trace; every source is in one topic per level."""
    everything = sources(data.draw(st.permutations(sorted(kept | gone))))
    for number in gone:
        del everything[f"s{number}"]
    topics = build_topics(everything)
    assert shape(topics) == shape(build_topics(sources(sorted(kept))))
    if len(kept) >= 2:
        lowest = [member for topic in topics if topic.level == 1 for member in topic.members]
        assert sorted(lowest) == sorted(f"s{number}" for number in kept)


def test_one_more_source_moves_few():
    """A newcomer joins one cell, or leads a new one: of a hundred arrivals, the typical one changes a cell or two."""
    base = sources(range(400))
    before = {topic.leader: set(topic.members) for topic in build_topics(base) if topic.level == 1}
    assert len(before) > 8
    changed = []
    for number in range(1000, 1060):
        after = {
            topic.leader: set(topic.members)
            for topic in build_topics({**base, **sources([number])})
            if topic.level == 1
        }
        changed.append(sum(before.get(leader) != members for leader, members in after.items()))
    assert sorted(changed)[len(changed) // 2] <= 2


def test_levels_end_in_one_topic():
    topics = build_topics(sources(range(300)))
    top = max(topic.level for topic in topics)
    assert sum(topic.level == top for topic in topics) == 1
    above = {member for topic in topics if topic.level == 2 for member in topic.members}
    assert above == {topic.leader for topic in topics if topic.level == 1}


def test_few_sources_have_no_topics_or_one():
    assert build_topics({}) == []
    assert build_topics(sources([1])) == []
    assert {member for topic in build_topics(sources([1, 2])) for member in topic.members} == {"s1", "s2"}


def test_central_members_are_nearest_the_centre():
    everything = sources(range(40))
    topic = build_topics(everything)[0]
    sums = {name: total for name, (_, total) in everything.items()}
    centre = unit(topic.total)
    best = max(topic.members, key=lambda name: float(unit(sums[name]) @ centre))
    assert central_members(topic, sums)[0] == best
