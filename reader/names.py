"""Find names and codes: the words a claim may not make up.

A name is a capitalised word (not merely the first of its sentence), a code a word with digits and
letters in it (B12, v2.3.1, AES-256).
"""

from __future__ import annotations

import re

from memory.sentences import sentence_spans
from reader.dates import dates_in
from reader.numbers import quantities_in
from reader.verbs import is_verb
from reader.words import Word, listed, words_of

_CODE = re.compile(r"(?<![\w.])(?=[\w.-]*\d)(?=[\w.-]*[^\W\d_])[\w]+(?:[.-]\w+)*|(?<![\w.])\d+(?:\.\d+){2,}")
_ENDING_OF_OTHER_CLASSES = ("ed", "ing", "ly")
_FIRST_IS_SUBJECT = re.compile(
    r"\s+(?:is|was|are|were|has|had|have|will|would|can|could|does|did|and|of|[A-Z][\w'’]*)\b"
    r"|['’]s\b|,? (?:who|which)\b"
)
_OFTEN_FIRST = frozenset(
    listed("""
    yes no however additionally therefore thus moreover furthermore also overall finally although though
    despite during after before since until between among under over within without unlike like through
    answer based because given once many several today later earlier
    """)
)


def names_in(text: str) -> list[Word]:
    """Return the words of ``text`` that name something, in order; dates and measures are left out."""
    taken = [(date.start, date.end) for date in dates_in(text)]
    taken += [(quantity.start, quantity.end) for quantity in quantities_in(text)]
    firsts = {_first_letter(text, start, end) for start, end in sentence_spans(text)}
    found = []
    for word in words_of(text):
        if any(start < word.end and word.start < end for start, end in taken):
            continue
        if not word.text[0].isupper() or not word.is_content or word.stem in _OFTEN_FIRST:
            continue
        if word.start in firsts and not _is_subject(text, word):
            continue
        found.append(word)
    return found


def codes_in(text: str) -> frozenset[str]:
    """Return identifiers that mix digits and letters, and dotted versions, case-folded."""
    taken = [(date.start, date.end) for date in dates_in(text)]
    taken += [(quantity.start, quantity.end) for quantity in quantities_in(text)]
    return frozenset(
        match.group().casefold()
        for match in _CODE.finditer(text)
        if not any(start < match.end() and match.start() < end for start, end in taken)
    )


def _first_letter(text: str, start: int, end: int) -> int:
    return next((at for at in range(start, end) if text[at].isalnum()), start)


def _is_subject(text: str, word: Word) -> bool:
    """Tell "Alice signed" from "Founded in" for a capitalised first word."""
    if word.text.lower().endswith(_ENDING_OF_OTHER_CLASSES):
        return False
    if any(char.isupper() for char in word.text[1:]) or word.text.endswith(("'s", "’s")):
        return True
    following = _FIRST_IS_SUBJECT.match(text, word.end)
    if following is not None or re.match(r"\s+[a-z]+(?:ed|es|s)\b", text[word.end :]):
        return True
    beside = words_of(text[word.end : word.end + _LONGEST_VERB])
    return bool(beside) and not text[word.end : word.end + beside[0].start].strip() and is_verb(beside[0])


_LONGEST_VERB = 20
"""Characters in which the word after a name must end."""
