"""Find calendar dates and bring their spellings together.

``5 March 2024``, ``March 5th, 2024``, ``2024-03-05`` and ``5.3.2024`` are one date. A spelling that
can be read two ways (``03/05/2024``) keeps both readings. Bare years are numbers, not dates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reader.words import listed

_NAMES = listed("january february march april may june july august september october november december")
_MONTHS = {name: number for number, name in enumerate(_NAMES, start=1)}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}

_MONTH = (
    r"(?P<month>(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?|"
    + "|".join(name.capitalize() for name in _NAMES)
    + r"|"
    + "|".join(name.upper() for name in _NAMES)
    + ")"
)
_DAY = r"(?P<day>0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[12]\d{3})"
_DAY_FIRST = re.compile(rf"\b{_DAY}(?:\s+of)?\s+{_MONTH}\b(?:,?\s+{_YEAR}\b)?")
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b(?!\s*[:%]|\.\d)(?:,?\s+{_YEAR}\b)?")
_MONTH_ONLY = re.compile(rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b")
_BARE_MONTH = re.compile(
    rf"\b(?i:in|of|since|until|till|by|during|early|late|mid|next|last|this|from|to)[\s-]+{_MONTH}(?![\w’'])"
)
_ISO = re.compile(r"\b(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])(?!\d)")
_NUMERIC = re.compile(
    r"(?<![\d./])(?P<first>\d{1,2})(?P<mark>[./])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4})(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Date:
    """A date or a part of one; unknown parts are ``None``. ``start`` and ``end`` are its span."""

    year: int | None
    month: int
    day: int | None
    start: int
    end: int

    def carries(self, other: Date, years: Iterable[int] = ()) -> bool:
        """Say whether every part of ``other`` is in this date.

        When this date has no year, ``other`` may take one from ``years`` (those written near it).
        """
        if other.month != self.month or (other.day is not None and other.day != self.day):
            return False
        return (
            other.year is None or other.year == self.year or (self.year is None and other.year in set(years))
        )


def dates_in(text: str) -> list[Date]:
    """Return the dates of ``text``; an ambiguous spelling gives one date for each reading."""
    found: list[Date] = []
    for date in _candidates(text):
        inside = any(
            known.start <= date.start < known.end and (known.start, known.end) != (date.start, date.end)
            for known in found
        )
        if not inside:
            found.append(date)
    return sorted(found, key=lambda date: (date.start, date.month))


def _candidates(text: str) -> Iterator[Date]:
    """Yield readings, the most telling spellings first."""
    for match in _ISO.finditer(text):
        yield Date(int(match["year"]), int(match["month"]), int(match["day"]), match.start(), match.end())
    for match in _NUMERIC.finditer(text):
        first, second = int(match["first"]), int(match["second"])
        readings = {(first, second)} if match["mark"] == "." else {(first, second), (second, first)}
        for day, month in sorted(readings):
            if 1 <= day <= 31 and 1 <= month <= 12:
                yield Date(int(match["year"]), month, day, match.start(), match.end())
    for pattern in (_DAY_FIRST, _MONTH_FIRST, _MONTH_ONLY, _BARE_MONTH):
        for match in pattern.finditer(text):
            parts = match.groupdict()
            yield Date(
                int(parts["year"]) if parts.get("year") else None,
                _month_number(parts["month"]),
                int(parts["day"]) if parts.get("day") else None,
                match.start(),
                match.end(),
            )


def _month_number(name: str) -> int:
    lowered = name.lower().rstrip(".")
    return _MONTHS[lowered]
