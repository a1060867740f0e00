"""What a service acknowledged, and what its replies then owe: the books of a load test.

Every document carries a word that no other has, so that it can be told in any reply and asked for by recall.
Nothing here knows how a request is sent; times are seconds on one monotonic clock.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

SYLLABLES = tuple(map("".join, product("bdfgklmnprtvz", "aou")))
LENGTH = 5
STRIDE = 40_503_001
"""Prime to the number of words: neighbours in the books get words that are not alike."""

WORD = re.compile(rf"\b(?:[bdfgklmnprtvz][aou]){{{LENGTH}}}k\b")
"""Made of letters alone and ending in ``k``: one token, which no stemmer shortens."""


@dataclass(slots=True, eq=False)
class Document:
    """One document: from ``source_id`` on acknowledged, from ``forgotten_at`` on owed to be gone."""

    external_id: str
    word: str
    text: str
    source_id: str = ""
    is_leaving: bool = False
    forgotten_at: float | None = None
    was_found: bool = False


class Books:
    """Documents by whether they are to be there or gone, and the judgement of replies.

    One whose forgetting was asked for and not acknowledged is in neither list: it owes nothing.
    """

    def __init__(self, texts: Sequence[str], *, seed: int = 13) -> None:
        self._texts = texts
        self._random = random.Random(seed)
        self._by_word: dict[str, Document] = {}
        self._by_source: dict[str, Document] = {}
        self.kept: list[Document] = []
        self.gone: list[Document] = []

    def write(self) -> Document:
        """Return a new document, to be sent."""
        number = len(self._by_word)
        word = make_word(number)
        text = f"{self._texts[number % len(self._texts)]} The reference is {word}."
        document = Document(f"load/{number}", word, text)
        self._by_word[word] = document
        return document

    def acknowledge(self, document: Document, source_id: str) -> None:
        """Note that the service took it: from here on it may not be lost."""
        document.source_id = source_id
        self._by_source[source_id] = document
        self.kept.append(document)

    def choose_leaving(self, count: int) -> list[Document]:
        """Take some documents out of what is kept, to be forgotten; as many as there are."""
        chosen = []
        for _ in range(min(count, len(self.kept))):
            at = self._random.randrange(len(self.kept))
            self.kept[at], self.kept[-1] = self.kept[-1], self.kept[at]
            document = self.kept.pop()
            document.is_leaving = True
            chosen.append(document)
        return chosen

    def forget(self, documents: Iterable[Document], at: float) -> None:
        """Note that forgetting them was acknowledged: no request sent later may find them."""
        for document in documents:
            document.forgotten_at = at
            self.gone.append(document)

    def any_kept(self) -> Document | None:
        """Return one that is to be there."""
        return self._random.choice(self.kept) if self.kept else None

    def any_gone(self) -> Document | None:
        """Return one that was forgotten: every other time one of the latest, where a race would show."""
        if not self.gone:
            return None
        return self._random.choice(self.gone[-20:] if self._random.random() < 0.5 else self.gone)

    def list_resurrected(self, body: str, source_ids: Iterable[str], sent_at: float) -> set[Document]:
        """Return what a reply shows although it was forgotten before the request was sent.

        Both the ids it names and the words anywhere in its body are looked at.
        """
        shown = [self._by_source.get(source_id) for source_id in source_ids]
        shown += [self._by_word.get(word) for word in WORD.findall(body)]
        return {
            document
            for document in shown
            if document is not None and document.forgotten_at is not None and document.forgotten_at <= sent_at
        }

    def has_vanished(self, document: Document, source_ids: Iterable[str]) -> bool:
        """Say whether a recall by its word missed a document that an earlier one found.

        A document that is not indexed yet owes nothing to recall, and one that is leaving owes nothing.
        """
        if document.source_id in source_ids:
            document.was_found = True
            return False
        return document.was_found and not document.is_leaving


def make_word(number: int) -> str:
    """Return the word of a number; different ones up to 39⁵."""
    base = len(SYLLABLES)
    rest = number * STRIDE % base**LENGTH
    syllables = []
    for _ in range(LENGTH):
        rest, digit = divmod(rest, base)
        syllables.append(SYLLABLES[digit])
    return "".join(syllables) + "k"
