"""How derived values are written into artifacts, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from memory.ports import Vectors
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


def dump_vectors(vectors: Vectors) -> bytes:
    """Return unit rows as little-endian fp16; encoders round to fp16, so nothing is lost."""
    return vectors.astype("<f2").tobytes()


def load_vectors(payload: bytes, dimension: int) -> Vectors:
    """Return the rows, shape (rows, dimension), as float32."""
    return np.frombuffer(payload, dtype="<f2").reshape(-1, dimension).astype(np.float32)


@dataclass(frozen=True, slots=True)
class NodeOutline:
    """An inner node of an entry. Its embedding follows exactly from its passages' vectors and is not kept.

    ``summary`` are spans of the sentences that stand for it; ``code`` is its binary code in hexadecimal.
    """

    section: int
    passages: tuple[int, ...]
    summary: tuple[tuple[int, int], ...]
    code: str


def dump_nodes(nodes: Sequence[NodeOutline]) -> bytes:
    """Return an entry's inner nodes as JSON."""
    return orjson.dumps(nodes, option=orjson.OPT_SORT_KEYS)


def load_nodes(payload: bytes) -> tuple[NodeOutline, ...]:
    """Return an entry's inner nodes from their JSON."""
    return tuple(
        NodeOutline(
            n["section"],
            tuple(n["passages"]),
            tuple((start, end) for start, end in n["summary"]),
            n["code"],
        )
        for n in orjson.loads(payload)
    )
