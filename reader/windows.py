"""Cut evidence into sentences and find the shortest run of them that holds what is asked for.

A window is a run of one to three sentences of one evidence text; its quote is verbatim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memory.sentences import sentence_spans
from memory.values import Citation, Evidence
from reader.dates import Date, dates_in
from reader.names import codes_in, names_in
from reader.numbers import Quantity, quantities_in
from reader.orders import gives_orders
from reader.statements import statements_of
from reader.words import Word, words_of

LONGEST = 3
"""Sentences in a window, at most."""


@dataclass(frozen=True, eq=False)
class Window:
    """Sentences ``first`` to ``last`` (inclusive) of the evidence at ``index``, at ``start:end``."""

    index: int
    first: int
    last: int
    start: int
    end: int
    quote: str

    @property
    def citation(self) -> Citation:
        """The quote with its place."""
        return Citation(self.index, self.start, self.end, self.quote)

    @cached_property
    def stems(self) -> frozenset[str]:
        """Stems of the words that carry content."""
        return frozenset(word.stem for word in self.words if word.is_content)

    @cached_property
    def words(self) -> list[Word]:
        """All words, their spans counted from the quote's start."""
        return words_of(self.quote)

    @cached_property
    def quantities(self) -> list[Quantity]:
        """Numbers and measures."""
        return quantities_in(self.quote)

    @cached_property
    def dates(self) -> list[Date]:
        """Calendar dates."""
        return dates_in(self.quote)

    @cached_property
    def codes(self) -> frozenset[str]:
        """Identifiers."""
        return codes_in(self.quote)

    @cached_property
    def gives_orders(self) -> bool:
        """Whether it speaks to its reader rather than of anything."""
        return gives_orders(self.quote)

    @cached_property
    def statements(self) -> list[list[frozenset[str]]]:
        """The stems of each statement of each sentence."""
        return [
            [
                frozenset(word.stem for word in words_of(statement.text))
                for statement in statements_of(self.quote[start:end])
            ]
            for start, end in sentence_spans(self.quote)
        ]

    @cached_property
    def names(self) -> list[Word]:
        """Capitalised words."""
        return names_in(self.quote)


def windows_of(evidence: Sequence[Evidence], *, longest: int = LONGEST) -> list[Window]:
    """Return every window of up to ``longest`` sentences, by evidence, then place, then length."""
    found = []
    for index, piece in enumerate(evidence):
        spans = sentence_spans(piece.text)
        for first, (start, _) in enumerate(spans):
            for last in range(first, min(first + longest, len(spans))):
                end = spans[last][1]
                found.append(Window(index, first, last, start, end, piece.text[start:end]))
    return found
