"""Cut a sentence into the statements that it joins: "born in A and died in B" says two things.

By rules, in English: clauses with a subject each, verbs that share a subject, lists, and the relative
clauses whose subject can be told. Where the rules cannot tell, the sentence stays whole. What they make
are the sentence's own words, and no number, date, code or name is lost: a cut that would, is not made.
(Claims one fact each: FActScore, Min et al. 2023.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reader.dates import dates_in
from reader.names import codes_in
from reader.numbers import quantities_in
from reader.verbs import is_verb
from reader.words import listed, words_of

MOST_STATEMENTS = 8
"""Statements of a sentence, at most; what would be more stays joined."""

LONGEST_ITEM_WORDS = 5
"""A longer stretch between commas is no item of a list."""

LONGEST_SUBJECT_WORDS = 8
"""Before the verb of a clause that was joined; more is no subject that the rules could be sure of."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a sentence says; ``own`` are the stems that not every other of its statements has."""

    text: str
    own: frozenset[str]


def statements_of(sentence: str) -> list[Statement]:
    """Return what ``sentence`` says, in its order; itself where it says one thing."""
    texts = _cut(sentence.strip(), MOST_STATEMENTS)
    stems = [frozenset(word.stem for word in words_of(text) if word.is_content) for text in texts]
    shared = frozenset.intersection(*stems) if len(stems) > 1 else frozenset()
    return [Statement(text, own - shared) for text, own in zip(texts, stems, strict=True)]


def _cut(text: str, most: int) -> list[str]:
    if most < 2:
        return [text]
    for rule in _RULES:
        parts = rule(_Sentence(text))
        if parts is None or len(parts) > most or not _holds_all(parts, text):
            continue
        made: list[str] = []
        for number, part in enumerate(parts, start=1):
            made += _cut(part, most - len(made) - (len(parts) - number))
        return list(dict.fromkeys(made))
    return [text]


_GOVERNING = re.compile(
    r"\b(?:if|unless|whether|respectively)\b"
    r"|\b(?:said|says|claim\w*|believ\w+|argu\w+|stat(?:es|ed)|report\w*|thinks?|thought|wrote|writes|suggest\w*"
    r"|alleg\w+|den(?:y|ies|ied))\b",
    re.IGNORECASE,
)
"""Words that may govern what comes after them: that part by itself would say something else."""

_COLLECTIVE = re.compile(
    r"\b(?:neither|either|nor|or|together|combined|than|total|average|sum)\b", re.IGNORECASE
)
"""Words under which one item of a list is not told what the list is told."""

_JOINING = frozenset(listed("and but while whereas"))
_PRONOUNS = frozenset(listed("he she it they we i you who"))
_DETERMINERS = frozenset(listed("the a an this that these those his her its their our my your"))
_PREPOSITIONS = frozenset(
    listed("""
    about above across after against along among around as at before behind below beneath beside between
    beyond by despite down during except for from in inside into like near of off on onto over per
    since through throughout to toward towards under until up upon via with within without including where
    when because
    """)
)
_LEADING = frozenset(listed("in on at during since by until from after before throughout"))
_ADVERBS = frozenset(
    listed("then later also subsequently eventually finally soon still thus therefore there")
)
_DROPPED = _JOINING | {"who", "which", "he", "she", "as", "well"}


class _Sentence:
    """A text with its words, and where it may not be cut: in brackets, quotation marks, dates, measures."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = words_of(text)
        self._closed = [match.span() for match in _CLOSED.finditer(text)]
        self._closed += [(date.start, date.end) for date in dates_in(text)]
        self._closed += [(quantity.start, quantity.end) for quantity in quantities_in(text)]
        self.verbs = [at for at, word in enumerate(self.words) if is_verb(word)]

    def is_open(self, at: int) -> bool:
        """Say whether the text may be cut at this word."""
        start = self.words[at].start
        return not any(begin <= start < end for begin, end in self._closed)

    def low(self, at: int) -> str:
        """Return a word in lower case; an empty text beyond the last."""
        return self.words[at].text.lower().replace("’", "'") if at < len(self.words) else ""

    def gap(self, at: int) -> str:
        """Return what stands between a word and the one before it."""
        return self.text[self.words[at - 1].end : self.words[at].start] if 0 < at < len(self.words) else ""

    def has_comma(self, at: int) -> bool:
        """Say whether an open comma stands in front of a word."""
        return "," in self.gap(at) and not any(
            begin < self.words[at].start < end for begin, end in self._closed
        )

    def slice(self, first: int, last: int) -> str:
        """Return the words from ``first`` up to but without ``last``, with what stands between them."""
        if first >= last:
            return ""
        words = self.words
        start = 0 if first == 0 else words[first].start
        end = len(self.text) if last >= len(words) else words[last - 1].end
        return self.text[start:end] + (self._closing(last) if last < len(words) else "")

    def _closing(self, at: int) -> str:
        """What belongs to the word before: a percent sign, a closing bracket or quotation mark."""
        found = _CLOSER.match(self.gap(at))
        return found.group() if found is not None else ""

    def skip_adverbs(self, at: int) -> int:
        """Return the first place from ``at`` on that holds no adverb which merely leads over."""
        while self.low(at) in _ADVERBS:
            at += 1
        return at

    def is_verb(self, at: int) -> bool:
        """Say whether a verb stands there."""
        return at in self.verbs

    def subject(self, before: int) -> tuple[int, int] | None:
        """Return the subject of the first verb of the words in front of ``before`` as a range of words."""
        verb = next((at for at in self.verbs if at < before), None)
        if not verb:
            return None
        first = max((at for at in range(1, verb) if self.has_comma(at)), default=0)
        told = 0 < verb - first <= LONGEST_SUBJECT_WORDS and self.low(first) not in _PREPOSITIONS
        return (first, verb) if told else None

    def lead(self) -> str:
        """Return the time or place that the sentence opens with: "In 2018" or "In Graz,"; else nothing."""
        verb = next((at for at in self.verbs if self.is_open(at)), None)  # the month of May is none
        if verb is None or self.low(0) not in _LEADING:
            return ""
        commas = [at for at in range(1, verb) if self.has_comma(at)]
        dated = {date.end for date in dates_in(self.text)} | {m.end() for m in _YEAR.finditer(self.text)}
        ends = [at for at in range(1, verb) if self.words[at - 1].end in dated]
        if not commas and not ends:
            return ""
        lead = self.text[: self.words[commas[0] if commas else ends[-1]].start]
        return lead if _is_dated(lead) or not any(char.isdigit() for char in lead) else ""


_YEAR = re.compile(r"\b[12]\d{3}\b(?![.,]\d)")


def _is_dated(text: str) -> bool:
    return bool(dates_in(text)) or _YEAR.search(text) is not None


_CLOSED = re.compile(r"\([^)]*\)|\[[^\]]*\]|\"[^\"]*\"|“[^”]*”|«[^»]*»")
_CLOSER = re.compile(r"[%°)\]”»\"]+")


def _joined(*pieces: str) -> str:
    """Put pieces of a sentence side by side, commas at their ends taken off."""
    return " ".join(piece.strip(" ,;\t\n") for piece in pieces if piece.strip(" ,;.\t\n"))


def _relative(sentence: _Sentence) -> list[str] | None:
    """Part "Tesla, who was born in Smiljan, died" and "lives in Graz, which lies in Austria"."""
    if _GOVERNING.search(sentence.text):
        return None
    count = len(sentence.words)
    for at in range(1, count):
        if not sentence.has_comma(at) or not sentence.is_open(at):
            continue
        begins = at + 1 if sentence.low(at) in ("who", "which") else at
        begins = sentence.skip_adverbs(begins)
        verbs_before = [verb for verb in sentence.verbs if verb < at]
        is_participle = begins == at and not verbs_before and sentence.low(at) not in _JOINING
        if not sentence.is_verb(begins) or not (begins > at or is_participle):
            continue
        ends = next((end for end in range(begins + 1, count) if sentence.has_comma(end)), count)
        if verbs_before:
            head = _last_item(sentence, 0, at)
            if head is None or ends < count:
                continue
            return [sentence.slice(0, at), _joined(sentence.slice(head, at), sentence.slice(begins, count))]
        if ends == count or not sentence.is_verb(sentence.skip_adverbs(ends)):
            continue
        head = max((place for place in range(1, at) if sentence.has_comma(place)), default=0)
        if at - head > LONGEST_SUBJECT_WORDS or sentence.low(head) in _PREPOSITIONS:
            continue
        return [
            _joined(sentence.slice(0, at), sentence.slice(ends, count)),
            _joined(sentence.slice(head, at), sentence.slice(begins, ends)),
        ]
    return None


def _clauses(sentence: _Sentence) -> list[str] | None:
    """Part two clauses; the time or place that the sentence opens with goes to both.

    "In 2018 England came fourth and Kane scored 6 goals" says both of 2018. Not so where a semicolon parts
    them, or where the second has a time or place itself.
    """
    clauses, lead = _two_clauses(sentence), sentence.lead()
    if clauses is None or not lead or ";" in sentence.text:
        return clauses
    first, second = clauses
    if _is_dated(lead):
        has_own = _is_dated(second)
    else:
        has_own = not _PREPOSITIONS.isdisjoint(word.text.lower() for word in words_of(second))
    return clauses if has_own else [first, lead + second]


def _two_clauses(sentence: _Sentence) -> list[str] | None:
    """Part two clauses, or two verbs with what belongs to each; a shared subject goes to both."""
    count = len(sentence.words)
    for at in range(2, count):
        joins = sentence.low(at) in _JOINING
        follows = at + 1 if joins else at
        if not joins and ";" not in sentence.gap(at):
            continue
        if follows >= count or not sentence.is_open(at) or not any(verb < at for verb in sentence.verbs):
            continue
        left, subject = sentence.slice(0, at), sentence.subject(at)
        if ";" not in sentence.gap(at) and _GOVERNING.search(left):
            continue
        begins = sentence.skip_adverbs(follows)
        if sentence.is_verb(begins):
            last_verb = max(verb for verb in sentence.verbs if verb < at)
            if subject is None or last_verb == at - 1:
                continue  # "designed and built by Wong": what follows belongs to both
            return [left, _joined(sentence.slice(*subject), sentence.slice(follows, count))]
        verb = next((verb for verb in sentence.verbs if verb > begins), None)
        if verb is None or verb - begins > LONGEST_SUBJECT_WORDS:
            continue
        if any(sentence.has_comma(place) for place in range(begins + 1, verb + 1)):
            continue
        opening = sentence.words[begins]
        separated = sentence.has_comma(at) or ";" in sentence.gap(at)
        if opening.text.lower() in ("he", "she") and subject is not None and verb == begins + 1:
            named = sentence.slice(*subject)
            if sentence.low(subject[0]) not in _PRONOUNS:
                return [left, _joined(named, sentence.slice(verb, count))]
        names_only = all(word.text[0].isupper() for word in sentence.words[begins:verb])
        determined = separated and sentence.low(begins) in _DETERMINERS
        if (separated and sentence.low(begins) not in _PREPOSITIONS) or determined or names_only:
            return [left, sentence.slice(follows, count)]
        if sentence.low(begins) in _PRONOUNS:
            return [left, sentence.slice(follows, count)]
    return None


def _lists(sentence: _Sentence) -> list[str] | None:
    """Part "steel, glass and copper"; of two things only where both are names."""
    if _GOVERNING.search(sentence.text) or _COLLECTIVE.search(sentence.text):
        return None
    count = len(sentence.words)
    for at in range(1, count - 1):
        if sentence.low(at) != "and" or not sentence.is_open(at):
            continue
        items = _items(sentence, at)
        if items is None:
            continue
        first, last = items[0][0], items[-1][1]
        before, after = sentence.slice(0, first), sentence.slice(last, count)
        if _RANGE.search(before):
            continue
        return [_joined(before, sentence.slice(*item), after) for item in items]
    return None


_RANGE = re.compile(r"\b(?:between|both|from)\s*$", re.IGNORECASE)


def _items(sentence: _Sentence, joint: int) -> list[tuple[int, int]] | None:
    """Return the ranges of words of the list whose last item follows the "and" at ``joint``."""
    last = _item_end(sentence, joint + 1)
    if last == joint + 1:
        return None
    begins = [at for at in range(1, joint) if sentence.has_comma(at)]
    items = [(joint + 1, last)]
    end = joint
    for begin in reversed(begins):
        if end - begin > LONGEST_ITEM_WORDS or any(_parts_lists(sentence, at) for at in range(begin, end)):
            break
        items.insert(0, (begin, end))
        end = begin
    first = _last_item(sentence, 0, end)
    is_subject = not any(verb < end for verb in sentence.verbs)
    if first is not None and is_subject and first > 0:
        first = None  # "In Paris, Tesla and Edison met": what stands before the comma is no item
    if first is not None:
        items.insert(0, (first, end))
    if len(items) < 2 or len({_kind(sentence, item) for item in items}) > 1:
        return None
    return items if len(items) > 2 or _kind(sentence, items[0]) == "name" else None


def _last_item(sentence: _Sentence, first: int, end: int) -> int | None:
    """Return where the noun that ends before ``end`` begins: after the last verb, preposition or comma."""
    begin = end
    while begin > first and not _parts_lists(sentence, begin - 1):
        if begin < end and sentence.has_comma(begin):
            break
        begin -= 1
    return begin if 0 < end - begin <= LONGEST_ITEM_WORDS else None


def _item_end(sentence: _Sentence, begin: int) -> int:
    end = begin
    while end < len(sentence.words) and not _parts_lists(sentence, end):
        if end > begin and (sentence.has_comma(end) or ";" in sentence.gap(end)):
            break
        end += 1
    return end if end - begin <= LONGEST_ITEM_WORDS else begin


def _parts_lists(sentence: _Sentence, at: int) -> bool:
    low = sentence.low(at)
    return sentence.is_verb(at) or low in _PREPOSITIONS or low in _JOINING or low in ("who", "which", "that")


def _kind(sentence: _Sentence, item: tuple[int, int]) -> str:
    words = [word for word in sentence.words[item[0] : item[1]] if word.is_content]
    if any(char.isdigit() for word in words for char in word.text):
        return "number"
    return "name" if words and all(word.text[0].isupper() for word in words) else "thing"


_RULES: Sequence[Callable[[_Sentence], list[str] | None]] = (_relative, _clauses, _lists)


def _holds_all(parts: Sequence[str], text: str) -> bool:
    """Say whether every word but the joints is in a part, each part is shorter, and no measure changed."""
    words = words_of(text)
    kept = {word.text for part in parts for word in words_of(part)}
    if any(word.text not in kept and word.text.lower() not in _DROPPED for word in words):
        return False
    if any(not 2 <= len(words_of(part)) < len(words) for part in parts):
        return False
    made = {thing for part in parts for thing in _things(part)}
    return set(_things(text)) <= made


def _things(text: str) -> Iterator[object]:
    for quantity in quantities_in(text):
        yield quantity.value, quantity.unit, quantity.bound
    for date in dates_in(text):
        yield date.year, date.month, date.day
    yield from codes_in(text)
