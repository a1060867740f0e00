"""A sentence is cut into what it states; no word is made up, nothing that could be checked is lost."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.squad13 import DATA
from memory.sentences import sentence_spans
from reader.dates import dates_in
from reader.names import codes_in, names_in
from reader.numbers import quantities_in
from reader.statements import MOST_STATEMENTS, statements_of
from reader.words import words_of


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        ("Tesla was born in Smiljan.", ["Tesla was born in Smiljan."]),
        (
            "Tesla was born in Smiljan and died in New York.",
            ["Tesla was born in Smiljan", "Tesla died in New York."],
        ),
        ("Tesla was born in 1856, and he died in 1943.", ["Tesla was born in 1856", "Tesla died in 1943."]),
        ("Alice won gold and Bob won silver.", ["Alice won gold", "Bob won silver."]),
        (
            "The kit contains steel, blue glass and copper.",
            ["The kit contains steel", "The kit contains blue glass", "The kit contains copper."],
        ),
        (
            "In 2018 England came fourth and Kane scored 6 goals.",
            ["In 2018 England came fourth", "In 2018 Kane scored 6 goals."],
        ),
        (
            "In Graz, Alice won gold and Bob won silver.",
            ["In Graz, Alice won gold", "In Graz, Bob won silver."],
        ),
        (
            "In Graz, Alice won gold and Bob won silver in Lyon.",
            ["In Graz, Alice won gold", "Bob won silver in Lyon."],
        ),
        (
            "In 2018 England came fourth, and the museum opened in 1932.",
            ["In 2018 England came fourth", "the museum opened in 1932."],
        ),
        (
            "In 2018 England came fourth; the museum was sold.",
            ["In 2018 England came fourth", "the museum was sold."],
        ),
        ("Disney and Comcast own it.", ["Disney and Comcast own it."]),
        (
            "Alice, Bob and Carol signed the contract.",
            [
                "Alice signed the contract.",
                "Bob signed the contract.",
                "Carol signed the contract.",
            ],
        ),
        (
            "Tesla, who was born in Smiljan, died in New York.",
            ["Tesla died in New York.", "Tesla was born in Smiljan"],
        ),
        (
            "Tesla lived in Graz, which lies in Austria.",
            ["Tesla lived in Graz", "Graz lies in Austria."],
        ),
        (
            "The office opens at 7; the museum opens at 9.",
            ["The office opens at 7", "the museum opens at 9."],
        ),
        ("The tower was designed and built by Ada Wong.", ["The tower was designed and built by Ada Wong."]),
        (
            "It happened between Smiljan and Graz in 1880.",
            ["It happened between Smiljan and Graz in 1880."],
        ),
        (
            "Wong said that the tower was sold and that it was moved.",
            ["Wong said that the tower was sold and that it was moved."],
        ),
        (
            "The tower is taller than the arch or the dome, and the bridge was sold.",
            ["The tower is taller than the arch or the dome", "the bridge was sold."],
        ),
        (
            "Wong said that the tower was sold; the bridge was kept.",
            ["Wong said that the tower was sold", "the bridge was kept."],
        ),
        ("If the tower was sold, the arch was kept and the dome was moved.", None),
        ("Ada and Bob won gold and silver respectively.", None),
        ("The room holds steel or glass or copper.", ["The room holds steel or glass or copper."]),
        (
            'The song "Fire and Rain" was written by Taylor.',
            ['The song "Fire and Rain" was written by Taylor.'],
        ),
        ("It cost two hundred and fifty dollars.", ["It cost two hundred and fifty dollars."]),
    ],
)
def test_what_a_sentence_states(sentence, stated):
    assert [statement.text for statement in statements_of(sentence)] == (stated or [sentence])


def test_what_is_a_statements_own():
    first, second = statements_of("Tesla was born in Smiljan and died in Graz.")
    assert first.own == {"born", "smiljan"}
    assert second.own == {"di", "graz"} or second.own == {"died", "graz"}


def assert_nothing_is_lost(sentence: str) -> None:
    statements = statements_of(sentence)
    given_words = {word.text for word in words_of(sentence)}
    made = " / ".join(statement.text for statement in statements)
    assert 1 <= len(statements) <= MOST_STATEMENTS
    for statement in statements:
        assert {word.text for word in words_of(statement.text)} <= given_words
        assert statement.own <= {word.stem for word in words_of(statement.text)}
    measures = [
        (quantity.value, quantity.unit, quantity.bound)
        for text in statements
        for quantity in quantities_in(text.text)
    ]
    assert {(quantity.value, quantity.unit, quantity.bound) for quantity in quantities_in(sentence)} <= {
        *measures
    }
    dates = [(date.year, date.month, date.day) for text in statements for date in dates_in(text.text)]
    assert {(date.year, date.month, date.day) for date in dates_in(sentence)} <= {*dates}
    assert codes_in(sentence) <= {code for text in statements for code in codes_in(text.text)}
    assert {name.text for name in names_in(sentence)} <= {word.text for word in words_of(made)}


PIECES = (
    "Tesla", "Ada Wong", "the tower", "was born", "died", "opened", "contains", "in", "Graz", "steel", "1932", "57 m",
    "5 March 1999", "and", "but", "while", ",", ";", "who", "which", "he", "(and", ")", '"', "two hundred", "fifty",
    "B12", "v2.3.1", "$5", "at least", "he", "then", ".",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=24))
def test_no_word_is_made_up_and_no_measure_lost(pieces):
    assert_nothing_is_lost(" ".join(pieces))


@given(st.text(max_size=80))
def test_any_text_can_be_cut(text):
    assert_nothing_is_lost(text)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are absent")
def test_nothing_is_lost_in_real_sentences():
    lines = (DATA / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    for line in random.Random(5).sample(lines, 60):
        text = json.loads(line)["text"]
        for start, end in sentence_spans(text):
            assert_nothing_is_lost(text[start:end])
