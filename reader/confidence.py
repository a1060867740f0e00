"""Turn what is known about an answer into probabilities: that there is one, and that the one given is right.

The first decides whether anything is said at all (``ABSTAIN_BELOW`` is the operating point); the second is
only told. A logistic brings the signals into one score, and a table found by isotonic regression (Zadrozny
and Elkan 2002) says how often it was so at that score. All of it is made by ``bench/calibrate_abstention.py``
and stands in ``reader.calibration``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from memory.values import Citation, Claim, Evidence
from reader.answerability import answerability
from reader.calibration import ANSWERABLE_KNOTS, ANSWERABLE_WEIGHTS, KNOTS, WEIGHTS
from reader.ranking import ScoredSentence

ABSTAIN_BELOW = 0.4
"""A reader abstains when ``answerable`` is lower; its cost and gain: ``bench/results/checked.json``."""

TYPICAL_BELIEF = 0.4
"""Taken for recall's probability where whoever gave the evidence did not say any."""

BEST_SENTENCES = 2
"""An answer agrees with the ranking when it rests on one of so many best sentences."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known about an answer, each 0..1.

    ``answerability``: the estimate that the evidence holds the answer; ``belief``: recall's probability of
    the passage that the answer rests on; ``lead``: how far the best sentence is ahead of the best one of
    another passage; ``agreement``: share of the supported claims that rest on one of the best sentences;
    ``carried``: share of what was said that the evidence carries.
    """

    answerability: float
    belief: float
    lead: float
    agreement: float
    carried: float

    @property
    def features(self) -> tuple[float, ...]:
        """All signals in the order of the weights, a constant 1 first, those known before answering next."""
        return (1.0, _logit(self.answerability), self.belief, self.lead, self.agreement, self.carried)


def signals_of(
    claims: Sequence[Claim], ranked: Sequence[ScoredSentence], evidence: Sequence[Evidence]
) -> Signals:
    """Return the signals of an answer; of an abstention, those of the best sentence."""
    if not ranked:
        return Signals(0.0, 0.0, 0.0, 0.0, 0.0)
    best = ranked[0]
    supported = [claim for claim in claims if claim.supported]
    rests_on = [citation.index for claim in supported for citation in claim.citations[:1]]
    rests_on = rests_on or [best.sentence.index]
    others = [other.score for other in ranked if other.sentence.index != best.sentence.index]
    ahead = best.score - others[0] if others else math.inf
    is_told = any(piece.probability for piece in evidence)
    agreeing = sum(any(_is_best(cited, ranked) for cited in claim.citations) for claim in supported)
    return Signals(
        answerability=answerability(ranked),
        belief=max(evidence[index].probability for index in rests_on) if is_told else TYPICAL_BELIEF,
        lead=1.0 - math.exp(-max(0.0, ahead)),
        agreement=agreeing / len(supported) if supported else 1.0,
        carried=len(supported) / len(claims) if claims else 1.0,
    )


def _is_best(cited: Citation, ranked: Sequence[ScoredSentence]) -> bool:
    """Say whether a quote holds one of the best sentences, or lies in it."""
    return any(
        other.sentence.index == cited.index
        and (
            cited.start <= other.sentence.start < other.sentence.end <= cited.end
            or other.sentence.start <= cited.start < cited.end <= other.sentence.end
        )
        for other in ranked[:BEST_SENTENCES]
    )


def answerable(signals: Signals) -> float:
    """Return the probability, 0..1, that the evidence holds the answer; known before anything is said."""
    if not signals.answerability:
        return 0.0  # nothing was asked about, or there was nothing to read
    known = signals.features[: len(ANSWERABLE_WEIGHTS)]
    score = sum(weight * value for weight, value in zip(ANSWERABLE_WEIGHTS, known, strict=True))
    return interpolate(ANSWERABLE_KNOTS, score)


def confidence(signals: Signals, *, written: bool) -> float:
    """Return the probability, 0..1, that the answer is right; ``written``: in a model's words, not quoted.

    While ``reader.calibration`` has quoted answers only, a written one is as sure as the quotes that it rests
    on, times the share of it that they carry.
    """
    if not signals.answerability:
        return 0.0
    kind = written if written in KNOTS else False
    score = sum(weight * value for weight, value in zip(WEIGHTS[kind], signals.features, strict=True))
    chance = interpolate(KNOTS[kind], score)
    return chance if kind == written else chance * signals.carried


def interpolate(knots: Sequence[tuple[float, float]], score: float) -> float:
    """Return the value at ``score`` on the line through ``knots`` (ascending), flat beyond both ends."""
    after = bisect_right([knot for knot, _ in knots], score)
    if after in (0, len(knots)):
        return knots[min(after, len(knots) - 1)][1]
    (left, low), (right, high) = knots[after - 1 : after + 1]
    return low + (high - low) * (score - left) / (right - left)


def _logit(probability: float) -> float:
    bounded = min(max(probability, _SURE), 1 - _SURE)
    return math.log(bounded / (1 - bounded))


_SURE = 0.001
