"""The shapes of the JSON that streams are told in, and the use cases' values put into them."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from api.replies import JobStub, rfc3339
from service.views import JobView, Moment, Page, Received, StreamView


class StreamReply(TypedDict):
    """A stream and how far it has come. ``next_number`` is expected next; ``ahead`` came before their turn.

    ``segments`` are held, ``waiting`` of them not searchable yet; ``end_ms`` is where the last searchable one
    ends.
    """

    id: str
    kind: str
    external_id: str | None
    title: str | None
    subjects: list[str]
    metadata: dict[str, Any]
    occurred_at: str | None
    created_at: str
    closed_at: str | None
    next_number: int
    ahead: list[int]
    segments: int
    waiting: int
    end_ms: int


class StreamPage(TypedDict):
    """One page of streams."""

    items: list[StreamReply]
    next_cursor: str | None


class SegmentReply(TypedDict):
    """An acknowledged segment. ``unchanged``: it was received before; then without a job where it is gone."""

    stream_id: str
    number: int
    next_number: int
    id: str | None
    job: JobStub | None
    unchanged: bool


class MomentReply(TypedDict):
    """What is said or shown in a stretch of a stream's time."""

    passage_id: str
    source_id: str
    number: int
    start_ms: int
    end_ms: int
    text: str
    heading: str | None
    occurred_at: str | None


def stream_reply(stream: StreamView) -> StreamReply:
    """Return a stream."""
    said = stream.attributes
    return StreamReply(
        id=stream.id,
        kind=stream.kind,
        external_id=said.external_id,
        title=said.title,
        subjects=list(said.subjects),
        metadata=dict(said.metadata),
        occurred_at=None if said.occurred_at is None else rfc3339(said.occurred_at),
        created_at=rfc3339(stream.created_at),
        closed_at=None if stream.closed_at is None else rfc3339(stream.closed_at),
        next_number=stream.next_number,
        ahead=list(stream.ahead),
        segments=stream.segments,
        waiting=stream.waiting,
        end_ms=stream.end_ms,
    )


def stream_page(page: Page[StreamView]) -> StreamPage:
    """Return a page of streams."""
    return StreamPage(items=[stream_reply(stream) for stream in page.items], next_cursor=page.next_cursor)


def segment_reply(received: Received, job: JobView | None) -> SegmentReply:
    """Return an acknowledgement with its job as it is now."""
    return SegmentReply(
        stream_id=received.stream_id,
        number=received.number,
        next_number=received.next_number,
        id=received.source_id,
        job=None if job is None else JobStub(id=job.id, status=job.status),
        unchanged=received.unchanged,
    )


def moment_reply(moment: Moment) -> MomentReply:
    """Return a passage of a stream."""
    return MomentReply(
        passage_id=moment.passage_id,
        source_id=moment.source_id,
        number=moment.number,
        start_ms=moment.start_ms,
        end_ms=moment.end_ms,
        text=moment.text,
        heading=moment.heading,
        occurred_at=None if moment.occurred_at is None else rfc3339(moment.occurred_at),
    )
