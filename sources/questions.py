"""What the guarded processes are asked and how they answer: the form of both, as both sides know it.

A question is a kind of one byte, a content, and parameters by name; its answer is a kind, JSON, and bytes
that may be empty. Who adds a question adds a kind here, what answers it in ``sources/guarded.py``, and a
reader of its answer, which believes nothing: who answers has read a hostile file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from memory.errors import InvalidInputError, NothingToReadError, UnsupportedMediaError
from memory.parsed import check_parsed, load_parsed
from memory.values import CUES_MEDIA_TYPE, Parsed, Place
from sources.decoding import valid_text
from sources.media import MAX_SAMPLES, SAMPLE_BYTES, Audio, Clip, Cut, Picture, Span, make_audio
from sources.media_types import MEDIA as MEDIA_TYPES
from sources.stills import CHANNELS, MAX_BYTES, MAX_STILLS, Looked, Still

READY, BODY = b"r", b"b"
"""The greeting; and the message of bytes behind that of JSON in every answer."""
CONTENT, MEDIA, CUT, CLIP, PICTURE, LOOK = b"c", b"v", b"x", b"e", b"j", b"l"
"""Questions; the last four are answered in their own kind."""
PARSED, AUDIO = b"p", b"a"
INVALID, NOTHING, UNSUPPORTED, OUT_OF_MEMORY, FAILED = b"i", b"n", b"u", b"m", b"f"
"""Answers to all questions: no."""
MAX_COUNT = 2**53
"""Of milliseconds, or pixels: what JSON can tell."""


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


def read_cut(answer: Answer) -> Cut | None:
    """Return a file without some of its spans, which are in order; ``None`` when nothing is left of it."""
    told = _expect(answer, CUT)
    if not answer.body:
        return None
    gone = tuple(_span(start, end) for start, end in told["gone"])
    if any(later[0] <= earlier[1] for earlier, later in pairwise(gone)):
        raise ValueError("spans out of order")
    return Cut(answer.body, _media_type(told), gone)


def read_clip(answer: Answer) -> Clip:
    """Return an excerpt that is not empty."""
    told = _expect(answer, CLIP)
    if not answer.body:
        raise ValueError("an empty file")
    return Clip(answer.body, _media_type(told), *_span(told["start_ms"], told["end_ms"]))


def read_picture(answer: Answer) -> Picture:
    """Return what looks like a JPEG."""
    told = _expect(answer, PICTURE)
    if not (answer.body.startswith(b"\xff\xd8\xff") and answer.body.endswith(b"\xff\xd9")):
        raise ValueError("no JPEG")
    at_ms, width, height = (_count(told[name]) for name in ("at_ms", "width", "height"))
    return Picture(answer.body, at_ms, width, height)


def read_looked(answer: Answer) -> Looked:
    """Return stills that have the pixels they should, in order, and where to look on."""
    told = _expect(answer, LOOK)
    stills: list[Still] = []
    position = 0
    if len(told["stills"]) > MAX_STILLS or len(answer.body) > MAX_BYTES:
        raise ValueError("too many stills")
    for width, height, place in told["stills"]:
        end = position + _count(width) * _count(height) * CHANNELS
        if not position < end <= len(answer.body):
            raise ValueError("pixels missing")
        stills.append(Still(width, height, answer.body[position:end], _place(place)))
        position = end
    if position != len(answer.body):
        raise ValueError("pixels of nothing")
    title = None if told["title"] is None else valid_text(str(told["title"]))
    warnings = tuple(valid_text(str(each)) for each in told["warnings"])
    return Looked(tuple(stills), None if told["rest"] is None else _count(told["rest"]), title, warnings)


def read_refusal(answer: Answer) -> InvalidInputError | None:
    """Return why the content was refused, ``None`` when it was not or for want of memory."""
    if answer.kind not in (UNSUPPORTED, INVALID, NOTHING, FAILED):
        return None
    told = json.loads(answer.told)
    if answer.kind == UNSUPPORTED:
        return UnsupportedMediaError(str(told["media_type"]), tuple(map(str, told["supported"])))
    if answer.kind != FAILED:
        where = None if told["where"] is None else str(told["where"])
        refused = NothingToReadError if answer.kind == NOTHING else InvalidInputError
        return refused(str(told["what"]), where=where)
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


def _media_type(told: dict[str, Any]) -> str:
    media_type = told["media_type"]
    if media_type not in (*MEDIA_TYPES, CUES_MEDIA_TYPE):
        raise ValueError("a media type of no recording")
    return str(media_type)


def _span(start: object, end: object) -> Span:
    span = (_count(start), _count(end))
    if span[0] >= span[1]:
        raise ValueError("an empty span")
    return span


def _place(told: list[Any] | None) -> Place | None:
    if told is None:
        return None
    kind, first, last = told
    if kind not in ("time", "page") or _count(first) > _count(last):
        raise ValueError("no place")
    return Place(kind, first, last)


def _count(told: object) -> int:
    if type(told) is not int or not 0 <= told <= MAX_COUNT:
        raise ValueError("no count")
    return told
