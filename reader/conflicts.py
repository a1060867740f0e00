"""Settle what the evidence says twice and differently: the same words around another number, date or name.

First by time: of a state that changes ("the office opens at seven") the newest holds, when all sides are
dated. Then by independent sources: the side that more of them say. What stays open is shown from all sides,
each cited. By rules, over single sentences; what is worded otherwise is not seen to conflict. Sentences from
under different titles or headings are compared only where both name their subject: a name, or a thing of
several words that the question names, too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from memory.values import Citation, Claim, Conflict, Evidence
from reader.check import Parts, subject_of
from reader.dates import Date
from reader.verbs import PRESENT, is_verb
from reader.windows import Window, windows_of
from reader.words import content_stems, listed, words_of

SAME_PATTERN = 0.7
"""Jaccard similarity, values left out, from which two sentences are taken to speak of the same thing."""

_EXCLUSIVE = frozenset(
    listed(
        "is are lives live works work resides located headquartered based owned owns called named led leads"
    )
)
"""Only under such a word does one name rule another out: who speaks French may speak German, too."""

_STATES = PRESENT | {*listed("live work own prefer want weigh now currently")}

_ASKS_OF_THE_PAST = re.compile(
    r"\b(?:was|were|did|had|used to|before|formerly|former|previous(?:ly)?|originally|old|earlier|first|ever"
    r"|change[ds]?|history|in \d{4})\b",
    re.IGNORECASE,
)


Value = tuple[Hashable, ...]
"""Its kind (a unit, "date" or "code"), then its parts; ``None`` for a part that is not said."""

_SEVERAL = 2
"""Words of content that a thing needs to be told from others of its kind."""

_YEARS = (1000, 2099)
"""A bare whole number between these is taken for a year."""


@dataclass(frozen=True, slots=True)
class _Said:
    """A sentence of the evidence: its pattern, and what could be said otherwise in it.

    ``place`` are the title and the headings that it stands under, ``subject`` the names that it opens with,
    ``thing`` the words of content before its verb.
    """

    sentence: Window
    place: tuple[str, ...]
    subject: frozenset[str]
    thing: frozenset[str]
    pattern: frozenset[str]
    names: frozenset[str]
    values: frozenset[Value]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word.stem for word in self.sentence.words)


@dataclass(slots=True)
class _Side:
    """All sentences that say the same."""

    sentences: list[_Said]

    def newest(self, evidence: Sequence[Evidence]) -> datetime | None:
        """Return when this was last said, ``None`` when any of it is undated."""
        times = [evidence[said.sentence.index].occurred_at for said in self.sentences]
        dated = [time for time in times if time is not None]
        return max(dated) if len(dated) == len(times) else None

    def sources(self, evidence: Sequence[Evidence]) -> int:
        """Count independent sources: the same words copied into another source count once."""
        by_words: dict[tuple[str, ...], str] = {}
        for said in self.sentences:
            by_words.setdefault(said.words, _source(evidence[said.sentence.index]))
        return len(set(by_words.values()))


def settle(
    claims: Sequence[Claim],
    question: str,
    evidence: Sequence[Evidence],
    conflicts: list[Conflict] | None = None,
) -> list[Claim]:
    """Return the claims with every conflict settled: what lost is unsupported with its reason, what won or
    stays open stands beside it in the evidence's own words. What was settled is added to ``conflicts``.
    """
    windows = windows_of(evidence, longest=1)
    own_stems = [window.stems for window in windows if any(_cites(claim, window) for claim in claims)]
    everything = [
        _read(window, evidence[window.index])
        for window in windows
        if any(_could_be_alike(window.stems, stems) for stems in own_stems) and not window.gives_orders
    ]
    asked = Parts(question)
    settled: list[Claim] = []
    for claim in claims:
        own = [said for said in everything if _cites(claim, said.sentence)]
        conflict = next((sides for said in own if len(sides := _sides(said, everything, asked)) > 1), None)
        if conflict is None:
            settled.append(claim)
            continue
        winner, reason = _decide(conflict, question, evidence)
        if conflicts is not None:
            told = tuple(side.sentences[0].sentence.citation for side in conflict)
            holds = None if winner is None else conflict.index(winner)
            conflicts.append(Conflict(told, holds, reason))
        if winner is None:
            settled += [claim, *(_quote(side) for side in conflict[1:])]
        elif winner is conflict[0]:
            settled.append(claim)
        else:
            settled += [replace(claim, supported=False, citations=(), reason=reason), _quote(winner)]
    return _without_repetition(settled)


def _read(sentence: Window, piece: Evidence) -> _Said:
    parts = Parts(sentence.quote)
    names = frozenset(name.stem for name in parts.names)
    place = tuple(text.strip().casefold() for text in (piece.title or "", *piece.heading))
    subject = frozenset(name.stem for name in subject_of(parts))
    before = takewhile(lambda word: not is_verb(word), parts.words)
    thing = frozenset(word.stem for word in before if word.is_content)
    return _Said(sentence, place, subject, thing, parts.stems - names, names, _values(parts))


def _values(parts: Parts) -> frozenset[Value]:
    values: set[Value] = {
        ("date", date.year, date.month, date.day)
        for date in parts.dates
        if not any(_says_more(other, date) for other in parts.dates)
    }
    for quantity in parts.quantities:
        is_year = not quantity.unit and _YEARS[0] <= quantity.value <= _YEARS[1] and not quantity.value % 1
        values.add(
            ("date", int(quantity.value), None, None)
            if is_year
            else (quantity.unit, quantity.value, quantity.bound)
        )
    values |= {("code", code) for code in parts.codes}
    return frozenset(values)


def _says_more(other: Date, date: Date) -> bool:
    """Say whether another date is written around the same month, with its year: "in March 1932" has both."""
    overlap = other.start < date.end and date.start < other.end
    return overlap and date.year is None and other.year is not None


def _cites(claim: Claim, sentence: Window) -> bool:
    return any(
        citation.index == sentence.index and citation.start <= sentence.start and sentence.end <= citation.end
        for citation in claim.citations
    )


def _sides(own: _Said, everything: Sequence[_Said], asked: Parts) -> list[_Side]:
    """Return the sides of the conflict that a sentence stands in, its own first; only that when in none."""
    sides = [_Side([own])]
    for other in everything:
        if other is own or not _is_alike(own.pattern, other.pattern) or not _speak_of_one(own, other, asked):
            continue
        if other.names == own.names and _same_values(own, other):
            sides[0].sentences.append(other)
        elif other.sentence.index != own.sentence.index and _rules_out(own, other, asked):
            same = next(
                (
                    side
                    for side in sides[1:]
                    if side.sentences[0].names == other.names and _same_values(side.sentences[0], other)
                ),
                None,
            )
            if same is None:
                sides.append(_Side([other]))
            else:
                same.sentences.append(other)
    return sides


def _could_be_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Rule most sentences out before they are read: values and names are among these stems."""
    return len(one & other) >= min(len(one), len(other)) / 3


def _is_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one & other) and len(one & other) >= SAME_PATTERN * len(one | other)


def _speak_of_one(one: _Said, other: _Said, asked: Parts) -> bool:
    """Say whether two sentences may be compared: "It opened in 1932" is said of what its title names.

    "The harbour office opens at seven" speaks for itself where that office is asked about, and nothing that
    only one of the two titles says; "the office" could be any.
    """
    if one.place == other.place or one.subject & other.subject:
        return True
    if len(one.thing) < _SEVERAL or one.thing != other.thing or not one.thing <= asked.stems:
        return False
    apart = content_stems(" ".join(one.place)) ^ content_stems(" ".join(other.place))
    return not (apart - one.thing) & asked.stems


def _rules_out(own: _Said, other: _Said, asked: Parts) -> bool:
    """Say whether two sentences of one pattern differ in just one value, or in the name that one may bear.

    A value that the question names tells which thing is meant, not what is said of it: who asks for room 12
    is told nothing of room 11. Where both sides agree with it ("in 1932": in March, in June) they may differ.
    """
    mine, theirs = own.values - other.values, other.values - own.values
    if own.names == other.names:
        if not len(mine) == len(theirs) == 1:
            return False
        (one,), (another,) = mine, theirs
        is_asked = any(_agree(one, value) != _agree(another, value) for value in _values(asked))
        return one[0] == another[0] and not _agree(one, another) and not is_asked
    if mine or theirs or not own.names & other.names:
        return False
    mine_named, their_named = own.names - other.names, other.names - own.names
    if not mine_named or not their_named or (mine_named | their_named) & {word.stem for word in asked.words}:
        return False
    said = [{word.text.lower() for word in each.sentence.words} for each in (own, other)]
    first = [each.sentence.names[0].stem for each in (own, other)]
    return first[0] == first[1] and bool(said[0] & said[1] & _EXCLUSIVE)


def _agree(one: Value, another: Value) -> bool:
    """Say whether two values are one, though one of them may say less: 1932 and March 1932."""
    return len(one) == len(another) and all(
        part == other or (one[0] == "date" and None in (part, other))
        for part, other in zip(one, another, strict=True)
    )


def _same_values(one: _Said, another: _Said) -> bool:
    return len(one.values) == len(another.values) and all(
        any(_agree(value, other) for other in another.values) for value in one.values
    )


def _decide(
    sides: Sequence[_Side], question: str, evidence: Sequence[Evidence]
) -> tuple[_Side | None, str | None]:
    """Return the side that holds and why the others do not; ``None`` while it is open."""
    newest = [side.newest(evidence) for side in sides]
    dated = [time for time in newest if time is not None]
    is_state = all(_is_state(said.sentence) for side in sides for said in side.sentences)
    if is_state and len(dated) == len(sides) and not _ASKS_OF_THE_PAST.search(question):
        last = max(dated)
        if dated.count(last) == 1:
            return sides[dated.index(last)], "newer evidence says otherwise"
    counts = [side.sources(evidence) for side in sides]
    most = max(counts)
    if counts.count(most) == 1:
        return sides[counts.index(most)], "more sources say otherwise"
    return None, None


def _is_state(sentence: Window) -> bool:
    return any(word.text.lower() in _STATES for word in words_of(sentence.quote))


def _quote(side: _Side) -> Claim:
    sentence = side.sentences[0].sentence
    return Claim(sentence.quote, supported=True, citations=(sentence.citation,))


def _source(piece: Evidence) -> str:
    return piece.source_id or piece.passage_id


def _without_repetition(claims: Sequence[Claim]) -> list[Claim]:
    """Drop supported claims that rest on quotes given before, and those that lost elsewhere."""
    lost = {claim.text for claim in claims if not claim.supported}
    kept: list[Claim] = []
    given: set[Citation] = set()
    for claim in claims:
        if claim.supported:
            if claim.text in lost or (claim.citations and given.issuperset(claim.citations)):
                continue
            given.update(claim.citations)
        if claim not in kept:
            kept.append(claim)
    return kept
