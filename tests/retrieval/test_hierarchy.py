"""Inner nodes: exact sums, deterministic summaries."""

import numpy as np

from memory.values import Parsed, Passage, Section
from retrieval.hierarchy import (
    SUMMARY_CHARACTERS,
    add_up,
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
