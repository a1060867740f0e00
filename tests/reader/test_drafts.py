"""Drafts: sentences leave one by one, with the evidence they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.drafts import Draft, DraftSplitter, is_refusal


def drafts_of(text: str, size: int) -> list[Draft]:
    splitter = DraftSplitter()
    drafts = [draft for at in range(0, len(text), size) for draft in splitter.feed(text[at : at + size])]
    return [*drafts, *splitter.finish()]


@pytest.mark.parametrize(
    ("text", "drafts"),
    [
        ("It opened in 1932 [2]. It closed. [1]", [("It opened in 1932.", (1,)), ("It closed.", (0,))]),
        ("It opened. [2] It closed. [1, 3]", [("It opened.", (1,)), ("It closed.", (0, 2))]),
        ("1932 [2]", [("1932", (1,))]),
        ("[2] It opened.", [("It opened.", (1,))]),
        ("Dr. Wong came.", [("Dr. Wong came.", ())]),
        ("[1]", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sentences_and_marks(text, drafts, size):
    assert [(draft.text, draft.cited) for draft in drafts_of(text, size)] == drafts


def test_a_sentence_leaves_when_the_next_begins():
    splitter = DraftSplitter()
    assert splitter.feed("It opened in 1932. [2]") == []
    assert splitter.feed(" It closed") == [Draft("It opened in 1932.", (1,))]


@given(st.text(alphabet="Ab .[]12,\n?"), st.integers(1, 9))
def test_no_word_is_lost(text, size):
    """Whatever the pieces, the letters of the text come out, in order."""
    out = "".join(draft.text for draft in drafts_of(text, size))
    assert [c for c in out if c.isalpha()] == [c for c in text if c.isalpha()]


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I do not know.", True),
        ("The passages do not contain the answer.", True),
        ("There is no information about it.", True),
        ("It is not mentioned in the text.", True),
        ("The service does not contain sugar.", False),
        ("1957", False),
    ],
)
def test_refusals(text, refuses):
    assert is_refusal(text) is refuses
