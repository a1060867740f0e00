"""What a client of the service sends: fields as Python knows them, and the bodies made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import orjson

from api.replies import rfc3339
from memory.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Upload:
    """A file's name and bytes, for what is no file of its own or was read already."""

    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file taken out of a video or recording, of which it is what there is between two times.

    A picture is of one time, both being the same.
    """

    body: bytes
    media_type: str
    start_ms: int
    end_ms: int


class AttributeFields(TypedDict, total=False):
    """What may be said about a document or memory, beside its content."""

    title: str | None
    external_id: str | None
    subjects: Sequence[str]
    metadata: Mapping[str, Any]
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    occurred_at: datetime | str | None


class MessageFields(TypedDict):
    """One message of a chat."""

    role: str
    content: str
    id: NotRequired[str]
    name: NotRequired[str]
    at: NotRequired[datetime | str]


class DocumentFields(AttributeFields):
    """One document of a batch."""

    text: str


TimeRangeFields = TypedDict("TimeRangeFields", {"from": datetime | str, "to": datetime | str}, total=False)
"""A range of times, either end of which may be left out."""


class StreamRangeFields(TypedDict, total=False):
    """A stretch of a stream's or a recording's own time, either end of which may be left out."""

    start_ms: int
    end_ms: int


class ScopeFields(TypedDict, total=False):
    """What to forget; every condition given must hold."""

    ids: Sequence[str]
    external_ids: Sequence[str]
    subjects: Sequence[str]
    filter: Mapping[str, Any]
    time_range: TimeRangeFields
    stream_range: StreamRangeFields
    speakers: Sequence[str]
    user_id: str


def json_body(value: object) -> dict[str, Any]:
    """Return a JSON body for a request; fields of it that are None are left out."""
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if field is not None}
    return {"content": orjson.dumps(plain(value)), "headers": {"content-type": "application/json"}}


def plain(value: object) -> object:
    """Return a value as JSON knows it, times as text."""
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        raise InvalidInputError("a time needs its time zone", where=value.isoformat())
    return rfc3339(value)


def text_of(value: object) -> str:
    """Return a value as a parameter of a URL or a form; ``InvalidInputError`` for a time without a zone."""
    return _moment(value) if isinstance(value, datetime) else str(value)


def document_body(
    content: str | Path | Upload, media_type: str | None, attributes: AttributeFields
) -> dict[str, Any]:
    """Return the request of a document: JSON for a text, a form for a file."""
    if isinstance(content, str):
        return json_body({"text": content, **attributes})
    fields = {
        name: text_of(value) if isinstance(value, str | datetime) else orjson.dumps(plain(value)).decode()
        for name, value in attributes.items()
        if value is not None
    }
    media = media_type or "application/octet-stream"
    body = content.body if isinstance(content, Upload) else content.read_bytes()
    return {"files": {"file": (content.name, body, media)}, "data": fields}
