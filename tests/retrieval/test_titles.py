"""Titles found in running text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.titles import Titles


def table(*titles: str) -> Titles:
    made = Titles()
    for number, title in enumerate(titles):
        made.add(number, title)
    return made


@pytest.mark.parametrize(
    ("title", "text", "found"),
    [
        ("Harbour Rovers", "the ground of Harbour Rovers since", True),
        ("The Beatles", "songs by Beatles fans", True),
        ("Lilu (mythology)", "Lilu is a demon", True),
        ("Café Zoë", "met at Cafe Zoe", True),
        ("Boundary layer", "the boundary layer grows", False),
        ("It", "It was late", False),
        ("Who Is Who", "Who Is Who", False),
        ("Rovers", "Harbour Roversville", False),
        (" ".join(["Long"] * 13), " ".join(["Long"] * 13), False),
    ],
)
def test_a_mention_is_a_name_in_a_row(title, text, found):
    assert bool(table(title).find(text)) is found


def test_sources_sharing_a_title_come_together():
    assert table("Notes Today", "notes today", "Other").find("See Notes Today.") == {"notes today": (0, 1)}


TITLE = st.sampled_from(["Elm Park", "Elm Park North", "Elm", "Oak Hall", "Oak", ""])


@given(kept=st.dictionaries(st.integers(0, 9), TITLE), gone=st.dictionaries(st.integers(10, 19), TITLE))
def test_removed_titles_leave_no_trace(kept, gone):
    text = "Elm Park North and Oak Hall by Oak"
    lived, twin = Titles(), Titles()
    for source, title in {**gone, **kept}.items():
        lived.add(source, title)
    lived.remove(gone)
    for source, title in kept.items():
        twin.add(source, title)
    assert lived.find(text) == twin.find(text)
    assert len(lived) == len(twin)
    assert lived.__dict__["_lengths"] == twin.__dict__["_lengths"]
