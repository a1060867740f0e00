"""Tell from a question what kind of thing answers it, and whether a sentence has one."""

from __future__ import annotations

import re
from typing import Literal

from reader.windows import Window
from reader.words import Word

Kind = Literal["time", "number", "name"]

_TIME = re.compile(
    r"\b(?:when|(?:what|which)\s+(?:\w+\s+)?(?:year|date|day|month|decade|century|time))\b", re.IGNORECASE
)
_NUMBER = re.compile(
    r"\bhow\s+(?:many|much|long|tall|high|far|old|big|large|deep|wide|heavy|fast|often)\b"
    r"|\bwhat\s+(?:\w+\s+)?(?:number|percent|percentage|share|amount|age|price|cost|distance|height|length)\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"\b(?:who|whom|whose|where)\b"
    r"|\b(?:what|which)\s+(?:\w+\s+)?(?:person|city|country|company|state|name|author|president|king|queen|place)\b"
    r"|\bname of\b",
    re.IGNORECASE,
)


def expected_kind(question: str) -> Kind | None:
    """Return what kind of thing the question asks for, ``None`` when it does not tell."""
    if _TIME.search(question):
        return "time"
    if _NUMBER.search(question):
        return "number"
    return "name" if _NAME.search(question) else None


def has_kind(kind: Kind | None, sentence: Window, question: list[Word]) -> float:
    """Return 1 when the sentence has a thing of the kind that the question lacks, 0 when not, .5 unasked."""
    if kind is None:
        return 0.5
    asked = {word.stem for word in question}
    if kind == "name":
        return float(any(name.stem not in asked for name in sentence.names))
    clocks = [
        quantity for quantity in sentence.quantities if quantity.unit in ("", "clock", "decade", "month")
    ]
    found = bool(sentence.dates or clocks) if kind == "time" else bool(sentence.quantities)
    return float(found)
