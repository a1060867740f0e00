"""The client's part for watches, reached as ``client.watches``, and for the events of streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import httpx2
import orjson

from api.client_bodies import json_body
from api.client_errors import error_from, error_of
from api.replies import ForgetReply
from api.watch_replies import (
    ClosedEvent,
    MatchEvent,
    SegmentEvent,
    WatchMatchesReply,
    WatchPage,
    WatchReply,
)
from memory.errors import UnavailableError

if TYPE_CHECKING:
    from api.client import LetheClient

SILENCE_SECONDS = 45.0
"""Three heartbeats: who hears nothing for so long is connected to nobody."""
TRIES = 5
PAUSE_SECONDS = 1.0

Told = (
    tuple[str, Literal["segment"], SegmentEvent]
    | tuple[str, Literal["match"], MatchEvent]
    | tuple[str, Literal["closed"], ClosedEvent]
)
"""An event: its id, its kind and what it says."""


class WatchesClient:
    """Queries that stand, and what they match."""

    def __init__(self, send: Callable[..., Any], iter_pages: Callable[..., Iterator[Any]]) -> None:
        self._send = send
        self._iter_pages = iter_pages

    def create(
        self,
        query: str,
        *,
        name: str | None = None,
        filter: Mapping[str, Any] | None = None,
        stream_id: str | None = None,
        threshold: float | None = None,
        subjects: Sequence[str] = (),
    ) -> WatchReply:
        """Have a query stand, for one stream or for all that is remembered from now on."""
        asked = {"query": query, "name": name, "filter": filter, "stream_id": stream_id}
        body = json_body({**asked, "threshold": threshold, "subjects": subjects})
        return cast(WatchReply, self._send("POST", "/v1/watches", **body))

    def iter_all(self, *, page_size: int = 200) -> Iterator[WatchReply]:
        """Yield every watch, newest first, fetching pages as needed."""
        for page in self._iter_pages("/v1/watches", page_size):
            yield from cast(WatchPage, page)["items"]

    def get(self, watch_id: str, *, limit: int = 20) -> WatchMatchesReply:
        """Return a watch with the newest passages that match it."""
        asked = {"limit": str(limit)}
        return cast(
            WatchMatchesReply, self._send("GET", f"/v1/watches/{watch_id}", idempotent=True, params=asked)
        )

    def forget(self, watch_id: str, *, wait: int | None = None) -> ForgetReply:
        """Forget a watch; what it matched stays."""
        return cast(ForgetReply, self._send("DELETE", f"/v1/watches/{watch_id}", wait=wait))


def iter_events(client: LetheClient, stream_id: str, *, after: str | None = None) -> Iterator[Told]:
    """Yield what happens in a stream, from its beginning or behind an event's id, until it is closed.

    A connection that breaks is made anew and gone on with; ``UnavailableError`` when nothing comes of that
    several times on end.
    """
    tries = 0
    while True:
        try:
            for told in _listen(client, stream_id, after):
                yield told
                after, tries = told[0], 0
                if told[1] == "closed":
                    return
            if after is not None and after.endswith(".closed"):
                return
        except UnavailableError:
            if tries >= TRIES:
                raise
        # The service ends a reply when it is about to stop; another process, or the next, goes on.
        tries += 1
        if tries > TRIES:
            raise UnavailableError(f"the events of stream {stream_id} broke off, and did not begin again")
        time.sleep(PAUSE_SECONDS)


def _listen(client: LetheClient, stream_id: str, after: str | None) -> Iterator[Told]:
    path, headers = f"/v1/streams/{stream_id}/events", {} if after is None else {"last-event-id": after}
    with (
        client._reaching(),
        client._http.stream("GET", path, headers=headers, timeout=SILENCE_SECONDS) as response,
    ):
        if response.is_error:
            response.read()
            raise error_of(response)
        if response.status_code == 204:
            return
        for event in httpx2.EventSource(response, max_event_size=None):
            if not event.data:
                continue  # how soon to come again, which is no event
            data = orjson.loads(event.data)
            if event.event == "error":
                raise error_from(data, int(data["status"]))
            yield cast(Told, (event.id, event.event, data))
