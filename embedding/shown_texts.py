"""What is read in the key frames of a film, one after another, becomes texts with the time they are shown.

A line that stays is one text, though it is not read alike each time; lines that come and go together are one,
too. Nothing here reads a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby

from memory.values import Place, TextLine, Utterance

LEAST_CONFIDENCE = 0.8
LEAST_CHARACTERS = 2
"""Letters and digits; less is what is read into grass and fur."""
ALIKE = 0.8
"""Two readings are of one line when so much of them is the same."""
PATIENCE_FRAMES = 1
"""So many key frames in a row a line may be overlooked,"""
PATIENCE_MS = 5_000
"""and for so long."""
MAX_READINGS = 16
"""Different ones of a line that are kept: noise reads it anew in each of thousands of key frames."""

Seen = tuple[Place, Sequence[TextLine]]
"""When a key frame is shown, and what is read in it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read, with what of it is compared: spaces and marks come and go."""

    text: str
    letters: str
    digits: str

    @staticmethod
    def of(text: str) -> _Reading:
        """Return a text as a reading."""
        letters = "".join(filter(str.isalnum, text.casefold()))
        return _Reading(text, letters, "".join(filter(str.isdigit, letters)))


@dataclass(slots=True, eq=False)
class _Line:
    """A line through consecutive key frames."""

    first: int
    last: int
    start_ms: int
    end_ms: int
    order: int
    readings: Counter[str] = field(default_factory=Counter)
    latest: _Reading | None = None
    leading: _Reading | None = None

    def goes_on(self, number: int, place: Place) -> bool:
        """Say whether a line of this key frame may be the same."""
        return number - self.last <= PATIENCE_FRAMES + 1 and place.first - self.end_ms <= PATIENCE_MS

    def add(self, text: str, confidence: float) -> None:
        """Take a reading; where there are too many, the one with the least to say for it is dropped."""
        if text not in self.readings and len(self.readings) >= MAX_READINGS:
            del self.readings[min(self.readings, key=self.readings.__getitem__)]
        # In thousandths: a sum of floats would depend on their order.
        self.readings[text] += round(confidence * 1000)
        self.latest = _Reading.of(text)
        leading = max(self.readings, key=self.readings.__getitem__)
        if self.leading is None or leading != self.leading.text:
            self.leading = _Reading.of(leading)

    def likeness(self, reading: _Reading) -> float:
        """Return how much of a reading is as the line was read last, else as it is read most surely."""
        if self.latest is None or self.leading is None:
            return 0.0
        return _likeness(self.latest, reading) or _likeness(self.leading, reading)

    def settle(self) -> str:
        """Return the reading that is most like all of them, surer ones counting for more.

        Each is compared with each, so that it is asked for once, when the line has ended.
        """
        return max(self.readings, key=lambda text: (self._support(text), len(text), text))

    def _support(self, text: str) -> float:
        told = self.readings.items()
        return round(sum(sure * SequenceMatcher(None, text, other).ratio() for other, sure in told), 6)


def merge_seen(frames: Iterable[Seen]) -> list[Utterance]:
    """Return the texts that were shown, in order of time; lines of one text are set apart by newlines."""
    open_lines: list[_Line] = []
    closed: list[_Line] = []
    for number, (place, lines) in enumerate(frames):
        still_open = [line for line in open_lines if line.goes_on(number, place)]
        closed += [line for line in open_lines if not line.goes_on(number, place)]
        free = list(still_open)
        for order, told in enumerate(filter(is_clear, lines)):
            text = " ".join(told.text.split())
            line = _find_alike(free, text)
            if line is None:
                line = _Line(number, number, place.first, place.last, order)
                still_open.append(line)
            else:
                free.remove(line)
            line.last, line.end_ms = number, max(line.end_ms, place.last)
            line.add(text, told.confidence)
        open_lines = still_open
    together = sorted(closed + open_lines, key=lambda line: (line.first, line.last, line.order))
    return [_join(list(lines)) for _, lines in groupby(together, key=lambda line: (line.first, line.last))]


def is_clear(line: TextLine) -> bool:
    """Say whether a line was read surely enough to be believed."""
    return line.confidence >= LEAST_CONFIDENCE and sum(map(str.isalnum, line.text)) >= LEAST_CHARACTERS


def _join(lines: Sequence[_Line]) -> Utterance:
    return Utterance(
        lines[0].start_ms, max(line.end_ms for line in lines), "\n".join(line.settle() for line in lines)
    )


def _find_alike(lines: Sequence[_Line], text: str) -> _Line | None:
    """Return the line that a reading is most like, if it is alike enough."""
    reading = _Reading.of(text)
    likeness = [(line.likeness(reading), -index) for index, line in enumerate(lines)]
    best, index = max(likeness, default=(0.0, 0))
    return lines[-index] if best else None


def _likeness(one: _Reading, other: _Reading) -> float:
    """Return how much of two readings is the same; nothing when that is too little, or numbers differ."""
    if one.letters == other.letters:
        return 1.0
    if one.digits != other.digits:
        return 0.0
    matcher = SequenceMatcher(None, one.letters, other.letters, autojunk=False)
    # Both are upper bounds and cheap: a picture has many lines, most of them nothing like each other.
    if matcher.real_quick_ratio() < ALIKE or matcher.quick_ratio() < ALIKE:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= ALIKE else 0.0
