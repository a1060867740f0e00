"""Cut text into words and bring their forms together.

A light stemmer of our own: it takes plural, past, progressive and adverb endings off, folds case
and accents, and nothing more, so that two forms of one word meet while two words rarely do.
Scripts without spaces are cut into single characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+(?:['’][^\W\d_]+)*"
)


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a list written as one text."""
    return tuple(text.split())


STOP_WORDS = frozenset(
    listed("""
    a an the this that these those it its he she they we you i his her their our your my him them us me
    itself himself herself themselves is are was were be been being am do does did done doing have has
    had having will would shall should can could may might must of in on at by for from with to into onto
    as and or but nor so than then there here what which who whom whose when where why how if because
    while about also too very just such some any each both all other more most same s t d ll ve re
    m let get got been yes according text passage
    not no never neither none cannot without
    """)
)
"""Words that carry no content by themselves. Negators are here: ``reader.negation`` looks after them."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text: as written, its stem, and its half-open span of code points."""

    text: str
    stem: str
    start: int
    end: int

    @property
    def is_content(self) -> bool:
        """True unless it is a stop word."""
        return self.text.lower().replace("’", "'") not in STOP_WORDS and self.stem not in STOP_WORDS


def words_of(text: str) -> list[Word]:
    """Return the words of ``text`` in order."""
    return [Word(m.group(), stem(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)]


def content_stems(text: str) -> frozenset[str]:
    """Return the stems of the words that carry content."""
    return frozenset(word.stem for word in words_of(text) if word.is_content)


def stem(word: str) -> str:
    """Return the stem of one word: ``stem("Networks") == stem("network's")``."""
    folded = "".join(
        char for char in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(char)
    )
    folded = re.sub(r"['’]s$|['’]", "", folded)
    if not folded.isascii() or not folded.isalpha() or len(folded) < 4:
        return folded
    folded = _without_plural(folded)
    for ending in ("ing", "ed"):
        root = folded[: -len(ending)]
        if folded.endswith(ending) and len(root) >= 3 and re.search("[aeiouy]", root):
            folded = root[:-1] if root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    if folded.endswith("ly") and len(folded) > 5:
        folded = folded[:-2]
    if folded.endswith("e") and len(folded) > 3:
        folded = folded[:-1]
    if folded.endswith("y") and len(folded) > 3:
        folded = folded[:-1] + "i"
    return folded


def _without_plural(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
