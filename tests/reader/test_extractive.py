"""The extractive reader: the right sentence, word for word, or none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.values import Evidence, PassageId, Space
from reader.confidence import ABSTAIN_BELOW
from reader.expectation import expected_kind
from reader.extractive import MOST_SENTENCES, ExtractiveReader
from reader.ranking import ENCODED_CANDIDATES, rank_sentences

EVIDENCE = [
    Evidence(
        PassageId("bridge"),
        "# The harbour bridge\n\nWhen did the harbour bridge open?\n\nThe harbour bridge opened in March 1932 after "
        "eight years. It is made of steel. Six lanes of cars cross the bridge every day.",
        title="Harbour bridge",
    ),
    Evidence(
        PassageId("tower"), "The tower was built by Ada Wong. It has 12 floors and a garden on its roof."
    ),
]


class LetterEncoder:
    """Counts letters: deterministic, and blind to meaning."""

    space = Space("letters", "", 26, "test")

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts, *, role):
        self.seen += texts
        rows = np.array(
            [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], dtype=np.float32
        )
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@pytest.mark.parametrize("encoder", [None, LetterEncoder()])
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When did the harbour bridge open?", "1932"),
        ("Who built the tower?", "Ada Wong"),
        ("How many floors does the tower have?", "12 floors"),
        ("How many lanes cross the harbour bridge?", "Six lanes"),
    ],
)
def test_the_best_sentence_answers(encoder, question, answer):
    reading = ExtractiveReader(encoder).read(question, EVIDENCE)

    assert answer in reading.claims[0].text
    assert reading.confidence >= ABSTAIN_BELOW
    assert 1 <= len(reading.claims) <= MOST_SENTENCES
    assert reading.reader == "extractive"


def test_headings_and_questions_answer_nothing():
    reading = ExtractiveReader().read("When did the harbour bridge open?", EVIDENCE)
    assert not any(claim.text.endswith("?") or claim.text == "The harbour bridge" for claim in reading.claims)


@pytest.mark.parametrize(
    "question", ["Which enzyme digests lactose?", "What is it?", "", "Who won the election in Peru in 1990?"]
)
def test_it_abstains_when_the_evidence_does_not_speak_of_it(question):
    reading = ExtractiveReader().read(question, EVIDENCE)
    assert reading.abstained
    assert reading.confidence < ABSTAIN_BELOW


def test_it_abstains_without_evidence():
    reading = ExtractiveReader().read("When did the bridge open?", [])
    assert (reading.abstained, reading.confidence) == (True, 0.0)


def test_recalls_belief_breaks_a_tie():
    """Two equal sentences: the one that recall believes in comes first."""
    twins = [
        Evidence(PassageId(str(n)), "The harbour bridge opened in 1932.", probability=n / 2) for n in range(3)
    ]
    ranked = rank_sentences("When did the harbour bridge open?", twins)
    assert [candidate.sentence.index for candidate in ranked] == [2, 1, 0]


def test_the_encoder_sees_only_the_best():
    long = [Evidence(PassageId("l"), " ".join(f"The bridge number {n} opened." for n in range(60)))]
    encoder = LetterEncoder()
    rank_sentences("When did the bridge open?", long, encoder)
    assert len(encoder.seen) == 1 + ENCODED_CANDIDATES


@given(
    question=st.text(max_size=40),
    texts=st.lists(st.text(max_size=100), max_size=3),
    probability=st.floats(0, 1),
)
def test_claims_are_verbatim_whatever_the_text(question, texts, probability):
    evidence = [
        Evidence(PassageId(str(n)), f"{question} {text}", probability=probability)
        for n, text in enumerate(texts)
    ]
    reader = ExtractiveReader()

    reading = reader.read(question, evidence)

    assert 0 <= reading.confidence <= 1
    assert tuple(reader.iter_claims(question, evidence)) == reading.claims
    for claim in reading.claims:
        (citation,) = claim.citations
        assert evidence[citation.index].text[citation.start : citation.end] == citation.quote == claim.text


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When did it open?", "time"),
        ("In what year did it open?", "time"),
        ("How many lanes?", "number"),
        ("Who built it?", "name"),
        ("Which city is it in?", "name"),
        ("Why did it close?", None),
    ],
)
def test_the_kind_of_thing_asked_for(question, kind):
    assert expected_kind(question) == kind
