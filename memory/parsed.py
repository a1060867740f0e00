"""How a parsed entry is written, and read back: into an artifact, and between processes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from memory.values import Parsed, Passage, Place, Section


def dump_parsed(parsed: Parsed) -> bytes:
    """Return a parsed entry as JSON."""
    return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS)


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
    )


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
