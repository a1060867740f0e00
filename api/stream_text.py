"""Lines of a log, of JSON or of captions become cues on the time of a stream, and batches of them.

Times come from the lines where these have them; else from when a line arrived, or from its place in the
file. Nothing here sends anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from api.client_streams import CueFields
from sources.captions import iter_cues

Form = Literal["lines", "json", "captions"]

BATCH_CUES = 50
BATCH_CHARACTERS = 200_000
BATCH_MS = 600_000
"""A segment has so many cues and characters, and lasts so long, at most."""
QUIET_SECONDS = 2.0
MS_PER_LINE = 1000
"""What a line lasts whose time nothing tells."""

_TEXTS = ("text", "message", "msg")
_TIMES = ("time", "timestamp", "ts", "at", "occurred_at", "@timestamp")
_MOMENT = re.compile(
    r"\s*\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s?(Z|[+-]\d\d:?\d\d)?\]?(?=[\s:,;|-]|$)"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Cues that make a segment, and how many lines were read when it was complete."""

    cues: list[CueFields]
    lines: int


def guess_form(head: bytes) -> Form:
    """Return what the beginning of a text shows it to be."""
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("WEBVTT") or re.search(r"^[\d:.,]+ *--> *[\d:.,]+", text, re.MULTILINE):
        return "captions"
    return "json" if text.startswith("{") else "lines"


def find_moment(line: str, form: Form) -> datetime | None:
    """Return the time of day that a line tells, if it does; one without a zone is taken as UTC."""
    if form == "lines":
        match = _MOMENT.match(line)
        return None if match is None else _moment(match[1] + (match[2] or ""))
    found = _read_object(line) if form == "json" else None
    told = None if found is None else next((found[name] for name in _TIMES if name in found), None)
    if isinstance(told, str):
        return _moment(told)
    if isinstance(told, int | float) and not isinstance(told, bool):
        seconds = told / 1000 if told > 1e11 else told  # some count milliseconds
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, ValueError, OSError):
            return None
    return None


class LineReader:
    """Makes cues of lines. ``begins`` is when the stream's time begins, for lines that tell their time.

    ``arrived_ms`` returns the stream's time now where lines are read as they are written; ``None`` for
    lines of a file that is complete. ``told`` is given notes in words.
    """

    def __init__(
        self,
        form: Form,
        begins: datetime | None,
        arrived_ms: Callable[[], int] | None,
        told: Callable[[str], None],
    ) -> None:
        self.lines = 0
        self._form = form
        self._begins = begins
        self._arrived_ms = arrived_ms
        self._told = told
        self._last_ms: int | None = None
        self._is_timed = False
        self._notes: set[str] = set()
        self._block: list[str] = []

    def skip(self, lines: int) -> None:
        """Let so many lines count as read."""
        self.lines += lines

    def read(self, line: str) -> Iterator[CueFields]:
        """Yield the cues that a line completes."""
        self.lines += 1
        if self._form == "captions":
            if line.strip():
                self._block.append(line)
            else:
                yield from self.finish()
            return
        cue = self._read_object(line) if self._form == "json" else self._read_line(line)
        if cue is not None:
            self._last_ms = cue["start_ms"]
            yield cue

    def finish(self) -> Iterator[CueFields]:
        """Yield what was begun."""
        block, self._block = self._block, []
        for cue in iter_cues("\n".join(block)):
            made = CueFields(start_ms=cue.start_ms, end_ms=max(cue.start_ms, cue.end_ms), text=cue.text)
            if cue.speaker is not None:
                made["speaker"] = cue.speaker[:500]
            yield made

    @property
    def is_amid(self) -> bool:
        """Whether lines were read that what comes next belongs to."""
        return bool(self._block)

    def _read_line(self, line: str) -> CueFields | None:
        if not line.strip():
            return None
        return CueFields(start_ms=self._time_of(line), text=line.strip())

    def _read_object(self, line: str) -> CueFields | None:
        if not line.strip():
            return None
        found = _read_object(line)
        text = None if found is None else next((found[name] for name in _TEXTS if name in found), None)
        if found is None or not isinstance(text, str) or not text.strip():
            self._note(f"line {self.lines} is no JSON object with a text or message; such lines are left out")
            return None
        start_ms = _whole(found.get("start_ms"))
        cue = CueFields(start_ms=self._time_of(line) if start_ms is None else start_ms, text=text)
        end_ms = _whole(found.get("end_ms"))
        if end_ms is not None and end_ms >= cue["start_ms"]:
            cue["end_ms"] = end_ms
        speaker = found.get("speaker")
        if isinstance(speaker, str) and speaker:
            cue["speaker"] = speaker[:500]
        return cue

    def _time_of(self, line: str) -> int:
        moment = find_moment(line, self._form)
        if moment is not None and self._begins is not None:
            self._is_timed = True
            return max(0, round((moment - self._begins).total_seconds() * 1000))
        if self._is_timed and self._last_ms is not None:
            return self._last_ms  # what goes on over several lines
        if self._arrived_ms is not None:
            return max(0, self._arrived_ms())
        self._note("its lines tell no time: they count as one second each, in their order")
        return (self.lines - 1) * MS_PER_LINE

    def _note(self, what: str) -> None:
        kind = what.split(" ", 2)[0]
        if kind not in self._notes:
            self._notes.add(kind)
            self._told(what)


def iter_batches(lines: Iterable[str | None], reader: LineReader) -> Iterator[Batch]:
    """Yield what makes a segment: what came together, or until nothing comes for a while (``None``)."""
    cues: list[CueFields] = []
    complete = reader.lines
    for line in lines:
        if line is not None:
            for cue in reader.read(line):
                if cues and _is_too_much(cues, cue):
                    yield Batch(cues, complete)
                    cues = []
                cues.append(cue)
            complete = complete if reader.is_amid else reader.lines
        if cues and (line is None or len(cues) >= BATCH_CUES):
            yield Batch(cues, complete)
            cues = []
    cues.extend(reader.finish())
    if cues:
        yield Batch(cues, reader.lines)


def _is_too_much(cues: list[CueFields], more: CueFields) -> bool:
    every = [*cues, more]
    first = min(cue["start_ms"] for cue in every)
    last = max(cue.get("end_ms", cue["start_ms"]) for cue in every)
    return last - first > BATCH_MS or sum(len(cue["text"]) for cue in every) > BATCH_CHARACTERS


def _read_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.replace(",", "."))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
