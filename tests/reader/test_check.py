"""A claim stands only when a quoted span carries it."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.values import Evidence, PassageId
from reader.check import check_claim

TEXTS = (
    "The American Broadcasting Company (ABC), stylized as abc since 1957, is a network owned by Disney. "
    "The network is headquartered on Columbus Avenue in Manhattan.",
    "Tesla was born in Smiljan on 10 July 1856. Edison was born in Milan, Ohio. He did not finish school. "
    "The tower was 57 m tall and cost more than $150,000.",
    "The service supports IPv4. It does not support IPv6. Version 3.11.2 was released by Dr. Ada Wong.",
)
EVIDENCE = [Evidence(PassageId(str(n)), text) for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("question", "claim", "quote"),
    [
        ("In what year did ABC stylize its name?", "1957", "since 1957"),
        ("Where is ABC headquartered?", "ABC is headquartered in Manhattan.", "The network is headquartered"),
        ("Where was Tesla born?", "Tesla was born in Smiljan.", "Tesla was born"),
        ("When was he born?", "Tesla was born on July 10th, 1856.", "Tesla was born"),
        ("When was he born?", "Tesla was born on 1856-07-10.", "Tesla was born"),
        ("How tall?", "The tower was 57 metres tall.", "57 m tall"),
        ("Price?", "The tower cost more than 150,000 dollars.", "The tower"),
        ("IPv6?", "The service does not support IPv6.", "It does not support IPv6."),
        ("Which version?", "Version 3.11.2 was released by Ada Wong.", "Dr. Ada Wong."),
        ("Who owns ABC?", "Disney", "owned by Disney"),
    ],
)
def test_carried_claims_bring_their_sentence(question, claim, quote):
    checked = check_claim(claim, question, EVIDENCE)

    assert checked.supported, checked.reason
    (citation,) = checked.citations
    assert quote in citation.quote
    assert EVIDENCE[citation.index].text[citation.start : citation.end] == citation.quote


@pytest.mark.parametrize(
    ("question", "claim", "reason"),
    [
        ("In what year?", "ABC was stylized as abc in 1958.", "number"),
        ("When?", "1958", "number"),
        ("When was he born?", "Tesla was born on 11 July 1856.", "date"),
        ("When was he born?", "Tesla was born on 10 July 1857.", "date"),
        ("Where was Tesla born?", "Tesla was born in Milan.", "name"),
        ("Where was Tesla born?", "Edison was born in Smiljan.", "name"),
        ("Who owns ABC?", "ABC is owned by Comcast.", "name"),
        ("How tall?", "The tower was 57 km tall.", "number"),
        ("Price?", "The tower cost less than $150,000.", "number"),
        ("Did he finish?", "He finished school.", "denies"),
        ("IPv6?", "The service supports IPv6.", "."),
        ("IPv4?", "The service does not support IPv4.", "denies"),
        ("Which version?", "Version 3.11.3 was released by Ada Wong.", "3.11.3"),
        ("Who wrote the opera?", "The tower", "something else"),
        ("Who?", "Ada Wong released Version 3.11.2 of Disney.", "name"),
        ("What is it?", "The network sells cheap plastic umbrellas to tourists.", "no passage"),
        ("What is it?", "It is.", "nothing that could be checked"),
    ],
)
def test_altered_claims_fall(question, claim, reason):
    checked = check_claim(claim, question, EVIDENCE)

    assert not checked.supported
    assert not checked.citations
    assert checked.reason is not None
    assert reason in checked.reason or reason == "."


def test_the_cited_passage_is_tried_first():
    twice = [EVIDENCE[0], EVIDENCE[0]]
    assert check_claim("ABC is headquartered in Manhattan.", "Where?", twice, [1]).citations[0].index == 1


def test_a_wrong_citation_does_not_sink_a_true_claim():
    assert check_claim("Tesla was born in Smiljan.", "Where?", EVIDENCE, [0, 9]).citations[0].index == 1


def test_the_evidences_own_date_carries_a_day():
    chat = Evidence(
        PassageId("c"),
        "Mia: the parcel arrived today.",
        occurred_at=datetime.datetime(2024, 3, 5, tzinfo=datetime.UTC),
    )
    assert check_claim(
        "The parcel arrived on March 5, 2024.", "When did the parcel arrive?", [chat]
    ).supported
    assert not check_claim(
        "The parcel arrived on March 6, 2024.", "When did the parcel arrive?", [chat]
    ).supported


def test_no_evidence_supports_nothing():
    assert check_claim("Tesla was born.", "", []).reason == "there is no evidence"


@given(
    claim=st.text(max_size=60),
    question=st.text(max_size=30),
    texts=st.lists(st.text(max_size=80), max_size=3),
)
def test_quotes_are_verbatim_whatever_the_text(claim, question, texts):
    evidence = [Evidence(PassageId(str(n)), text) for n, text in enumerate(texts)]

    checked = check_claim(claim, question, evidence)

    assert checked.supported == bool(checked.citations)
    for citation in checked.citations:
        assert evidence[citation.index].text[citation.start : citation.end] == citation.quote


@pytest.mark.parametrize("text", TEXTS)
def test_every_sentence_of_the_evidence_carries_itself(text):
    for sentence in text.split(". "):
        claim = sentence.rstrip(".") + "."
        assert check_claim(claim, claim, EVIDENCE).supported, claim
