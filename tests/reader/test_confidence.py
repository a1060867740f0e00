"""Confidence: what the signals are, and that the tables are what tables of probabilities must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.values import Evidence, PassageId
from reader import calibration
from reader.confidence import (
    ABSTAIN_BELOW,
    TYPICAL_BELIEF,
    Signals,
    answerable,
    confidence,
    interpolate,
    signals_of,
)
from reader.extractive import ExtractiveReader, to_claim
from reader.ranking import rank_sentences

QUESTION = "When did the harbour bridge open?"
EVIDENCE = [
    Evidence(PassageId("1"), "The harbour bridge opened in March 1932.", probability=0.7),
    Evidence(PassageId("2"), "The tower was built by Ada Wong. A bridge is near.", probability=0.2),
]
SHARES = st.floats(0, 1)


@pytest.mark.parametrize("knots", [calibration.ANSWERABLE_KNOTS, *calibration.KNOTS.values()])
def test_tables_ascend_and_hold_probabilities(knots):
    scores, chances = zip(*knots, strict=True)
    assert list(scores) == sorted(set(scores))
    assert list(chances) == sorted(chances)
    assert all(0 < chance < 1 for chance in chances)


@given(answered=SHARES, belief=SHARES, lead=SHARES, agreement=SHARES, carried=SHARES, written=st.booleans())
def test_what_comes_out_is_a_probability(answered, belief, lead, agreement, carried, written):
    signals = Signals(answered, belief, lead, agreement, carried)
    assert 0 <= confidence(signals, written=written) < 1
    assert 0 <= answerable(signals) < 1


@given(st.lists(st.tuples(st.floats(-5, 5), SHARES), min_size=1, max_size=5), st.floats(-9, 9))
def test_between_knots_lies_the_line(knots, score):
    knots = sorted({round(at, 3): value for at, value in knots}.items())
    value = interpolate(knots, score)
    values = [own for _, own in knots]
    assert min(values) - 1e-9 <= value <= max(values) + 1e-9
    for at, own in knots:
        assert interpolate(knots, at) == pytest.approx(own)


def test_signals_of_an_answer():
    ranked = rank_sentences(QUESTION, EVIDENCE)
    signals = signals_of([to_claim(ranked[0])], ranked, EVIDENCE)
    assert (signals.belief, signals.agreement, signals.carried) == (0.7, 1.0, 1.0)
    assert 0 < signals.lead < 1
    worse = signals_of([to_claim(ranked[-1])], ranked, EVIDENCE)
    assert (worse.belief, worse.agreement) == (0.2, 0.0)


def test_a_belief_that_was_not_told_is_a_typical_one():
    untold = [Evidence(piece.passage_id, piece.text) for piece in EVIDENCE]
    ranked = rank_sentences(QUESTION, untold)
    assert signals_of((), ranked, untold).belief == TYPICAL_BELIEF


def test_nothing_to_read_is_nothing_known():
    signals = signals_of((), [], [])
    assert (answerable(signals), confidence(signals, written=False)) == (0.0, 0.0)


def test_answering_and_confidence_are_told_apart():
    reading = ExtractiveReader().read(QUESTION, EVIDENCE)
    ranked = rank_sentences(QUESTION, EVIDENCE)
    assert not reading.abstained
    assert answerable(signals_of((), ranked, EVIDENCE)) >= ABSTAIN_BELOW
    assert reading.confidence == confidence(signals_of(reading.claims, ranked, EVIDENCE), written=False)
    assert ExtractiveReader(abstain_below=1.0).read(QUESTION, EVIDENCE).abstained
