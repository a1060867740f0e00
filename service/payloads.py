"""How derived values are written into artifacts, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from memory.ports import Vectors


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
