"""Answer with the best sentences of the evidence, word for word; no language model.

A claim is its own quote, so it is supported as it stands; the doubt left is whether it answers,
and that is the confidence.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict

from memory.ports import Encoder, Shelf
from memory.values import Claim, Conflict, Evidence, Explanation, Reading
from reader.confidence import ABSTAIN_BELOW, answerable, confidence, signals_of
from reader.conflicts import settle
from reader.ranking import ScoredSentence, rank_sentences

MOST_SENTENCES = 3
"""Sentences in an answer, at most."""

CLOSE_LOGITS = 0.7
"""A further sentence is taken only when its score is so near to the best one's."""


class ExtractiveReader:
    """Implements ``memory.ports.Reader``. Holds no state between questions."""

    def __init__(self, encoder: Encoder | None = None, *, abstain_below: float = ABSTAIN_BELOW) -> None:
        """``abstain_below`` is the least probability of an answer at which anything is quoted."""
        self._encoder = encoder
        self._abstain_below = abstain_below

    @property
    def name(self) -> str:
        return "extractive"

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield the claims of ``read``, and return its reading."""
        reading = self.read(question, evidence, shelf, explain=explain)
        yield from reading.claims
        return reading

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return up to three sentences, best first; none when the evidence hardly speaks of the question.

        Where the evidence disagrees with one of them, what ``reader.conflicts`` makes of it.
        ``confidence`` is the probability that the answer is right, or that the best sentence would be one.
        """
        started = time.perf_counter()
        ranked = rank_sentences(question, evidence, self._encoder)
        chance = answerable(signals_of((), ranked, evidence))
        chosen = choose_sentences(ranked) if chance >= self._abstain_below else []
        conflicts: list[Conflict] = []
        claims = tuple(settle([to_claim(one) for one in chosen], question, evidence, conflicts))
        signals = signals_of(claims, ranked, evidence)
        milliseconds = (time.perf_counter() - started) * 1000
        return Reading(
            claims,
            confidence(signals, written=False),
            self.name,
            timings_ms={"rank": milliseconds},
            explanation=Explanation(
                None, chance, self._abstain_below, asdict(signals), conflicts=tuple(conflicts)
            )
            if explain
            else None,
        )


def choose_sentences(ranked: Sequence[ScoredSentence]) -> list[ScoredSentence]:
    """Return the best sentence and those near to it that add something."""
    chosen: list[ScoredSentence] = []
    said: set[str] = set()
    for candidate in ranked:
        if chosen and chosen[0].score - candidate.score > CLOSE_LOGITS:
            break
        stems = candidate.sentence.stems
        if chosen and len(stems & said) > _REPEATED_SHARE * len(stems):
            continue
        chosen.append(candidate)
        said |= stems
        if len(chosen) == MOST_SENTENCES:
            break
    return chosen


def to_claim(candidate: ScoredSentence) -> Claim:
    """Return the claim that a sentence is: its own words, quoted."""
    return Claim(candidate.sentence.quote, supported=True, citations=(candidate.sentence.citation,))


_REPEATED_SHARE = 0.7
"""A sentence of which so much was said already adds nothing."""
