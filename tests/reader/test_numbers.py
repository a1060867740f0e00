"""Quantities: one value however it is spelled, another value never."""

import itertools
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.numbers import Quantity, quantities_in


def only(text: str) -> Quantity:
    (quantity,) = quantities_in(text)
    return quantity


@pytest.mark.parametrize(
    ("evidence", "claim"),
    [
        ("It cost 1,500 dollars.", "It cost $1500."),
        ("It cost $3.5 million.", "It cost 3,500,000 dollars."),
        ("25 percent", "25%"),
        ("twenty-five percent", "25 %"),
        ("two hundred and fifty thousand people", "250,000 people"),
        ("2 km", "2,000 metres"),
        ("90 minutes", "1.5 hours"),
        ("at 3 pm", "at 15:00"),
        ("the fifth time", "the 5th time"),
        ("-5 °C", "-5 °C"),
        ("more than 500 people", "500 people"),
        ("over 2 km", "more than 2 km"),
        ("twelve apostles", "12 apostles"),
    ],
)
def test_spellings_of_one_quantity_meet(evidence, claim):
    assert only(evidence).carries(only(claim))


@pytest.mark.parametrize(
    ("evidence", "claim"),
    [
        ("1,500 dollars", "1,501 dollars"),
        ("57 m", "57 km"),
        ("57 metres", "57 feet"),
        ("25 people", "25%"),
        ("5 years", "5 days"),
        ("$5", "€5"),
        ("5 km", "5 sq km"),
        ("3.5 million", "3.5 billion"),
        ("500 people", "more than 500 people"),
        ("at least 500 people", "at most 500 people"),
        ("at 3 pm", "at 3 am"),
        ("the fifth time", "the sixth time"),
        ("5 °C", "-5 °C"),
        ("1990s", "1990"),
    ],
)
def test_other_quantities_do_not(evidence, claim):
    assert not only(evidence).carries(only(claim))


@pytest.mark.parametrize(
    "text",
    [
        "no one came",
        "AES-256 is used",
        "on 5 March 2024",
        "release 3.11.2",
        "First, open it",
        "a second",
        "one of us",
    ],
)
def test_what_is_no_quantity(text):
    assert quantities_in(text) == []


@given(st.integers(0, 10**12))
def test_thousands_marks_change_nothing(value):
    assert only(f"about {value:,} of them").value == only(f"about {value} of them").value == Decimal(value)


@given(st.text(alphabet="0123456789.,-% kmMarch$andtwenty\n:"))
def test_any_text_has_spans_in_order(text):
    spans = [(quantity.start, quantity.end) for quantity in quantities_in(text)]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
