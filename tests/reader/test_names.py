"""Names and codes: what a claim may not make up."""

import pytest

from reader.names import codes_in, names_in


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Alice signed it on Monday.", ["Alice", "Monday"]),
        ("Founded in 1957 by Bob Iger.", ["Bob", "Iger"]),
        ("However, the Rhine floods.", ["Rhine"]),
        ("The Walt Disney Company owns ABC.", ["Walt", "Disney", "Company", "ABC"]),
        ("It was on 5 March 2024 in Rome.", ["Rome"]),
        ("Tesla was born. Edison's lamp burnt.", ["Tesla", "Edison's"]),
        ("nothing here", []),
    ],
)
def test_names(text, names):
    assert [name.text for name in names_in(text)] == names


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Use AES-256, not B12.", {"aes-256", "b12"}),
        ("Python 3.11.2", {"3.11.2"}),
        ("25 km and 1990s and 5th", set()),
    ],
)
def test_codes(text, codes):
    assert codes_in(text) == codes
