"""The port through which a model says how far a quote carries a claim.

Rules come first (``reader.check``): what they reject stays rejected, and a model may only reject further.
Implementations: ``alignment`` (the encoder), ``judge`` (a causal model's yes or no), ``span_classifier``
and ``pair_classifier`` (Hugging Face classifiers), one file each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim and the quote that should carry it; the question says what a short claim is about."""

    claim: str
    quote: str
    question: str = ""


class Entailment(Protocol):
    """Scores pairs. Deterministic; a score does not depend on the other pairs. Safe to share."""

    @property
    def least(self) -> float:
        """The score from which on a quote is taken to carry its claim."""

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Return how far each quote carries its claim, 0..1, one for each pair.

        Raises ``UnavailableError`` when the model cannot run (out of memory).
        """
