"""Tell who did it to whom, as far as the order of names around a word shows it.

"Kubiak replaced Fox" and "Fox replaced Kubiak" have the same words. Two names are turned when a word
stands between them in both texts and they have changed sides, unless one of the texts is passive.
"""

from __future__ import annotations

import re

from reader.names import names_in
from reader.words import words_of

_PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)\s+(?:\w+\s+)?\w+(?:ed|en|n|t)\b.*\bby\b", re.IGNORECASE | re.DOTALL
)
_REACH_WORDS = 12
"""How far apart two names may stand to belong to one statement."""


def turned(claim: str, quote: str) -> bool:
    """Say whether two names of ``claim`` have changed sides around a word that ``quote`` has between them."""
    if bool(_PASSIVE.search(claim)) != bool(_PASSIVE.search(quote)):
        return False
    mine, theirs = _sides(claim), _sides(quote)
    return any(
        (second, word, first) in theirs and (first, word, second) not in theirs
        for first, word, second in mine
    )


def _sides(text: str) -> set[tuple[str, str, str]]:
    """Return every (name, word between, name), as stems, of names that stand near to each other."""
    names = {name.start for name in names_in(text)}
    words = words_of(text)
    found = set()
    for place, first in enumerate(words):
        if first.start not in names:
            continue
        between: list[str] = []
        for word in words[place + 1 : place + 1 + _REACH_WORDS]:
            if word.start in names:
                found |= {(first.stem, stem, word.stem) for stem in between if first.stem != word.stem}
            elif word.is_content:
                between.append(word.stem)
    return found
