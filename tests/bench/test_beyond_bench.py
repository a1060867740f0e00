"""A smaller memory is the beginning of a larger one; needles stand where they are asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.beyond import READ_BY, _sizes, summarise
from bench.beyond_memory import _plant, read_corpus
from bench.texts import DATA

WITH_DATA = pytest.mark.skipif(not Path(DATA).exists(), reason="the given data sets are not here")


def words() -> Any:
    """Return a bench whose tokens are words."""
    return SimpleNamespace(writer=SimpleNamespace(ids=lambda text: text.split()))


def test_sizes_are_read():
    assert _sizes("1m,64k,512") == (512, 64_000, 1_000_000)


def test_the_summary_counts_all_needles_by_the_rule_that_is_read_by():
    def told(planted: float, squad: float, seconds: float) -> dict[str, Any]:
        shares = {"planted": planted, "squad13": squad}
        return {
            "needles": {"planted": 10, "squad13": 30},
            "chosen_into_window": {"8000": {READ_BY: shares}},
            "read": {"8000": {"planted": {"first_token_cpu_seconds": {"median": seconds}}}},
        }

    results = {"64000": told(1.0, 1.0, 2.0), "1000000": told(0.5, 0.9, 2.5)}

    assert summarise(results, (64_000, 1_000_000, 2_000_000), (8_000,)) == {
        "needle_recall_64k": 1.0,
        "first_token_64k_over_64k": 1.0,
        "needle_recall_1m": 0.8,
        "first_token_1m_over_64k": 1.25,
    }


def test_a_needle_stands_between_sentences():
    assert (
        _plant("One is here. Two is there. Three.", "Needle.") == "One is here. Needle. Two is there. Three."
    )
    assert _plant("no end", "Needle.") == "no end Needle."


@WITH_DATA
def test_smaller_memories_are_the_beginning_of_larger_ones():
    whole, small = read_corpus(words(), 6_000), read_corpus(words(), 3_000)

    assert whole.passages[: len(small.passages)] == small.passages
    part = whole.first(3_000)
    assert (part.passages, part.lengths, part.planted) == (small.passages, small.lengths, small.planted)
    assert list(part.documents) == list(small.documents)


@WITH_DATA
def test_every_needle_is_told_by_one_passage():
    corpus = read_corpus(words(), 6_000)

    assert corpus.planted
    assert all(len(corpus.holding(needle)) == 1 for needle in corpus.planted)
    assert corpus.squad
    assert all(needle.document in corpus.documents for needle in corpus.squad)
