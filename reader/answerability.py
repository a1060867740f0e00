"""Estimate whether the evidence holds the answer to a question at all.

A logistic over the features of the best sentence, fitted by ``bench/calibrate_abstention.py`` on
questions whose paragraph was among the evidence or had been taken out of it. It knows the words only;
``reader.confidence`` puts what recall believed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from reader.ranking import ScoredSentence

WEIGHTS: dict[bool, tuple[float, ...]] = {
    False: (-3.5, 1.23, 2.11, 0.99, 0.23, 2.09, -1.19),
    True: (-5.68, 1.41, 1.79, 0.71, 0.15, 1.52, -0.76, 4.64),
}
"""Weights of ``ScoredSentence.features``, without and with an encoder.

Fitted on 900 squad13 questions of eight articles, asked with their paragraph among five and with five
others of the nearest (half and half: the estimate takes even odds for granted). On 450 questions of
five other articles: area under the ROC curve .80 and .84, expected calibration error .04 and .03.
"""


def answerability(ranked: Sequence[ScoredSentence]) -> float:
    """Return the estimated probability, 0..1, that the evidence holds the answer; 0 without a sentence."""
    if not ranked:
        return 0.0
    best = ranked[0]
    weights = WEIGHTS[best.similarity is not None]
    logit = sum(weight * value for weight, value in zip(weights, best.features, strict=True))
    return 1 / (1 + math.exp(-logit))
