"""Stems bring the forms of a word together and keep words apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.words import content_stems, stem, words_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("network", "Networks"),
        ("headquartered", "headquarter"),
        ("stopped", "stopping"),
        ("companies", "company"),
        ("Tesla's", "Tesla"),
        ("Zürich", "ZURICH"),
        ("owned", "owns"),
        ("quickly", "quick"),
        ("churches", "church"),
    ],
)
def test_forms_meet(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("bed", "be"), ("sing", "sink"), ("Paris", "Pari"), ("class", "clas"), ("1957", "1958")],
)
def test_words_stay_apart(one, other):
    assert stem(one) != stem(other)


def test_stop_words_carry_no_content():
    assert content_stems("What is it that they did not do?") == frozenset()


def test_scripts_without_spaces_are_cut():
    assert [word.text for word in words_of("東京は日本")] == list("東京は日本")


@given(st.text())
def test_spans_are_the_words(text):
    assert all(text[word.start : word.end] == word.text for word in words_of(text))
