"""The shapes of the JSON that watches and the events of streams are told in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from api.replies import HitReply, hit_reply, rfc3339
from service.views import Page, RecallHit

if TYPE_CHECKING:
    # Its searchers are heavy, and clients read replies, too.
    from service.matching import Watch


class WatchReply(TypedDict):
    """A query that stands."""

    id: str
    query: str
    name: str | None
    filter: dict[str, Any] | None
    stream_id: str | None
    threshold: float
    subjects: list[str]
    created_at: str


class WatchMatchesReply(WatchReply):
    """A watch with the newest passages that match it, newest first; their ``score`` is the cosine."""

    matches: list[HitReply]


class WatchPage(TypedDict):
    """One page of watches."""

    items: list[WatchReply]
    next_cursor: str | None


class SegmentEvent(TypedDict):
    """``segment``: it is searchable now."""

    number: int
    start_ms: int
    end_ms: int
    source_id: str
    passages: int


class MatchEvent(TypedDict):
    """``match``: a watch matches a passage of a segment; its times are the stream's."""

    watch_id: str
    passage_id: str
    source_id: str
    number: int
    start_ms: int
    end_ms: int
    score: float


class ClosedEvent(TypedDict):
    """``closed``: the stream is, and all that came of it was told."""

    stream_id: str


def watch_reply(watch: Watch) -> WatchReply:
    """Return a watch."""
    return WatchReply(
        id=watch.id,
        query=watch.query,
        name=watch.name,
        filter=None if watch.filter is None else dict(watch.filter),
        stream_id=watch.stream_id,
        threshold=watch.threshold,
        subjects=list(watch.subjects),
        created_at=rfc3339(watch.created_at),
    )


def watch_matches_reply(watch: Watch, matches: Sequence[RecallHit]) -> WatchMatchesReply:
    """Return a watch with its matches."""
    return WatchMatchesReply(**watch_reply(watch), matches=[hit_reply(hit) for hit in matches])


def watch_page(page: Page[Watch]) -> WatchPage:
    """Return one page of watches."""
    return WatchPage(items=[watch_reply(watch) for watch in page.items], next_cursor=page.next_cursor)
