"""Tell what a text denies.

A negator reaches over the content words after it in its clause, a few at most. Two texts
contradict each other where a word they share stands denied in one and asserted in the other.
"""

from __future__ import annotations

import re
from collections import defaultdict

from reader.words import listed, words_of

REACH_WORDS = 4
"""How many content words a negator reaches over."""

_NEGATORS = frozenset(
    listed("""
    not no never neither nor none nobody nothing nowhere cannot without hardly barely unable
    refused denied declined failed
    """)
)
_CLAUSE_END = re.compile(r"[,;:.!?()–—]|\b(?:but|however|although|though|whereas|while|because|instead)\b")
_NOT_A_DENIAL = re.compile(
    r"\b(?:not only|no (?:less|more|fewer|later|earlier|sooner|longer) than|not (?:less|more|fewer) than"
    r"|no\.\s?\d|no doubt|nothing but)\b",
    re.IGNORECASE,
)


def denied_stems(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the stems that stand denied somewhere in ``text``, and those asserted somewhere."""
    sides: dict[bool, set[str]] = defaultdict(set)
    harmless = [match.span() for match in _NOT_A_DENIAL.finditer(text)]
    reach = 0
    before = 0
    for word in words_of(text):
        if _CLAUSE_END.search(text, before, word.end) is not None:
            reach = 0
        before = word.end
        lowered = word.text.lower().replace("’", "'")
        negates = lowered in _NEGATORS or lowered.endswith("n't")
        if negates and not any(start <= word.start < end for start, end in harmless):
            reach = 0 if reach else REACH_WORDS  # two negators in one clause cancel out
            continue
        if not word.is_content:
            continue
        sides[reach > 0].add(word.stem)
        reach = max(0, reach - 1)
    return frozenset(sides[True]), frozenset(sides[False])


def contradicts(claim: str, quote: str) -> bool:
    """Say whether the two deny different things about the words they share."""
    claim_denied, claim_asserted = denied_stems(claim)
    quote_denied, quote_asserted = denied_stems(quote)
    turned = (claim_denied - claim_asserted) & (quote_asserted - quote_denied)
    dropped = (claim_asserted - claim_denied) & (quote_denied - quote_asserted)
    return bool(turned or dropped)
