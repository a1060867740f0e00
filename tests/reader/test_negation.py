"""Negation: a dropped or added "not" is a contradiction, one elsewhere in the sentence is none."""

import pytest

from reader.negation import contradicts


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        ("He finished school.", "He did not finish school."),
        ("He did not finish school.", "He finished school."),
        ("The service supports IPv6.", "The service doesn't support IPv6."),
        ("The bridge was never closed.", "The bridge was closed in May."),
        ("Nobody was hurt.", "Three people were hurt."),
        ("It works without a key.", "It works with a key."),
    ],
)
def test_contradictions(claim, quote):
    assert contradicts(claim, quote)


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        ("He finished school.", "He finished school, but did not go to college."),
        ("He did not finish school.", "He never finished school."),
        ("It was not only large.", "It was not only large but old."),
        ("It lasted no more than a day.", "It lasted no more than a day."),
        ("The tower is tall.", "The tower is tall; it does not sway."),
        ("She did not refuse the offer.", "She did not refuse the offer."),
    ],
)
def test_agreement(claim, quote):
    assert not contradicts(claim, quote)
