"""The events of a stream over HTTP: what became searchable, what matches, the end; told while it happens.

Whoever listens holds no thread and no fence while nothing happens: the event loop looks now and then. Each
event is checked and handed over under the fence, so nothing of it leaves once its forgetting is acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import orjson
from fastapi import APIRouter, Header, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.auth import ReadCaller
from api.fenced import deliver
from api.leaving import listening
from api.openapi import PROBLEM
from api.parameters import Id
from api.problems import problem_of
from memory.errors import BusyError, ForbiddenError, LetheError
from memory.values import SourceId, TenantId
from service.stream_events import Look, Mark, StreamEvent

if TYPE_CHECKING:
    from service.lethe import Lethe

router = APIRouter(prefix="/v1/streams", tags=["streams"], responses=PROBLEM)

HEARTBEAT_SECONDS = 15.0
"""So often at least something is sent, and the key looked at again."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5
RETRY_MS = 1000
BUSY_SECONDS = 10.0
"""So long who finds all places taken is asked to stay away."""
BEAT = b":\n\n"

EVENTS: dict[str, Any] = {
    "description": "Events until the stream is closed and all was told",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": (
                    "`segment` {number, start_ms, end_ms, source_id, passages}, `match` {watch_id, "
                    "passage_id, source_id, number, start_ms, end_ms, score}, `closed` {stream_id} or "
                    "`error` (a problem); comments in between. Send the last `id` as `Last-Event-ID` to go "
                    "on behind it."
                ),
                "properties": {
                    "event": {"enum": ["segment", "match", "closed", "error"]},
                    "id": {"type": "string"},
                    "data": {"type": "string"},
                },
            }
        }
    },
}

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=200, description="The id of the last event that was received."),
]


@router.get(
    "/{id}/events",
    responses={200: EVENTS, 204: {"description": "The stream is closed, and all was told before"}},
)
async def follow_stream(
    request: Request, caller: ReadCaller, id: Id, last_event_id: LastEventId = None
) -> Response:
    """Tell what happens in a stream, from its beginning or behind an event, until it is closed."""
    lethe, tenant_id = caller.lethe, caller.tenant_id
    after = Mark.parse(last_event_id) if last_event_id else Mark()

    def look(after: Mark) -> Look:
        return lethe.stream_events.look(tenant_id, SourceId(id), after)

    key = request.headers.get("authorization", "").partition(" ")[2].strip()
    return FollowedStream(lethe, tenant_id, after, look, lambda: _works(lethe, key))


def _works(lethe: Lethe, key: str) -> bool:
    try:
        lethe.authenticate(key)
    except ForbiddenError:
        return False
    return True


class FollowedStream(Response):
    """A reply that goes on until the stream has ended, the client has gone or the service stops.

    What is raised before anything was sent becomes a problem like any other error.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        lethe: Lethe,
        tenant_id: TenantId,
        after: Mark,
        look: Callable[[Mark], Look],
        still_may: Callable[[], bool],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._lethe = lethe
        self._tenant_id = tenant_id
        self._after = after
        self._look = look
        self._still_may = still_may

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a place, begin at once, tell what there is, and look again."""
        state = scope["app"].state
        with _place(state.listeners, self):
            first = await anyio.to_thread.run_sync(self._look, self._after, limiter=state.watching_threads)
            if self._after.is_closed and first.closed and len(first.events) == 1:
                # An EventSource that finds the end asks again, until it is told so.
                await Response(status_code=204)(scope, receive, send)
                return
            await self._tell(first, scope, receive, send)

    async def _tell(self, first: Look, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        if not await deliver(scope, send, [start, *_messages(b"retry: %d\n\n" % RETRY_MS)]):
            return
        async with listening(receive) as gone:
            try:
                open_still = await self._follow(first, scope, send, gone.is_set)
            except LetheError as error:
                sees_forgotten = scope.get("state", {}).get("sees_forgotten", False)
                problem = problem_of(error, instance=scope["path"], sees_forgotten=sees_forgotten)
                open_still = await deliver(scope, send, _messages(_event("error", problem)))
            if open_still and not gone.is_set():
                end: Message = {"type": "http.response.body", "body": b"", "more_body": False}
                await deliver(scope, send, [end])

    async def _follow(self, look: Look, scope: Scope, send: Send, is_gone: Callable[[], bool]) -> bool:
        """Tell events as they come; return whether the connection still takes something."""
        state, events = scope["app"].state, iter(look.events)
        spoke_at = checked_at = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        while not is_gone() and not self._lethe.is_stopping:
            # By a clock of its own: however much there is to tell, a revoked key hears no more of it.
            if time.monotonic() - checked_at >= HEARTBEAT_SECONDS:
                if not await anyio.to_thread.run_sync(self._still_may, limiter=state.watching_threads):
                    return True
                checked_at = time.monotonic()
            event = next(events, None)
            if event is not None:
                if not await anyio.to_thread.run_sync(
                    self._hand_over, event, scope, send, limiter=state.fenced_threads
                ):
                    return False
                spoke_at, pause = time.monotonic(), FIRST_PAUSE_SECONDS
                continue
            if look.closed:
                return True
            if time.monotonic() - spoke_at >= HEARTBEAT_SECONDS:
                if not await deliver(scope, send, _messages(BEAT)):
                    return False
                spoke_at = time.monotonic()
            if not look.more:
                await anyio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            look = await anyio.to_thread.run_sync(self._look, look.after, limiter=state.watching_threads)
            events = iter(look.events)
        return True

    def _hand_over(self, event: StreamEvent, scope: Scope, send: Send) -> bool:
        """Check and send an event under the fence; False when the client does not take it."""
        with self._lethe.reading(self._tenant_id):
            if not self._lethe.stream_events.is_free(self._tenant_id, event):
                return True
            body = _event(event.kind, event.data, event.mark.id)
            return anyio.from_thread.run(deliver, scope, send, _messages(body))


@contextmanager
def _place(places: anyio.CapacityLimiter, listener: object) -> Iterator[None]:
    """Hold one of so many places to listen; ``BusyError`` when all are taken."""
    try:
        places.acquire_on_behalf_of_nowait(listener)
    except anyio.WouldBlock:
        raise BusyError(
            f"{places.borrowed_tokens} listen to streams here already", retry_in_seconds=BUSY_SECONDS
        ) from None
    try:
        yield
    finally:
        places.release_on_behalf_of(listener)


def _messages(body: bytes) -> Iterable[Message]:
    """Return the messages of a piece of the body; the empty one says that it is out of our hands."""
    yield {"type": "http.response.body", "body": body, "more_body": True}
    yield {"type": "http.response.body", "body": b"", "more_body": True}


def _event(kind: str, data: object, id: str | None = None) -> bytes:
    named = b"" if id is None else b"id: %s\n" % id.encode()
    return b"%sevent: %s\ndata: %s\n\n" % (named, kind.encode(), orjson.dumps(data))
