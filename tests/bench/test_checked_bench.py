"""What ``bench.checked`` counts, on answers made by hand."""

from __future__ import annotations

import pytest

from bench.checked import Answered, abstention, carried, citations, summary, unsupported
from bench.squad13 import Question
from memory.values import Citation, Claim, Evidence, PassageId, Reading, SourceId

QUESTION = Question("When did the bridge open?", "gold", "Bridge", ("1932",))
GOLD = Evidence(PassageId("g"), "The bridge opened in 1932.", source_id=SourceId("gold"))
OTHER = Evidence(PassageId("o"), "The tower opened in 1999.", source_id=SourceId("other"))


def answered(*claimed: int, confidence: float, present: bool = True) -> Answered:
    """Return an answer that quotes these pieces of the evidence; none is an abstention."""
    evidence = [GOLD if present else OTHER, OTHER]
    claims = tuple(
        Claim(piece.text, supported=True, citations=(Citation(index, 0, len(piece.text), piece.text),))
        for index, piece in ((index, evidence[index]) for index in claimed)
    )
    return Answered(QUESTION, evidence, Reading(claims, confidence, "told"), present)


def test_citations_are_judged_by_the_gold_paragraph() -> None:
    figures = citations(
        [answered(0, confidence=0.9), answered(0, 1, confidence=0.9), answered(1, confidence=0.9)]
    )
    assert figures["answers"] == 3
    assert figures["citation_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["citation_precision"] == 0.5
    assert figures["first_citation_precision"] == pytest.approx(2 / 3, abs=1e-4)


def cite(text: str, *indices: int) -> Answered:
    """Return an answer in words of its own that cites these pieces, the whole of each."""
    evidence = [GOLD, OTHER]
    cited = tuple(Citation(index, 0, len(evidence[index].text), evidence[index].text) for index in indices)
    claims = (Claim(text, supported=True, citations=cited),)
    return Answered(QUESTION, evidence, Reading(claims, 0.9, "told"), present=True)


def test_a_claim_is_carried_by_its_quotes_and_a_quote_is_needed_or_it_is_imprecise() -> None:
    said = GOLD.text
    assert carried([cite(said, 0)]) == {"claims": 1, "recall": 1.0, "precision": 1.0}
    assert carried([cite(said, 0, 1)]) == {"claims": 1, "recall": 1.0, "precision": 0.5}
    assert carried([cite(said, 1)]) == {"claims": 1, "recall": 0.0, "precision": 0.0}
    both = "The bridge opened in 1932, and the tower opened in 1999."
    assert carried([cite(both, 0, 1)]) == {"claims": 1, "recall": 1.0, "precision": 1.0}


def test_the_summary_names_what_a_reader_is_judged_by() -> None:
    asked = [answered(0, confidence=0.9), answered(confidence=0.1, present=False)]
    figures = summary(
        {
            "citations": citations(asked),
            "claims": unsupported(asked, asked),
            "abstention": abstention(asked, asked),
        }
    )
    assert figures == {
        "citation_recall": 1.0,
        "citation_precision": 1.0,
        "unsupported_rate_before": 0.0,
        "unsupported_rate": 0.0,
        "answered_without_evidence": 0.0,
        "ece": pytest.approx(0.1),
    }


def test_claims_before_and_after() -> None:
    free = [answered(0, confidence=0.9), answered(0, confidence=0.1, present=False)]
    asked = [free[0], answered(confidence=0.1, present=False)]
    figures = unsupported(asked, free)
    assert (figures["claims_before"], figures["unsupported_before"]) == (2, 0.5)
    assert (figures["claims_after"], figures["unsupported_after"]) == (1, 0.0)


def test_risk_grows_with_coverage_when_the_confident_are_right() -> None:
    free = [answered(0, confidence=0.9), answered(0, confidence=0.1, present=False)]
    figures = abstention([free[0], answered(confidence=0.1, present=False)], free)
    assert figures["answered_with_evidence"] == 1.0
    assert figures["answered_without_evidence"] == 0.0
    assert figures["operating_point"] == {"coverage": 0.5, "risk": 0.0}
    assert figures["area_under_risk_coverage"] == figures["least_area_possible"] == 0.25
