"""Roles: names that changed sides around a verb."""

import pytest

from reader.roles import turned


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        ("John Fox replaced Gary Kubiak.", "Gary Kubiak replaced John Fox as head coach."),
        ("Rome defeated Carthage.", "In 146 BC Carthage finally defeated Rome."),
        ("Alice was hired by Bob.", "Bob was then hired by Alice."),
    ],
)
def test_changed_sides(claim, quote):
    assert turned(claim, quote)


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        ("Gary Kubiak replaced John Fox.", "Gary Kubiak replaced John Fox as head coach."),
        ("John Fox was replaced by Gary Kubiak.", "Gary Kubiak replaced John Fox."),
        ("Gary Kubiak replaced John Fox.", "John Fox was replaced by Gary Kubiak."),
        ("Alice met Bob.", "Carol met Dave."),
        ("The tower is in Rome.", "In Rome stands a tower."),
    ],
)
def test_kept_sides(claim, quote):
    assert not turned(claim, quote)
