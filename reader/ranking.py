"""Rank the sentences of the evidence by how likely they hold the answer to a question.

Words are weighed by how rare they are in this very evidence; names and numbers of the question count
double. An encoder, when there is one, adds the meaning of the best candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory.ports import Encoder
from memory.values import Evidence
from reader.expectation import expected_kind, has_kind
from reader.names import codes_in, names_in
from reader.windows import Window, windows_of
from reader.words import content_stems, words_of

KEY_WEIGHT = 2.0
"""How much more a name or a number of the question weighs than another word."""

ENCODED_CANDIDATES = 12
"""The encoder sees only so many sentences: encoding costs more than all the rest."""

PROBABILITY_WEIGHT = 0.5
"""Weight of recall's belief beside the fitted features, in logits. Not fitted: its scale is recall's."""

RANK_WEIGHTS: dict[bool, tuple[float, ...]] = {
    False: (-6.88, 4.38, 0.84, 0.55, 0.99, 2.57, -0.78),
    True: (-8.31, 2.84, 0.93, 0.66, 0.84, 1.64, -0.16, 4.74),
}
"""Weights of ``ScoredSentence.features``, without and with an encoder.

Fitted by ``bench/calibrate_abstention.py`` on 900 questions of eight squad13 articles, each with its
paragraph among five. On 450 questions of five other articles the best sentence held the answer in
66 % without an encoder and in 72 % with all-MiniLM-L6-v2.
"""


@dataclass(frozen=True, slots=True)
class ScoredSentence:
    """A sentence with its features, each about 0..1, and its score in logits.

    ``coverage``: weighted share of the question's words in it; ``nearby``: the same with both neighbours,
    title and heading; ``passage``: in the whole passage; ``kind``: has the kind of thing asked for;
    ``keys``: share of the question's names and numbers in the passage, title or heading; ``news``: ten or
    more content words that the question has not; ``similarity``: cosine to the question, with an encoder.
    """

    sentence: Window
    coverage: float
    nearby: float
    passage: float
    kind: float
    keys: float
    news: float
    similarity: float | None = None
    score: float = 0.0

    @property
    def features(self) -> tuple[float, ...]:
        """All features in the order of the weights, a constant 1 first."""
        plain = (1.0, self.coverage, self.nearby, self.passage, self.kind, self.keys, self.news)
        return plain if self.similarity is None else (*plain, self.similarity)


def rank_sentences(
    question: str, evidence: Sequence[Evidence], encoder: Encoder | None = None
) -> list[ScoredSentence]:
    """Return the sentences that could answer, best first; equal scores keep the order of the evidence.

    Headings, questions and orders to the reader answer nothing and are left out, and so are words nothing
    was asked about.
    """
    sentences = windows_of(evidence, longest=1)
    asked = content_stems(question)
    if not asked or not sentences:
        return []
    weights = _weights(question, asked, sentences)
    kind, words = expected_kind(question), words_of(question)
    keys = _keys(question) & asked
    scored = []
    for sentence in sentences:
        if not _is_statement(sentence):
            continue
        piece = evidence[sentence.index]
        around = [other for other in sentences if other.index == sentence.index]
        outside = content_stems(" ".join([piece.title or "", *piece.heading]))
        near = set(sentence.stems | outside)
        passage = set(sentence.stems | outside)
        for other in around:
            passage |= other.stems
            if abs(other.first - sentence.first) == 1:
                near |= other.stems
        plain = ScoredSentence(
            sentence,
            coverage=_share(asked & sentence.stems, asked, weights),
            nearby=_share(asked & near, asked, weights),
            passage=_share(asked & passage, asked, weights),
            kind=has_kind(kind, sentence, words),
            keys=len(keys & passage) / len(keys) if keys else 1.0,
            news=min(len(sentence.stems - asked), 10) / 10,
        )
        scored.append(_with_score(plain, piece))
    ranked = sorted(scored, key=lambda candidate: candidate.score, reverse=True)
    if encoder is None or not ranked:
        return ranked
    best = ranked[:ENCODED_CANDIDATES]
    query = encoder.encode([question], role="query")[0]
    rows = encoder.encode([candidate.sentence.quote for candidate in best], role="passage")
    encoded = [
        _with_score(replace(candidate, similarity=float(row @ query)), evidence[candidate.sentence.index])
        for candidate, row in zip(best, rows, strict=True)
    ]
    return sorted(encoded, key=lambda candidate: candidate.score, reverse=True)


def _with_score(candidate: ScoredSentence, piece: Evidence) -> ScoredSentence:
    weights = RANK_WEIGHTS[candidate.similarity is not None]
    score = sum(weight * value for weight, value in zip(weights, candidate.features, strict=True))
    return replace(candidate, score=score + PROBABILITY_WEIGHT * piece.probability)


def _weights(question: str, asked: frozenset[str], sentences: Sequence[Window]) -> dict[str, float]:
    """Return the weight of every word asked about: rarity among the sentences, doubled for keys."""
    keys = _keys(question)
    weights = {}
    for stem in asked:
        holding = sum(stem in sentence.stems for sentence in sentences)
        rarity = math.log(1 + (len(sentences) - holding + 0.5) / (holding + 0.5))
        weights[stem] = rarity * (KEY_WEIGHT if stem in keys else 1.0)
    return weights


def _keys(question: str) -> frozenset[str]:
    """Stems of the question's names, codes and numbers."""
    numbers = {word.stem for word in words_of(question) if any(char.isdigit() for char in word.text)}
    return frozenset({name.stem for name in names_in(question)} | set(codes_in(question)) | numbers)


def _share(held: frozenset[str], asked: frozenset[str], weights: dict[str, float]) -> float:
    return sum(weights[stem] for stem in held) / sum(weights[stem] for stem in asked)


def _is_statement(sentence: Window) -> bool:
    """False for a question, for a heading (few words and no full stop), and for an order to the reader."""
    if sentence.gives_orders:
        return False
    bare = sentence.quote.rstrip("\"')]}”’»*_ ")
    if bare.endswith(("?", "？", ":", "：")):
        return False
    closed = bare.endswith((".", "!", "…", "。", "！", ";", "；"))
    return closed or len(sentence.words) >= _FEWEST_WORDS or bool(sentence.quantities or sentence.dates)


_FEWEST_WORDS = 4
"""A line of fewer words and no full stop or number is taken for a heading."""
