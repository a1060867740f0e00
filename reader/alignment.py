"""Entailment by alignment: the encoder's cosine of claim and quote, and the words that they share.

Cheap, and coarse: it tells a claim about something else, not one that says the opposite, which is the
rules' business. Every sentence of the quote is compared by itself, since a long quote dilutes a short claim.
"""

from __future__ import annotations

from collections.abc import Sequence

from memory.ports import Encoder
from memory.sentences import sentence_spans
from reader.entailment import Pair
from reader.words import content_stems

LEAST_ALIGNMENT = 0.6
"""All of 144 true statements of squad13 scored more with all-MiniLM-L6-v2, but so did the altered ones that
the rules let pass: of what has the words, the encoder does not tell what is said.
"""


class Alignment:
    """Implements ``reader.entailment.Entailment`` over an encoder."""

    def __init__(self, encoder: Encoder, *, least: float = LEAST_ALIGNMENT) -> None:
        self._encoder = encoder
        self._least = least

    @property
    def least(self) -> float:
        return self._least

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Return the mean of best cosine (0 when negative) and share of the claim's words, for each pair.

        A claim of a few words is compared with its question in front, without which it has no meaning.
        """
        if not pairs:
            return []
        claims = [_said(pair) for pair in pairs]
        quotes = [_sentences(pair.quote) for pair in pairs]
        texts = list(dict.fromkeys([*claims, *(sentence for each in quotes for sentence in each)]))
        rows = dict(zip(texts, self._encoder.encode(texts, role="passage"), strict=True))
        return [
            (
                max(0.0, *(min(1.0, float(rows[claim] @ rows[sentence])) for sentence in sentences))
                + _share(pair)
            )
            / 2
            for pair, claim, sentences in zip(pairs, claims, quotes, strict=True)
        ]


_SENTENCE_WORDS = 4
"""A claim of fewer words of content is no sentence."""


def _said(pair: Pair) -> str:
    is_sentence = len(content_stems(pair.claim)) >= _SENTENCE_WORDS or not pair.question
    return pair.claim if is_sentence else f"{pair.question} {pair.claim}"


def _sentences(quote: str) -> list[str]:
    return [quote[start:end] for start, end in sentence_spans(quote)] or [quote]


def _share(pair: Pair) -> float:
    """Share of the claim's words of content that stand in quote or question."""
    said = content_stems(pair.claim)
    return len(said & (content_stems(pair.quote) | content_stems(pair.question))) / len(said) if said else 1.0
