"""Find quantities and bring their spellings together.

``1,500``, ``1.5 thousand`` and ``fifteen hundred`` are one value; ``2 km`` and ``2,000 metres`` one
measure. Each quantity keeps its unit and whether it was a bound ("more than", "at most").
Dates are ``reader.dates``' business and are passed over here; a bare year is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from reader.dates import dates_in
from reader.words import listed

Bound = Literal["", "least", "most"]

_SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "k": 10**3, "mn": 10**6, "bn": 10**9,
}  # fmt: skip
_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_WORDS = {name: value for value, name in enumerate(_ONES)} | {
    name: value for value, name in zip(range(20, 100, 10), _TENS, strict=True)
}
_ORDINALS = {
    name: value
    for value, name in enumerate(
        listed("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), start=1
    )
}

_UNITS: dict[str, tuple[str, Decimal]] = {}
"""Spelling → (base unit, factor to it)."""
for _base, _factor, _spellings in (
    ("metre", "1", "m metre meter"), ("metre", "1000", "km kilometre kilometer"),
    ("metre", "0.01", "cm centimetre centimeter"), ("metre", "0.001", "mm millimetre millimeter"),
    ("metre", "1609.344", "mile mi"), ("metre", "0.3048", "foot feet ft"), ("metre", "0.0254", "inch inches"),
    ("metre", "0.9144", "yard yd"),
    ("gram", "1", "g gram gramme"), ("gram", "1000", "kg kilogram kilo"), ("gram", "0.001", "mg milligram"),
    ("gram", "1000000", "tonne ton"), ("gram", "453.59237", "pound lb"), ("gram", "28.349523125", "ounce oz"),
    ("litre", "1", "litre liter l"), ("litre", "0.001", "ml millilitre milliliter"),
    ("litre", "3.785411784", "gallon"),
    ("second", "1", "second sec"), ("second", "60", "minute min"), ("second", "3600", "hour hr h"),
    ("second", "86400", "day"), ("second", "604800", "week"), ("second", "0.001", "ms millisecond"),
    ("month", "1", "month"), ("month", "12", "year yr"), ("month", "120", "decade"),
    ("month", "1200", "century centuries"),
    ("percent", "1", "% percent pct"), ("dollar", "1", "$ dollar usd buck"), ("euro", "1", "€ euro eur"),
    ("sterling", "1", "£ gbp"), ("yen", "1", "¥ yen jpy"),
    ("celsius", "1", "°c celsius"), ("fahrenheit", "1", "°f fahrenheit"), ("degree", "1", "° degree"),
    ("byte", "1", "byte"), ("byte", "1000", "kb kilobyte"), ("byte", "1000000", "mb megabyte"),
    ("byte", "1000000000", "gb gigabyte"), ("byte", "1000000000000", "tb terabyte"),
    ("hertz", "1", "hz hertz"), ("hertz", "1000", "khz kilohertz"), ("hertz", "1000000", "mhz megahertz"),
    ("hertz", "1000000000", "ghz gigahertz"),
    ("watt", "1", "w watt"), ("watt", "1000", "kw kilowatt"), ("watt", "1000000", "mw megawatt"),
    ("volt", "1", "v volt"), ("ampere", "1", "a amp ampere"),
):  # fmt: skip
    for _spelling in _spellings.split():
        _UNITS[_spelling] = (_base, Decimal(_factor))
        if len(_spelling) > 3:
            _UNITS[_spelling + "s"] = (_base, Decimal(_factor))

_ADJECTIVE = "square|sq|cubic|cu|metric|short|long|US|nautical|light"
_NUMBER = re.compile(
    r"(?:(?P<currency>[$€£¥])\s?)?(?P<sign>(?<![\w)])[-−])?"
    r"(?<![\w.,])(?<![A-Z]-)(?:(?P<clock>\d{1,2}:\d{2})|(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?))"
    r"(?P<ending>st|nd|rd|th|s)?(?![\d:]|[.,]\d)"
)
_SCALE = re.compile(r"[\s-]?(hundred|thousand|million|billion|trillion|bn|mn)s?\b|(k)\b", re.IGNORECASE)
_UNIT = re.compile(rf"[\s-]{{0,2}}(?P<adjective>(?:{_ADJECTIVE})\.?\s)?(?P<unit>[%°$€£¥][cCfF]?|[^\W\d_]+)")
_HALF_DAY = re.compile(r"\s?([ap])\.?m\b\.?", re.IGNORECASE)
_SPELLED = re.compile(
    r"\b(?:(?:" + "|".join([*_WORDS, *_SCALES, *_ORDINALS]) + r")(?:[\s-]+(?:and\s+)?|\b))+", re.IGNORECASE
)
_LEAST = re.compile(
    r"\b(?:more than|over|at least|above|exceeding|exceeds|exceed|greater than|no less than|no fewer than"
    r"|not less than|minimum of|upwards of)\s+(?:[$€£¥])?$",
    re.IGNORECASE,
)
_MOST = re.compile(
    r"\b(?:less than|fewer than|under|at most|below|up to|no more than|not more than|maximum of|not exceeding"
    r"|within)\s+(?:[$€£¥])?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value in its base unit (empty when it has none or an unknown one); its span is in code points."""

    value: Decimal
    unit: str
    bound: Bound
    start: int
    end: int

    def carries(self, other: Quantity) -> bool:
        """Say whether a text with this quantity supports one with ``other``.

        Units agree, or one text has left its unit out. A bound may be left out, never added or turned.
        """
        if self.value != other.value or (other.bound and other.bound != self.bound):
            return False
        if not self.unit:
            return other.unit not in _ALWAYS_WRITTEN
        return self.unit == other.unit or (not other.unit and self.unit not in _OTHER_THINGS)


_OTHER_THINGS = frozenset({"ordinal", "clock", "decade"})
"""Units without which the number is another thing: the 5th is not 5."""

_ALWAYS_WRITTEN = _OTHER_THINGS | {"percent", "dollar", "euro", "sterling", "yen"}
"""Units that a text does not leave out: a bare 5 does not carry 5 %."""


def quantities_in(text: str) -> list[Quantity]:
    """Return the quantities of ``text`` in order, dates left out."""
    taken = [(date.start, date.end) for date in dates_in(text)]
    found: list[Quantity] = []
    for quantity in (*_written_in_digits(text), *_written_in_words(text)):
        free = not any(start < quantity.end and quantity.start < end for start, end in taken)
        if free:
            found.append(quantity)
            taken.append((quantity.start, quantity.end))
    return sorted(found, key=lambda quantity: quantity.start)


def _written_in_digits(text: str) -> Iterator[Quantity]:
    for match in _NUMBER.finditer(text):
        if match["clock"]:
            yield _clock(text, match, *(int(part) for part in match["clock"].split(":")))
            continue
        half = _HALF_DAY.match(text, match.end())
        if half is not None and not match["ending"]:
            yield _clock(text, match, int(Decimal(match["digits"].replace(",", ""))), 0)
            continue
        value = Decimal(match["digits"].replace(",", ""))
        if match["sign"]:
            value = -value
        end = match.end()
        if match["ending"] in ("st", "nd", "rd", "th"):
            yield Quantity(value, "ordinal", "", match.start(), end)
            continue
        if match["ending"] == "s":
            yield Quantity(value, "decade", "", match.start(), end)
            continue
        yield _measured(text, value, match["currency"] or "", match.start(), end)


def _clock(text: str, match: re.Match[str], hours: int, minutes: int) -> Quantity:
    half = _HALF_DAY.match(text, match.end())
    if half is not None:
        hours = hours % 12 + (12 if half[1].lower() == "p" else 0)
    end = match.end() if half is None else half.end()
    return Quantity(Decimal(hours * 60 + minutes), "clock", "", match.start(), end)


def _written_in_words(text: str) -> Iterator[Quantity]:
    for match in _SPELLED.finditer(text):
        words = re.findall(r"[a-z]+", match.group().lower())
        while words and words[-1] == "and":
            words.pop()
        end = match.start() + len(match.group().rstrip(" -"))
        if match.group().lower().rstrip().endswith(" and"):
            end = match.start() + len(match.group().rstrip()[: -len(" and")].rstrip())
        numerals = [word for word in words if word != "and"]
        if numerals in (["one"], ["second"], ["hundred"], ["k"], ["mn"], ["bn"]):
            continue  # a pronoun or a unit oftener than a number
        if text[end : end + 1] == "," and numerals in (["first"], ["second"], ["third"]):
            continue  # "First, ..." orders the talk, not the things
        preceded = re.search(r"[\d.]\s?$", text[: match.start()])
        if preceded is not None:
            continue  # the scale word of a number in digits
        value = _spelled_value(numerals)
        if numerals[-1] in _ORDINALS:
            yield Quantity(value, "ordinal", "", match.start(), end)
        else:
            yield _measured(text, value, "", match.start(), end)


def _spelled_value(numerals: list[str]) -> Decimal:
    """Add ones and tens, multiply by scales: two hundred fifty thousand → 250,000."""
    total = part = 0
    for word in numerals:
        if word in _WORDS:
            part += _WORDS[word]
        elif word in _ORDINALS:
            part += _ORDINALS[word]
        elif word == "hundred":
            part = max(part, 1) * 100
        else:
            total += max(part, 1) * _SCALES[word]
            part = 0
    return Decimal(total + part)


def _measured(text: str, value: Decimal, currency: str, start: int, end: int) -> Quantity:
    """Take the scale word and the unit after a number into it."""
    scale = _SCALE.match(text, end)
    if scale is not None:
        value *= _SCALES[(scale[1] or scale[2]).lower()]
        end = scale.end()
    unit, factor = _UNITS.get(currency, ("", Decimal(1)))
    following = _UNIT.match(text, end)
    if not currency and following is not None:
        spelled = following["unit"].lower()
        prefix = (following["adjective"] or "").strip().rstrip(".").lower()
        known = _UNITS.get(spelled)
        if known is not None and not (len(spelled) == 1 and spelled.isalpha() and _is_word(text, following)):
            unit, factor = known
            if prefix:
                unit, factor = f"{prefix} {spelled}", Decimal(1)
            end = following.end()
    return Quantity((value * factor).normalize(), unit, _bound(text, start), start, end)


def _is_word(text: str, unit: re.Match[str]) -> bool:
    """A lone letter is a unit only in front of a space, a mark or the end, never the article "a"."""
    return unit["unit"] == "a" or text[unit.end() : unit.end() + 1] in ("'", "’", ".")


def _bound(text: str, start: int) -> Bound:
    before = text[max(0, start - 30) : start]
    if not before.endswith(" "):
        before += " "
    if _MOST.search(before):
        return "most"
    return "least" if _LEAST.search(before) else ""
