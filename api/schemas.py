"""What the service takes: the shapes of its requests, their limits and examples."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content
from service.views import ALL_ROLES, Role, Scope

MAX_TEXT = 8_000_000
MAX_METADATA_BYTES = 64 * 1024
MAX_BATCH = 10_000
MAX_MESSAGES = 10_000
MAX_SCOPE_ITEMS = 10_000
MAX_LIFETIME_SECONDS = 10 * 366 * 86_400
MAX_OVERLAP_SECONDS = 30 * 86_400

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(value: object) -> object:
    """Return an RFC 3339 time as a datetime in UTC; leave anything but a string to the type check."""
    if not isinstance(value, str):
        return value
    if _RFC3339.fullmatch(value) is None:
        raise ValueError("not an RFC 3339 time such as 2026-03-01T09:30:00Z")
    try:
        return datetime.fromisoformat(value.upper().replace(" ", "T")).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("there is no such time") from error


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is blank")
    return text


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes of JSON")
    return value


def whole(value: object) -> object:
    """Return 5 for 5.0: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[
    datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_not_blank)]
Query = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_not_blank)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_SCOPE_ITEMS)]
Metadata = Annotated[dict[Name, JsonValue], Field(max_length=200), AfterValidator(_small)]
Lifetime = Annotated[int, Field(ge=1, le=MAX_LIFETIME_SECONDS), BeforeValidator(whole)]
Milliseconds = Annotated[int, Field(ge=0, le=10 * 366 * 86_400_000), BeforeValidator(whole)]
TenantName = Annotated[str, Field(max_length=48, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Filter = Annotated[dict[str, JsonValue], AfterValidator(_small)]


class StrictModel(BaseModel):
    """Base of all requests: fields nobody knows are refused, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AttributesRequest(StrictModel):
    """What a user says about a document or memory, beside its content."""

    title: Annotated[str, Field(max_length=1000)] | None = None
    external_id: Name | None = None
    subjects: Annotated[list[Name], Field(max_length=200)] = []
    metadata: Metadata = {}
    user_id: Name | None = None
    agent_id: Name | None = None
    run_id: Name | None = None
    occurred_at: Moment | None = None

    def attributes(self) -> Attributes:
        """Return the attributes as the kernel knows them."""
        return Attributes(
            title=self.title or None,
            external_id=self.external_id,
            subjects=tuple(self.subjects),
            metadata=self.metadata,
            user_id=self.user_id,
            agent_id=self.agent_id,
            run_id=self.run_id,
            occurred_at=self.occurred_at,
        )


class DocumentRequest(AttributesRequest):
    """A document as text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "The harbour office opens at seven. Ms Adeyemi keeps the berth list.",
                    "title": "Harbour notes",
                    "external_id": "notes/harbour.md",
                    "subjects": ["adeyemi"],
                    "metadata": {"team": "harbour"},
                    "occurred_at": "2026-03-01T09:30:00Z",
                }
            ]
        }
    )

    text: Text

    def content(self) -> Content:
        """Return what is to be remembered."""
        return Content("document", "text/plain", self.text.encode(), self.attributes())


class MessageRequest(StrictModel):
    """One message of a chat."""

    role: Name
    content: Annotated[str, Field(max_length=MAX_TEXT)]
    id: Name | None = None
    name: Name | None = None
    at: Moment | None = None


class MemoryRequest(AttributesRequest):
    """A memory: a text, or the messages of a chat."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Bob takes his coffee without sugar.", "user_id": "bob"},
                {
                    "messages": [
                        {"role": "user", "content": "My ferry leaves at nine.", "id": "m1"},
                        {"role": "assistant", "content": "I shall remember nine.", "id": "m2"},
                    ],
                    "user_id": "bob",
                    "run_id": "chat-7",
                },
            ]
        }
    )

    text: Text | None = None
    messages: Annotated[list[MessageRequest], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> MemoryRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either 'text' or 'messages'")
        if self.messages is not None and not any(message.content.strip() for message in self.messages):
            raise ValueError("every message is blank")
        return self

    def content(self) -> Content:
        """Return what is to be remembered."""
        if self.messages is None:
            return Content("memory", "text/plain", (self.text or "").encode(), self.attributes())
        messages = [message.model_dump(mode="json", exclude_none=True) for message in self.messages]
        return Content("memory", MESSAGES_MEDIA_TYPE, orjson.dumps(messages), self.attributes())


class RecallRequest(StrictModel):
    """What to look for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "when does the harbour office open",
                    "limit": 5,
                    "filter": {"$and": [{"subjects": "adeyemi"}, {"metadata.team": {"$ne": "sales"}}]},
                    "as_of": "2026-04-01T00:00:00Z",
                }
            ]
        }
    )

    query: Query
    limit: Annotated[int, Field(ge=1, le=200), BeforeValidator(whole)] = 10
    filter: Filter | None = None
    as_of: Moment | None = None


class AnswerRequest(StrictModel):
    """A question; ``stream`` sends each checked sentence as a server-sent event.

    ``explain`` adds how the answer came about; the model is then asked once more, without evidence.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "When does the harbour office open?", "limit": 8}]}
    )

    query: Query
    limit: Annotated[int, Field(ge=1, le=64), BeforeValidator(whole)] = 8
    filter: Filter | None = None
    as_of: Moment | None = None
    stream: bool = False
    explain: bool = False


class TimeRange(StrictModel):
    """A range of times; either end may be open."""

    start: Annotated[Moment | None, Field(alias="from")] = None
    end: Annotated[Moment | None, Field(alias="to")] = None

    @model_validator(mode="after")
    def _bounded(self) -> TimeRange:
        if self.start is None and self.end is None:
            raise ValueError("give 'from', 'to' or both")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError("'to' is before 'from'")
        return self


class StreamRange(StrictModel):
    """A stretch of streams' own time, in milliseconds, half-open; either end may be open."""

    start_ms: Milliseconds | None = None
    end_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _bounded(self) -> StreamRange:
        if self.start_ms is None and self.end_ms is None:
            raise ValueError("give 'start_ms', 'end_ms' or both")
        if self.start_ms is not None and self.end_ms is not None and self.end_ms <= self.start_ms:
            raise ValueError("'end_ms' is not after 'start_ms'")
        return self


class ScopeRequest(StrictModel):
    """What to forget. Every condition given must hold; a scope without any is refused."""

    ids: Names | None = None
    external_ids: Names | None = None
    subjects: Names | None = None
    filter: Annotated[Filter, Field(min_length=1)] | None = None
    time_range: TimeRange | None = None
    stream_range: StreamRange | None = None
    speakers: Names | None = None
    user_id: Name | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> ScopeRequest:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("an empty scope would forget everything; name what to forget")
        takes_parts = self.stream_range is not None or self.speakers is not None
        if takes_parts and self.ids is None and self.external_ids is None:
            raise ValueError("a range or speakers need what they are of, by 'ids' or 'external_ids'")
        return self

    def scope(self) -> Scope:
        """Return the scope as the use cases know it."""
        return Scope(
            ids=tuple(self.ids or ()),
            external_ids=tuple(self.external_ids or ()),
            subjects=tuple(self.subjects or ()),
            filter=self.filter,
            time_from=self.time_range.start if self.time_range else None,
            time_to=self.time_range.end if self.time_range else None,
            user_id=self.user_id,
            start_ms=self.stream_range.start_ms if self.stream_range else None,
            end_ms=self.stream_range.end_ms if self.stream_range else None,
            speakers=tuple(self.speakers or ()),
        )


class ForgetRequest(StrictModel):
    """What to forget, and whether to do it or only to count it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"scope": {"subjects": ["adeyemi"]}, "mode": "preview"},
                {
                    "scope": {"time_range": {"to": "2025-01-01T00:00:00Z"}, "user_id": "bob"},
                    "mode": "execute",
                },
            ]
        }
    )

    scope: ScopeRequest
    mode: Literal["preview", "execute"]


class KeyRequest(StrictModel):
    """An API key to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "web shop", "roles": ["read", "write"], "expires_in_seconds": 7_776_000}]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_not_blank)]
    roles: Annotated[list[Role], Field(min_length=1, max_length=len(ALL_ROLES))]
    expires_in_seconds: Lifetime | None = None
    tenant: TenantName | None = None


class RotateRequest(StrictModel):
    """How to replace a key: how long the old one goes on working, and how long the new one lasts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_seconds": 3600}]})

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_SECONDS), BeforeValidator(whole)]
    expires_in_seconds: Lifetime | None = None


class TenantRequest(StrictModel):
    """A tenant to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "harbour-office"}]})

    id: TenantName


DOCUMENTS: TypeAdapter[list[DocumentRequest]] = TypeAdapter(
    Annotated[list[DocumentRequest], Field(min_length=1, max_length=MAX_BATCH)]
)
