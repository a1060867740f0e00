"""Near-duplicates go, lookalikes that say something else stay."""

from retrieval.distinct import distinct

LONG = "the harbour master keeps the book of dues and shows it to every skipper who asks for it in writing "


def test_copies_are_gathered_under_the_first():
    texts = [LONG, "something else entirely", LONG.upper(), f"{LONG} Really."]
    assert distinct(texts) == [(0, 2, 3), (1,)]


def test_numbers_and_negations_make_a_difference():
    """An invoice of another month, or a denial, is no duplicate."""
    texts = [LONG + "on 3 May", LONG + "on 4 May", LONG + "on 3 May", LONG + "but not on 3 May"]
    assert distinct(texts) == [(0, 2), (1,), (3,)]


def test_short_and_empty_texts():
    assert distinct(["ok", "ok", "", "", "no"]) == [(0, 1), (2, 3), (4,)]


def test_limit_counts_kept_texts():
    """Beyond it nothing new is kept, but copies of what was are still gathered."""
    assert distinct(["one", "one", "two", "three", "two"], limit=2) == [(0, 1), (2, 4)]
    assert distinct(["one"], limit=0) == []
