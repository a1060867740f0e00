"""Check a claim against the evidence: it stands only when a quoted span carries it.

By rules. The claim is aligned to the shortest run of sentences that holds its words; then its
numbers, dates, codes and names must be there, and nothing may be asserted that the quote denies.
Rules see the surface: what is worded otherwise falls, and two true facts joined wrongly can still pass
where the sentence that joins them rightly cannot be cut (``reader.statements``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from memory.values import Claim, Evidence
from reader.dates import Date, dates_in
from reader.names import codes_in, names_in
from reader.negation import contradicts
from reader.numbers import Quantity, quantities_in
from reader.roles import turned
from reader.statements import statements_of
from reader.windows import Window, windows_of
from reader.words import Word, content_stems, words_of

LEAST_COVERAGE = 0.6
"""Share of a claim's content words that its quote must hold (the question's words count half)."""

SHORT_CLAIM_WORDS = 5
"""A claim of so few words is an answer without a sentence: the question must be near its quote."""

LEAST_QUESTION_COVERAGE = 0.4
"""Share of the question's content words that must be near the quote of a short claim."""


def check_claim(text: str, question: str, evidence: Sequence[Evidence], cited: Collection[int] = ()) -> Claim:
    """Return the claim with its citation, or unsupported with the reason.

    ``cited`` are evidence indices that the draft named; they are tried first, then all others.
    """
    carriers = Carriers(text, question, evidence, windows_of(evidence), cited=cited)
    window = next(iter(carriers), None)
    if window is None:
        return Claim(text, supported=False, reason=carriers.reason)
    return Claim(text, supported=True, citations=(window.citation,))


class Carriers:
    """The windows that carry a claim by the rules, the best first; ``reason`` says why there is none.

    ``own`` are the stems that tell the claim from those it was joined with: of these, too, a window must
    hold enough. ``whole`` says that the claim is a statement however short it is, not an answer's bare words.
    """

    def __init__(
        self,
        text: str,
        question: str,
        evidence: Sequence[Evidence],
        windows: Sequence[Window],
        *,
        cited: Collection[int] = (),
        own: Collection[str] = (),
        whole: bool = False,
    ) -> None:
        """``windows`` are ``windows_of(evidence)``."""
        self._claim, self._asked = Parts(text), Parts(question)
        self._evidence, self._windows = evidence, windows
        self._cited = cited
        self._own = frozenset(own) & self._claim.stems
        self._is_short = not whole and len(self._claim.words) <= SHORT_CLAIM_WORDS
        self.reason: str | None = None

    def __iter__(self) -> Iterator[Window]:
        claim, asked = self._claim, self._asked
        if not claim.stems and not claim.quantities and not claim.dates:
            self.reason = "it says nothing that could be checked"
            return
        if self._is_short and _only_repeats(claim, asked):
            self.reason = "it only repeats the question"
            return
        self.reason = "there is no evidence"
        fits = {window: _fit(claim, asked, window) for window in self._windows}
        nearest = -math.inf
        for window in sorted(
            self._windows, key=lambda window: (window.index not in self._cited, -fits[window])
        ):
            reason = self.why_not(window)
            if reason is None:
                yield window
            elif fits[window] > nearest:
                nearest, self.reason = fits[window], reason

    def why_not(self, window: Window) -> str | None:
        """Return the first rule that the window breaks for this claim, ``None`` when it carries it."""
        piece = self._evidence[window.index]
        reason = _why_not(self._claim, self._asked, window, piece, self._windows, is_short=self._is_short)
        if reason is None and len(self._own & window.stems) < LEAST_COVERAGE * len(self._own):
            return "no passage says it"
        return reason


class Parts:
    """What a text says that can be compared; ``stems`` leave dates and measures out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = words_of(text)
        self.quantities = quantities_in(text)
        self.dates = dates_in(text)
        measured = [(quantity.start, quantity.end) for quantity in self.quantities]
        measured += [(date.start, date.end) for date in self.dates]
        self.stems = frozenset(
            word.stem
            for word in self.words
            if word.is_content and not any(start < word.end and word.start < end for start, end in measured)
        )
        self.codes = codes_in(text)
        self.names = names_in(text)


def _only_repeats(claim: Parts, asked: Parts) -> bool:
    """Say whether a claim says nothing that the question did not; a choice it offers may be echoed."""
    said = {word.stem for word in claim.words}
    known = {word.stem for word in asked.words}
    return said <= known and "or" not in known and asked.text.rstrip().endswith("?")


def _fit(claim: Parts, asked: Parts, window: Window) -> float:
    """How well a window fits: the words it holds, less for each further sentence and each missing number.

    A short claim says little, so the question's words help to choose among the places that hold it.
    """
    missing = sum(not _has_quantity(window, quantity) for quantity in claim.quantities)
    nearness = len(asked.stems & window.stems) / max(1, len(asked.stems))
    return (
        _coverage(claim, asked, window) + 0.3 * nearness - 0.2 * (window.last - window.first) - 0.3 * missing
    )


def _why_not(
    claim: Parts,
    asked: Parts,
    window: Window,
    piece: Evidence,
    windows: Sequence[Window],
    *,
    is_short: bool,
) -> str | None:
    if window.gives_orders:
        return "the passage only tells its reader what to do"
    for quantity in claim.quantities:
        echoed = quantity.unit == "ordinal" and any(own.carries(quantity) for own in asked.quantities)
        if not echoed and not _has_quantity(window, quantity):
            return f"the number {claim.text[quantity.start : quantity.end].strip()!r} is not in the evidence"
    missing = _missing_date(claim, window, piece.occurred_at)
    if missing is not None:
        return f"the date {missing!r} is not in the evidence"
    codes = claim.codes - window.codes
    if codes:
        return f"{min(codes)!r} is not in the evidence"
    around = [other for other in windows if other.index == window.index and other.first == other.last]
    name = _missing_name(claim, asked, window, piece, around)
    if name is not None:
        return f"the name {name!r} is not in the evidence"
    if _coverage(claim, asked, window) < LEAST_COVERAGE:
        return "no passage says it"
    if is_short and not _question_is_near(claim, asked, window, piece, around):
        return "the evidence says it of something else"
    if contradicts(claim.text, window.quote):
        return "the evidence denies it"
    if turned(claim.text, window.quote):
        return "the evidence says it the other way round"
    if _crosses(claim, window):
        return "the evidence says it of different things"
    return None


def _crosses(claim: Parts, window: Window) -> bool:
    """Say whether the claim joins names and numbers that one sentence has in different statements.

    "Alice won gold and Bob won silver" carries no "Alice won silver". A claim of several statements is not
    looked at: ``reader.statement_check`` looks at each.
    """
    sentences = window.statements
    if all(len(statements) < 2 for statements in sentences) or len(statements_of(claim.text)) > 1:
        return False
    keys = {name.stem for name in claim.names}
    keys |= {word.stem for word in claim.words if any(char.isdigit() for char in word.text)}
    for statements in sentences:
        held = keys & frozenset.union(*statements)
        if len(held) > 1 and not any(held <= own for each in sentences for own in each):
            return True
    return False


def _has_quantity(window: Window, quantity: Quantity) -> bool:
    if any(own.carries(quantity) for own in window.quantities):
        return True
    years = [Decimal(date.year) for date in window.dates if date.year is not None]
    return not quantity.unit and quantity.value in years


def _missing_date(claim: Parts, window: Window, occurred_at: datetime | None) -> str | None:
    """Return the first date of the claim that neither the window nor the evidence's own date carries."""
    years = [int(quantity.value) for quantity in window.quantities if not quantity.unit]
    own = [*window.dates]
    if occurred_at is not None:
        own.append(Date(occurred_at.year, occurred_at.month, occurred_at.day, 0, 0))
        years.append(occurred_at.year)
    spans = {(date.start, date.end) for date in claim.dates}
    for start, end in sorted(spans):
        readings = [date for date in claim.dates if (date.start, date.end) == (start, end)]
        if not any(mine.carries(reading, years) for mine in own for reading in readings):
            return claim.text[start:end]
    return None


def _missing_name(
    claim: Parts, asked: Parts, window: Window, piece: Evidence, around: Sequence[Window]
) -> str | None:
    """Return the first name that is nowhere near, or belongs to another subject than the window's.

    Any name may come from the question; the claim's subject also from the title, the heading or another
    sentence of the passage. When something was so borrowed, or the window is longer than a sentence,
    none of its sentences may open with a subject that the claim does not name:
    "Tesla was born in Smiljan. Edison was born in Milan." carries no "Tesla was born in Milan".
    """
    inside = {word.stem for word in window.words}
    questioned = {word.stem for word in asked.words}
    elsewhere: set[str] = set()
    for text in (piece.title or "", *piece.heading):
        elsewhere |= {word.stem for word in words_of(text)}
    for sentence in around:
        elsewhere |= {word.stem for word in sentence.words}
    subject = {name.start for name in subject_of(claim)}
    borrowed: Word | None = None
    for name in claim.names:
        if name.stem in inside:
            continue
        if name.stem not in questioned and not (name.stem in elsewhere and name.start in subject):
            return name.text
        borrowed = name
    if borrowed is None and window.first < window.last and claim.names:
        borrowed = claim.names[0]
    sentences = [other for other in around if window.first <= other.first <= window.last]
    known = {word.stem for word in (claim.words if subject else (*claim.words, *asked.words))}
    if borrowed is not None and any(_opens_with_another(sentence, known) for sentence in sentences):
        return borrowed.text
    return None


def subject_of(said: Parts) -> list[Word]:
    """Return the names in front of the first other word of content: what a sentence speaks of."""
    names = {name.start for name in said.names}
    subject = []
    for word in said.words:
        if word.start in names:
            subject.append(word)
        elif word.is_content and not any(char.isdigit() for char in word.text):
            break
    return subject[:_LONGEST_NAME]


def _opens_with_another(sentence: Window, known: Collection[str]) -> bool:
    opening = [word for word in sentence.names if word.start <= _OPENING_CHARACTERS]
    return bool(opening) and not any(word.stem in known for word in opening)


_LONGEST_NAME = 5
"""Words in a name, at most."""

_OPENING_CHARACTERS = 12
"""A name that begins so early in a sentence is taken for its subject."""


def _coverage(claim: Parts, asked: Parts, window: Window) -> float:
    """Share of the claim's content words in the window; one that only the question holds counts half."""
    if not claim.stems:
        return 1.0
    held = claim.stems & window.stems
    echoed = (claim.stems - held) & asked.stems
    return (len(held) + len(echoed) / 2) / len(claim.stems)


def _question_is_near(
    claim: Parts, asked: Parts, window: Window, piece: Evidence, around: Sequence[Window]
) -> bool:
    """Say whether the question's words are in the window, beside it, or in its title and heading."""
    near: set[str] = set(claim.stems)
    for sentence in around:
        if window.first - 1 <= sentence.first <= window.last + 1:
            near |= sentence.stems
    for text in (piece.title or "", *piece.heading):
        near |= content_stems(text)
    wanted = asked.stems
    return not wanted or len(wanted & near) / len(wanted) >= LEAST_QUESTION_COVERAGE
