"""How a parsed entry is written, and read back: into an artifact, and between processes."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

import orjson

from memory.values import Parsed, Passage, Place, Section, Times


def dump_parsed(parsed: Parsed) -> bytes:
    """Return a parsed entry as JSON. Without times it is written as it was when there were none."""
    told = {one.name: getattr(parsed, one.name) for one in fields(parsed)}
    if not parsed.times:
        del told["times"]
    return orjson.dumps(told)


def load_parsed(payload: bytes) -> Parsed:
    """Return a parsed entry from its JSON."""
    value = orjson.loads(payload)
    return Parsed(
        title=value["title"],
        text=value["text"],
        sections=tuple(
            Section(s["start"], s["end"], tuple(s["heading"]), s["parent"]) for s in value["sections"]
        ),
        passages=tuple(_passage(p) for p in value["passages"]),
        warnings=tuple(value["warnings"]),
        times=_times(value.get("times")),
    )


def check_parsed(parsed: Parsed) -> Parsed:
    """Return what holds together: spans inside the text and in order, parents before their sections.

    Raises ``ValueError`` or ``TypeError`` for what does not.
    """
    length, position = len(parsed.text), 0
    for index, section in enumerate(parsed.sections):
        if not (0 <= section.start <= section.end <= length and 0 <= (section.parent or 0) <= index):
            raise ValueError("a section out of place")
    for passage in parsed.passages:
        if not (position <= passage.start < passage.end <= length and passage.section >= 0):
            raise ValueError("a passage out of place")
        if passage.section >= len(parsed.sections):
            raise ValueError("a passage of no section")
        position = passage.end
    _check_times(parsed.times, length)
    return parsed


def _check_times(times: Times, length: int) -> None:
    """Refuse times that are not of stretches of a text of this length, in order."""
    position = 0
    for told in zip(times.starts, times.ends, times.start_ms, times.end_ms, strict=True):
        start, end, start_ms, end_ms = told
        in_order = position <= start < end <= length and 0 <= start_ms <= end_ms
        if not in_order or any(type(number) is not int for number in told):
            raise ValueError("a time out of place")
        position = end


def _times(value: dict[str, list[int]] | None) -> Times:
    return Times() if value is None else Times(*(tuple(value[column.name]) for column in fields(Times)))


def _passage(value: dict[str, Any]) -> Passage:
    occurred_at = value["occurred_at"]
    return Passage(
        start=value["start"],
        end=value["end"],
        section=value["section"],
        place=None if value["place"] is None else Place(**value["place"]),
        heading=tuple(value["heading"]),
        messages=tuple(value["messages"]),
        context=value["context"],
        occurred_at=None if occurred_at is None else datetime.fromisoformat(occurred_at),
    )
