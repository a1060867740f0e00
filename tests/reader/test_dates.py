"""Dates: one day however it is spelled, another day never."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.dates import dates_in


def carried(evidence: str, claim: str, years: tuple[int, ...] = ()) -> bool:
    claimed = dates_in(claim)
    assert claimed
    return any(mine.carries(reading, years) for mine in dates_in(evidence) for reading in claimed)


@pytest.mark.parametrize(
    ("evidence", "claim"),
    [
        ("5 March 2024", "2024-03-05"),
        ("2024-03-05", "March 5th"),
        ("2024-03-05T10:00", "5 March 2024"),
        ("March 5th, 2024", "the 5th of March 2024"),
        ("Sept. 11, 2001", "September 11"),
        ("5.3.2024", "March 5, 2024"),
        ("03/05/2024", "5 March 2024"),
        ("03/05/2024", "May 3, 2024"),
        ("5 March 2024", "in March 2024"),
        ("5 March 2024", "In March"),
    ],
)
def test_spellings_of_one_date_meet(evidence, claim):
    assert carried(evidence, claim)


@pytest.mark.parametrize(
    ("evidence", "claim"),
    [
        ("5 March 2024", "6 March 2024"),
        ("5 March 2024", "5 March 2023"),
        ("5 March 2024", "5 May 2024"),
        ("2024-03-05", "2024-05-03"),
        ("5.3.2024", "3.5.2024"),
        ("March 2024", "5 March 2024"),
        ("March 5", "March 5, 2024"),
    ],
)
def test_other_dates_do_not(evidence, claim):
    assert not carried(evidence, claim)


def test_a_year_may_stand_beside_the_day():
    assert carried("On March 5", "March 5, 2024", years=(2024,))
    assert not carried("On March 5", "March 5, 2024", years=(2023,))


@pytest.mark.parametrize("text", ["he may 5", "they march on", "in 1957", "31/31/2024", "version 1.2.3"])
def test_what_is_no_date(text):
    assert dates_in(text) == []


@given(st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31)))
def test_every_day_survives_three_spellings(day):
    spelled = [day.isoformat(), f"{day.day} {day:%B} {day.year}", f"{day:%B} {day.day}, {day.year}"]
    for text in spelled:
        (date,) = dates_in(f"It was on {text}.")
        assert (date.year, date.month, date.day) == (day.year, day.month, day.day)
