"""Text made ready for a word index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analysis import find_dates, normalise


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("on 20260428", ("20260428",)),
        ("2026-04-28 and 28.04.", ("20260428",)),
        ("28th of April, 2026", ("20260428",)),
        ("Sept. 3, 1999", ("19990903",)),
        ("April 3", ()),
        ("20261399 or 2026-13-01", ()),
        ("phone 120260428", ()),
    ],
)
def test_dates_in_one_form(text, dates):
    assert find_dates(text) == dates


def test_a_day_without_year_is_marked():
    assert "d0403" in normalise("April 3").split()
    assert "d0403" in normalise("2026-04-03").split()
    assert "may" in normalise("you may 99 times").split()


def test_glued_names_and_unspaced_scripts():
    assert normalise("LiHua").split() == ["Li", "Hua", "LiHua"]
    assert normalise("NASA iOS").split()[0] == "NASA"
    assert "東京" in normalise("東京都").split()
    assert "京" in normalise("東京都").split()


@given(st.text(st.characters(), max_size=200))
def test_never_raises_and_what_it_gives_can_be_encoded(text):
    normalise(text).encode("utf-8")
