"""Cut what a model writes into claims, while it writes.

A claim is a sentence with the marks of the evidence it names ([2], [1, 3]) taken off. A sentence is
given out only when the next one has begun, so that a mark after its full stop is still its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory.sentences import sentence_spans

_MARK = re.compile(r"\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_LEADING_MARKS = re.compile(r"(?:\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\])+[\s.]*")

_REFUSAL = re.compile(
    r"\bI (?:do not|don['’]t|cannot|can['’]t) (?:know|answer|find|tell|determine)"
    r"|\b(?:passages?|texts?|evidence|context) (?:does|do|did) not (?:hold|contain|mention|provide|state|say)"
    r"|\bno (?:information|mention|answer)\b"
    r"|\b(?:is|are) not (?:mentioned|provided|stated|specified)(?: in| by)? (?:the|this|any) (?:\w+ )?"
    r"(?:passage|text|evidence|context)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Draft:
    """One unchecked sentence, and the evidence it names (indices from 0)."""

    text: str
    cited: tuple[int, ...]


class DraftSplitter:
    """Takes text in pieces, gives whole sentences out."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, piece: str) -> list[Draft]:
        """Add text; return the sentences that it has ended."""
        self._pending += piece
        spans = self._spans()
        if len(spans) < 2:
            return []
        ready, cut = spans[:-1], spans[-1][0]
        if not self._pending[cut:].strip() or self._pending[cut:].lstrip().startswith("["):
            return []
        drafts = [_draft(self._pending[start:end]) for start, end in ready]
        self._pending = self._pending[cut:]
        return [draft for draft in drafts if draft.text]

    def finish(self) -> list[Draft]:
        """Return what is left when the text has ended."""
        drafts = [_draft(self._pending[start:end]) for start, end in self._spans()]
        self._pending = ""
        return [draft for draft in drafts if draft.text]

    def _spans(self) -> list[tuple[int, int]]:
        """Sentence spans; marks at a sentence's front are moved to the end of the one before."""
        spans: list[tuple[int, int]] = []
        for start, end in sentence_spans(self._pending):
            leading = _LEADING_MARKS.match(self._pending, start, end)
            if leading is not None and spans:
                spans[-1] = (spans[-1][0], leading.end())
                start = leading.end()
            if start < end:
                spans.append((start, end))
        return spans


def is_refusal(text: str) -> bool:
    """Say whether a sentence only says that there is no answer."""
    return _REFUSAL.search(text) is not None


def _draft(text: str) -> Draft:
    cited: list[int] = []
    for mark in _MARK.finditer(text):
        cited += [int(number) - 1 for number in mark[1].split(",")]
    bare = re.sub(r"\s+", " ", _MARK.sub("", text)).strip()
    if not any(char.isalnum() for char in bare):
        bare = ""
    return Draft(bare, tuple(dict.fromkeys(index for index in cited if index >= 0)))
