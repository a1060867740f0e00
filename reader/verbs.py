"""Tell which words are verbs that carry a statement, without a tagger.

Auxiliaries, the usual irregular pasts, a few present forms, and what ends in "-ed". English only; in
another language nothing is found, and a sentence stays whole.
"""

from __future__ import annotations

from reader.words import Word, listed

AUXILIARIES = frozenset(
    listed("""
    is was are were has had have did does do can could will would may might must shall should isn't
    wasn't aren't weren't hasn't hadn't haven't didn't doesn't don't can't couldn't won't wouldn't
    cannot
    """)
)

_PAST_AUXILIARIES = frozenset(listed("was were had did could would wasn't weren't hadn't didn't couldn't"))

PRESENT = (AUXILIARIES - _PAST_AUXILIARIES) | frozenset(
    listed("""
    appear belong consist contain exist include provide receive remain require belongs charges closes
    comes consists contains costs covers ends employs exists expects feeds goes grows has holds hosts
    houses includes joins keeps leads lies lives makes means meets moves needs offers opens operates
    owns pays plays prefers produces provides reaches receives remains requires runs says sells serves
    shows sits speaks spends stands starts stays supports takes teaches tells uses wants weighs works
    """)
)
"""Forms that say how something is, not what once happened."""

_PAST = frozenset(
    listed("""
    ate became beat began bore bought broke brought built came caught chose cost cut dealt drew drove
    drank fed fell felt fled flew forbade forgot fought found gave went grew held hid hit hurt kept knew
    laid lay led left lent let lit lost made meant met paid put quit ran rang read rode rose said sang
    sank sat saw sent set shook shot shrank shut slept sold sought spent split spoke spread sprang stole
    stood struck swam swept swore taught took thought threw told tore understood upheld withdrew woke
    won wore wove wrote born borne known written given taken seen chosen driven drawn grown shown sworn
    thrown worn overthrown undertook agreed freed decreed
    """)
)
_NO_VERBS = frozenset(
    listed("hundred sacred naked wicked indeed exceed proceed succeed united limited shed sled biped moped")
)


def is_verb(word: Word) -> bool:
    """Say whether a word can be the verb of a statement; a capitalised one cannot."""
    lowered = word.text.lower().replace("’", "'")
    if lowered in AUXILIARIES:
        return True
    if word.text[0].isupper():
        return False
    past = len(lowered) > 3 and lowered.endswith("ed") and not lowered.endswith("eed")
    return lowered in PRESENT or lowered in _PAST or (past and lowered not in _NO_VERBS)
