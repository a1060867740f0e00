"""A joined sentence stands only when each of its statements does, and is cited no more than it needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.values import Evidence, PassageId
from reader.check import check_claim
from reader.entailment import Pair
from reader.statement_check import MOST_QUOTES_TRIED, check_sentence

EVIDENCE = [
    Evidence(
        PassageId("t"), "Tesla was born in Smiljan. He studied in Graz. Tesla died in New York in 1943."
    ),
    Evidence(PassageId("e"), "Edison was born in Milan. Edison died in West Orange in 1931."),
    Evidence(PassageId("k"), "The kit contains steel and copper. A lid closes the kit."),
]


class SaysNo:
    """Entailment that holds nothing of quotes with a word, and notes what it was asked."""

    least = 0.5

    def __init__(self, word: str) -> None:
        self.word = word
        self.asked: list[Pair] = []

    def scores(self, pairs):
        self.asked += pairs
        return [0.1 if self.word in pair.quote else 0.9 for pair in pairs]


@pytest.mark.parametrize(
    ("sentence", "quotes"),
    [
        ("Tesla was born in Smiljan and died in New York.", 2),
        ("Tesla was born in Smiljan and Edison was born in Milan.", 2),
        ("The kit contains steel and copper.", 1),
        ("Tesla died in New York in 1943.", 1),
    ],
)
def test_each_statement_brings_its_quote(sentence, quotes):
    checked = check_sentence(sentence, "What is known?", EVIDENCE)

    assert checked.claim.supported, checked.claim.reason
    assert checked.claim.text == sentence
    assert len(checked.claim.citations) == quotes
    for claim in (checked.claim, *checked.statements):
        for citation in claim.citations:
            assert EVIDENCE[citation.index].text[citation.start : citation.end] == citation.quote


@pytest.mark.parametrize(
    ("sentence", "fallen"),
    [
        ("Tesla was born in Smiljan and died in West Orange.", "West Orange"),
        ("Tesla was born in Smiljan and Edison died in New York.", "New York"),
        ("The kit contains steel, copper and glass.", "glass"),
        ("Tesla, who was born in Milan, died in New York.", "Milan"),
        ("Tesla was born in Smiljan and died in 1931.", "1931"),
    ],
)
def test_one_false_statement_fells_the_sentence(sentence, fallen):
    checked = check_sentence(sentence, "What is known?", EVIDENCE)

    assert not checked.claim.supported
    assert not checked.claim.citations
    assert any(fallen in statement.text for statement in checked.statements if not statement.supported)
    assert any(statement.supported for statement in checked.statements)


def test_a_false_item_passes_as_one_claim_but_not_as_a_statement():
    """What checking by statements is for: three of four words are there."""
    joined = "The kit contains steel, copper and glass."
    assert check_claim(joined, "What does the kit contain?", EVIDENCE).supported
    assert not check_sentence(joined, "What does the kit contain?", EVIDENCE).claim.supported


@pytest.mark.parametrize(
    ("sentence", "supported"),
    [
        ("Alice won gold.", True),
        ("Bob won silver.", True),
        ("Alice won 3 medals in Graz.", True),
        ("Alice won 5 medals.", False),
        ("Bob won in Graz.", False),
        ("Alice won 3 medals and Bob won 5.", True),
        ("Alice won 5 medals and Bob won 3.", False),
    ],
)
def test_what_a_sentence_says_of_one_is_not_said_of_the_other(sentence, supported):
    evidence = [
        Evidence(PassageId("m"), "Alice won gold and Bob won silver."),
        Evidence(PassageId("n"), "Alice won 3 medals in Graz and Bob won 5 medals in Lyon."),
    ]
    assert check_sentence(sentence, "Who won what?", evidence).claim.supported == supported


@pytest.mark.parametrize(
    ("sentence", "supported"),
    [
        ("Kane scored 6 goals in 2018.", True),
        ("England came fourth in 2018.", True),
        ("England scored 6 goals.", False),
        ("Bob arrived in Oslo on 3 May 2020.", True),
        ("Alice left Rome on 3 May 2020.", True),
        ("Alice arrived in Oslo on 3 May 2020.", False),
    ],
)
def test_what_a_sentence_opens_with_is_said_of_both_its_clauses(sentence, supported):
    evidence = [
        Evidence(PassageId("g"), "In 2018 England came fourth and Kane scored 6 goals."),
        Evidence(PassageId("o"), "On 3 May 2020 Alice left Rome and Bob arrived in Oslo."),
    ]
    asked = "Who came fourth, scored, left or arrived?"
    assert check_sentence(sentence, asked, evidence).claim.supported == supported
    assert check_claim(sentence, asked, evidence).supported == supported


def test_entailment_may_reject_but_never_rescue():
    refusing = SaysNo("Smiljan")
    checked = check_sentence("Tesla was born in Smiljan.", "Where?", EVIDENCE, entailment=refusing)
    assert checked.claim.reason == "the quote has its words but does not say it"
    assert 1 <= len(refusing.asked) <= MOST_QUOTES_TRIED

    agreeing = SaysNo("nothing has this word")
    assert not check_sentence(
        "Tesla was born in Milan.", "Where?", EVIDENCE, entailment=agreeing
    ).claim.supported
    assert not agreeing.asked


def test_the_next_quote_is_tried_when_entailment_rejects_the_best():
    twice = [Evidence(PassageId("a"), "Tesla was born in Smiljan (draft)."), EVIDENCE[0]]
    checked = check_sentence("Tesla was born in Smiljan.", "Where?", twice, entailment=SaysNo("draft"))
    assert checked.claim.supported
    assert "draft" not in checked.claim.citations[0].quote


def test_a_quote_goes_that_the_others_make_needless():
    """The first statement finds its quote in the passage that the draft named, the second in another that
    says both: one quote is enough."""
    both = [
        Evidence(PassageId("1"), "The harbour bridge opened in 1932."),
        Evidence(PassageId("2"), "The harbour bridge opened in 1932 and closed in 1999."),
    ]
    checked = check_sentence("The harbour bridge opened in 1932 and closed in 1999.", "When?", both, [0])

    assert checked.claim.supported
    assert [citation.index for citation in checked.claim.citations] == [1]


@given(
    sentence=st.text(max_size=60),
    question=st.text(max_size=30),
    texts=st.lists(st.text(max_size=80), max_size=3),
)
def test_quotes_are_verbatim_whatever_the_text(sentence, question, texts):
    evidence = [Evidence(PassageId(str(n)), text) for n, text in enumerate(texts)]

    checked = check_sentence(sentence, question, evidence)

    assert checked.claim.supported == all(statement.supported for statement in checked.statements)
    assert checked.claim.supported == bool(checked.claim.citations)
    for citation in checked.claim.citations:
        assert evidence[citation.index].text[citation.start : citation.end] == citation.quote


@given(
    parts=st.lists(
        st.sampled_from(("Tesla was born in Smiljan", "Tesla died in New York", "Edison was born in Milan")),
        min_size=1,
        max_size=3,
        unique=True,
    )
)
def test_citations_are_minimal(parts):
    """Without any one of them some statement is carried by none of the rest."""
    sentence = " and ".join(parts) + "."
    checked = check_sentence(sentence, "Who was born or died where?", EVIDENCE)

    assert checked.claim.supported
    assert len(checked.claim.citations) == len(parts)


def test_entailment_is_asked_of_a_statement_and_a_quote_once():
    says_no = SaysNo("nothing of it")
    sentence = "Tesla was born in Smiljan and Edison was born in Milan."
    checked = check_sentence(sentence, "Who was born where?", EVIDENCE, entailment=says_no)
    assert checked.claim.supported
    assert len(says_no.asked) == len(set(says_no.asked)) > len(checked.statements)
