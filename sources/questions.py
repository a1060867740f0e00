"""What the guarded processes are asked and how they answer: the form of both, as both sides know it.

A question is a kind of one byte, a content, and parameters by name; its answer is a kind, JSON, and bytes
that may be empty. Who adds a question adds a kind here, what answers it in ``sources/guarded.py``, and a
reader of its answer, which believes nothing: who answers has read a hostile file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from memory.errors import InvalidInputError, UnsupportedMediaError
from memory.parsed import check_parsed, load_parsed
from memory.values import Parsed
from sources.decoding import valid_text
from sources.media import MAX_SAMPLES, SAMPLE_BYTES, Audio, make_audio

READY, BODY = b"r", b"b"
"""The greeting; and the message of bytes behind that of JSON in every answer."""
CONTENT, MEDIA = b"c", b"v"
"""Questions."""
PARSED, AUDIO = b"p", b"a"
INVALID, UNSUPPORTED, OUT_OF_MEMORY, FAILED = b"i", b"u", b"m", b"f"
"""Answers to all questions: no."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``told`` is JSON whose form ``kind`` names."""

    kind: bytes
    told: bytes = b"{}"
    body: bytes = b""


def tell(kind: bytes, told: dict[str, Any], body: bytes = b"") -> Answer:
    """Return an answer that tells of so much."""
    return Answer(kind, json.dumps(told).encode(), body)


# Readers of answers. They raise KeyError, TypeError or ValueError for what is no answer to the question.


def read_parsed(answer: Answer) -> Parsed:
    """Return what holds together: spans inside the text and in order, parents before their sections."""
    _expect(answer, PARSED)
    return check_parsed(load_parsed(answer.told))


def read_media(answer: Answer) -> Parsed | Audio:
    """Return captions, or sound whose length is that of its samples, whatever else was told."""
    if answer.kind == PARSED:
        return read_parsed(answer)
    told = _expect(answer, AUDIO)
    if len(answer.body) % SAMPLE_BYTES:
        raise ValueError("no samples")
    if len(answer.body) > MAX_SAMPLES * SAMPLE_BYTES:
        raise ValueError("too many samples")
    title = None if told["title"] is None else valid_text(str(told["title"]))
    return make_audio(answer.body, title, tuple(valid_text(str(each)) for each in told["warnings"]))


def read_refusal(answer: Answer) -> InvalidInputError | None:
    """Return why the content was refused, ``None`` when it was not or for want of memory."""
    if answer.kind not in (UNSUPPORTED, INVALID, FAILED):
        return None
    told = json.loads(answer.told)
    if answer.kind == UNSUPPORTED:
        return UnsupportedMediaError(str(told["media_type"]), tuple(map(str, told["supported"])))
    if answer.kind == INVALID:
        where = told["where"]
        return InvalidInputError(str(told["what"]), where=None if where is None else str(where))
    return InvalidInputError(
        f"the parser failed on it in a way it does not foresee ({told['what']}); please report this"
    )


def _expect(answer: Answer, kind: bytes) -> dict[str, Any]:
    """Return what an answer of this kind tells."""
    if answer.kind != kind:
        raise ValueError("an answer to another question")
    told = json.loads(answer.told)
    if not isinstance(told, dict):
        raise TypeError("an answer of no form")
    return told
