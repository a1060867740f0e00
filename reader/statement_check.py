"""Check a sentence statement by statement: it stands only when each stands, each by a quote of its own.

The rules decide first (``reader.check``); entailment, where there is one, may only reject further. What is
cited is then made minimal: a quote goes when the others carry every statement without it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from memory.values import Claim, Evidence
from reader.check import Carriers
from reader.entailment import Entailment, Pair
from reader.statements import statements_of
from reader.windows import Window, windows_of

MOST_QUOTES_TRIED = 3
"""So many quotes that the rules let pass are put to entailment before a statement falls."""


@dataclass(frozen=True, slots=True)
class CheckedSentence:
    """A sentence as one claim, and the statements that it joins, each as a claim of its own."""

    claim: Claim
    statements: tuple[Claim, ...]


def check_sentence(
    text: str,
    question: str,
    evidence: Sequence[Evidence],
    cited: Collection[int] = (),
    entailment: Entailment | None = None,
) -> CheckedSentence:
    """Return the sentence with the citations of its statements, or unsupported with the first one's reason.

    ``cited`` are evidence indices that the draft named; they are tried first, then all others. Raises
    ``UnavailableError`` when the entailment's model cannot run.
    """
    windows = windows_of(evidence)
    parts = statements_of(text)
    checks = [
        _Check(
            part.text,
            question,
            evidence,
            Carriers(part.text, question, evidence, windows, cited=cited, own=part.own, whole=len(parts) > 1),
            entailment,
        )
        for part in parts
    ]
    found = [check.find() for check in checks]
    statements = tuple(
        Claim(part.text, supported=True, citations=(window.citation,))
        if window is not None
        else Claim(part.text, supported=False, reason=check.reason)
        for part, check, window in zip(parts, checks, found, strict=True)
    )
    fallen = next((statement for statement in statements if not statement.supported), None)
    if fallen is not None:
        named = f"{fallen.reason}: {fallen.text!r}" if len(parts) > 1 else fallen.reason
        return CheckedSentence(Claim(text, supported=False, reason=named), statements)
    quotes = list(dict.fromkeys(window for window in found if window is not None))
    citations = tuple(window.citation for window in _minimal(quotes, checks))
    return CheckedSentence(Claim(text, supported=True, citations=citations), statements)


class _Check:
    """One statement against quotes: by the rules, then by entailment."""

    def __init__(
        self,
        text: str,
        question: str,
        evidence: Sequence[Evidence],
        carriers: Carriers,
        entailment: Entailment | None,
    ) -> None:
        self._text, self._question, self._evidence = text, question, evidence
        self._carriers = carriers
        self._entailment = entailment
        self._scores: dict[Window, float] = {}
        self.reason: str | None = None

    def find(self) -> Window | None:
        """Return the first quote that carries the statement; when there is none, ``reason`` says why."""
        if self._entailment is None:
            found = next(iter(self._carriers), None)
            self.reason = self._carriers.reason
            return found
        tried = list(islice(self._carriers, MOST_QUOTES_TRIED))
        if not tried:
            self.reason = self._carriers.reason
            return None
        entailed = self._entailed(self._entailment, tried)
        if entailed:
            return entailed[0]
        self.reason = "the quote has its words but does not say it"
        return None

    def carried_by(self, window: Window) -> bool:
        """Say whether this quote carries the statement, by rules and entailment."""
        if self._carriers.why_not(window) is not None:
            return False
        if self._entailment is None:
            return True
        return bool(self._entailed(self._entailment, [window]))

    def _entailed(self, entailment: Entailment, windows: Sequence[Window]) -> list[Window]:
        """Return those that the model lets pass; it is asked of each once."""
        asked = [window for window in windows if window not in self._scores]
        if asked:
            scores = entailment.scores([self._pair(window) for window in asked])
            self._scores |= dict(zip(asked, scores, strict=True))
        return [window for window in windows if self._scores[window] >= entailment.least]

    def _pair(self, window: Window) -> Pair:
        """Put the title in front of the quote: what "it" is often stands only there."""
        title = self._evidence[window.index].title
        quote = f"{title}: {window.quote}" if title else window.quote
        return Pair(self._text, quote, self._question)


def _minimal(quotes: Sequence[Window], checks: Sequence[_Check]) -> list[Window]:
    """Leave one out: drop each quote without which the others still carry every statement.

    The longest are tried first, so that of two that do, the shorter stays (Gao et al. 2023 call what can
    go an imprecise citation).
    """
    kept = list(quotes)
    for quote in sorted(quotes, key=lambda quote: quote.end - quote.start, reverse=True):
        others = [other for other in kept if other is not quote]
        if others and all(any(check.carried_by(other) for other in others) for check in checks):
            kept = others
    return kept
