"""An encoder in another process, the engine's: the same bits, none of the weights."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import orjson

from memory.errors import InvalidInputError, UnavailableError
from memory.ports import Engine, Vectors
from memory.values import Space

EMBEDDINGS_ROUTE = "/v1/embeddings"
TEXTS_PER_REQUEST = 128
CHARACTERS_PER_REQUEST = 2_000_000
REQUESTS_AT_ONCE = 3
"""Enough that the engine never waits for the way, few enough that others' requests come between."""

VECTOR_TYPE = np.dtype("<f4")


class RemoteEncoder:
    """Implements ``memory.ports.Encoder`` over an engine; safe to share between threads."""

    def __init__(self, engine: Engine, space: Space) -> None:
        """``space`` is the engine's now; every reply must be of the same one."""
        self._engine = engine
        self._space = space
        self._pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="encode-remotely")

    @property
    def space(self) -> Space:
        """Where these vectors may be compared: the engine's space when this was made."""
        return self._space

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        """Return unit rows of shape (len(texts), space.dimension), bit for bit those of the engine's encoder.

        Raises ``UnavailableError`` when the engine cannot be reached, is busy, or has another model by now.
        """
        chunks = list(_chunks(texts))
        if len(chunks) > 1:
            parts = list(self._pool.map(lambda chunk: self._encode(chunk, role), chunks))
        else:
            parts = [self._encode(chunk, role) for chunk in chunks]
        return np.concatenate([np.empty((0, self._space.dimension), dtype=np.float32), *parts])

    def _encode(self, texts: Sequence[str], role: Literal["passage", "query"]) -> Vectors:
        asked = {"input": texts, "role": role, "encoding_format": "base64"}
        try:
            body = orjson.dumps(asked)
        except orjson.JSONEncodeError as error:
            raise InvalidInputError("a text holds what UTF-8 cannot") from error
        reply = self._engine.ask(EMBEDDINGS_ROUTE, body)
        try:
            parsed: dict[str, Any] = orjson.loads(reply)
            space = Space(**parsed["lethe"])
            rows = [base64.b64decode(item["embedding"], validate=True) for item in parsed["data"]]
        except (ValueError, TypeError, KeyError) as error:
            raise UnavailableError(
                "the engine's reply holds no vectors as Lethe's engine sends them"
            ) from error
        if space != self._space:
            raise UnavailableError(
                f"the engine now encodes with {_shown(space)}, and this process began with "
                f"{_shown(self._space)}; restart it, and it will encode everything anew"
            )
        width = space.dimension * VECTOR_TYPE.itemsize
        if len(rows) != len(texts) or any(len(row) != width for row in rows):
            raise UnavailableError(
                f"the engine replied {len(rows)} vectors to {len(texts)} texts, or some of a wrong length"
            )
        return np.frombuffer(b"".join(rows), dtype=VECTOR_TYPE).reshape(len(rows), space.dimension)


def vector_to_base64(vector: Vectors) -> str:
    """Return one vector, shape (dimension,), as base64 of little-endian float32: no bit is lost."""
    return base64.b64encode(vector.astype(VECTOR_TYPE, copy=False).tobytes()).decode("ascii")


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, as many together as one request should carry."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == TEXTS_PER_REQUEST or characters + len(text) > CHARACTERS_PER_REQUEST):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


def _shown(space: Space) -> str:
    return f"{space.model} ({space.digest[:12]}, {space.dimension} dimensions, {space.numeric_class})"
