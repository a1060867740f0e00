"""Gather near-duplicates in a ranking, so that the best of each stands for the others.

Two texts are near-duplicates when they share nearly all runs of three words and agree in every number and
negation: templates that differ in a date or an amount, or a claim and its denial, are different texts
however alike they look (which is why vectors do not decide here). Nothing here knows where the texts come
from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SIMILAR = 0.85
"""Jaccard similarity of word triples from which two texts count as one (Broder 1997)."""

_RUN = 3
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "without", "cannot")
)


def distinct(texts: Sequence[str], *, limit: int | None = None) -> list[tuple[int, ...]]:
    """Return the indexes of the texts to keep, in order, at most ``limit``, each with its near-duplicates.

    A text belongs to the first kept one that it is a near-duplicate of; earlier texts win.
    """
    groups: list[list[int]] = []
    seen: list[tuple[frozenset[tuple[str, ...]], frozenset[str]]] = []
    for index, text in enumerate(texts):
        words = [word.casefold() for word in _WORD.findall(text)]
        runs = frozenset(tuple(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1)))
        telling = frozenset(word for word in words if _tells(word))
        same = (
            at
            for at, (known, other) in enumerate(seen)
            if telling == other and _jaccard(runs, known) >= SIMILAR
        )
        place = next(same, None)
        if place is not None:
            groups[place].append(index)
        elif limit is None or len(groups) < limit:
            groups.append([index])
            seen.append((runs, telling))
    return [tuple(group) for group in groups]


def _tells(word: str) -> bool:
    return any(char.isdigit() for char in word) or word in _NEGATIONS or word.endswith(("n't", "n’t"))


def _jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
