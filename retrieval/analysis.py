"""Turn text into something a word index can split fairly, whatever the script.

Scripts written without spaces are cut into overlapping pairs of characters (and the single characters, so
that a query of one still matches); names glued together in mixed case (``LiHua``, ``parseDate``) are given
beside their parts; a date is given in one form however it was written. What remains is a plain stream of
words: lowercasing, folding, stop words and stemming are the index's own. Nothing here knows the index.
"""

from __future__ import annotations

import re
import unicodedata


def _list_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STOP_WORDS = _list_words(
    """
    a about above after again against all am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further had has
    have having he her here hers herself him himself his how i if in into is it its itself just me
    more most my myself no nor not now of off on once only or other our ours ourselves out over own
    same she should so some such than that the their theirs them themselves then there these they
    this those through to too under until up very was we were what when where which while who whom
    whose why will with would you your yours yourself yourselves
    """
)
"""English function words, question words included: in a corpus of prose they are rare, hence falsely heavy.
"""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_MIXED_CASE = re.compile(r"[^\W\d_]*[a-z][A-Z][^\W\d_]*")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAME = (
    r"(?P<month>(?:jan|febr)(?:uary)?|feb|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|(?:nov|dec)(?:ember)?)\b\.?"
)
_YEAR = r"(?P<year>(?:19|20)\d\d)(?!\d)"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_NUMBERED_DATE = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<between>[-/.]?)(?P<month>[01]\d)(?P=between)(?P<day>[0-3]\d)(?!\d)",
    re.ASCII,
)
_DAY_FIRST = re.compile(rf"(?<![\d.,]){_DAY} (?:of )?{_MONTH_NAME}(?:,? {_YEAR})?", re.ASCII | re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b{_MONTH_NAME} {_DAY}(?!\d)(?:,? {_YEAR})?", re.ASCII | re.IGNORECASE)
_COMPACT_DATE = re.compile(r"(?<!\d)((?:19|20)\d{6}) d\d{4} ", re.ASCII)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_unspaced(text: str) -> str:
    """Put spaces around the single characters and pairs of scripts that do not separate words.

    Overlapping pairs are what CJK analysers index when they have no dictionary.
    """
    return _UNSPACED.sub(_pairs, text)


def _pairs(run: re.Match[str]) -> str:
    characters = run.group()
    pairs = (characters[at : at + 2] for at in range(len(characters) - 1))
    return f" {' '.join((*characters, *pairs))} "


def split_mixed_case(text: str) -> str:
    """Give the parts of a mixed-case name beside the name: ``LiHua`` becomes ``Li Hua LiHua``."""
    return _MIXED_CASE.sub(lambda word: f"{_HUMP.sub(' ', word.group())} {word.group()}", text)


def spell_dates(text: str) -> str:
    """Give every date a compact form beside it: ``2026-04-28`` and ``28 April 2026`` gain ``20260428 d0428``.

    A day without a year gains ``d0428`` alone, so that it finds that day of any year.
    """
    for pattern in (_NUMBERED_DATE, _DAY_FIRST, _MONTH_FIRST):
        text = pattern.sub(_with_compact_form, text)
    return text


def _with_compact_form(found: re.Match[str]) -> str:
    parts = found.groupdict()
    month = parts["month"]
    number = int(month) if month.isdecimal() else _MONTHS.index(month[:3].lower()) + 1
    day = int(parts["day"])
    if not (1 <= number <= 12 and 1 <= day <= 31):
        return found.group()
    compact = f"d{number:02d}{day:02d}"
    if parts["year"]:
        compact = f"{parts['year']}{number:02d}{day:02d} {compact}"
    return f"{found.group()} {compact} "


def find_dates(text: str) -> tuple[str, ...]:
    """Return the dates with a year that ``text`` names, as ``normalise`` writes them: ``20260428``."""
    return tuple(dict.fromkeys(_COMPACT_DATE.findall(spell_dates(text))))


def normalise(text: str) -> str:
    """Return ``text`` ready for a tokenizer that keeps letters and digits only. Never raises."""
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
    return split_mixed_case(split_unspaced(spell_dates(unicodedata.normalize("NFKC", clean))))
