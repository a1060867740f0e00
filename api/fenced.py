"""Responses that carry content: checked and handed over while the fence is held shared.

Between the last check of what a response may show and the moment its bytes are with the operating
system, no forget can be acknowledged; so what was forgotten cannot leave afterwards. One worker thread
holds the fence for the whole of it, in a ``with`` block: whatever becomes of the request, it lets go.
A client that does not take its bytes in time is cut off, so that it cannot hold up a forget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.leaving import listening
from api.problems import problem_of
from api.replies import answer_reply, claim_reply
from memory.errors import LetheError
from memory.values import TenantId
from service.views import Answered

if TYPE_CHECKING:
    from service.lethe import Lethe

DRAIN_SECONDS = 5.0
"""How long a client may take for one response, or for one event of a stream."""

CHUNK_BYTES = 1 << 16
PIECE_BYTES = 1 << 18
"""Of a file, sent within ``DRAIN_SECONDS``."""
ABORT = "lethe.abort"
"""Key in the ASGI scope of a function that drops the connection with all it has buffered."""


class FencedResponse(Response):
    """A JSON body made and sent while the fence is held.

    ``produce`` runs under the fence, in a worker thread, and returns the body; what it raises before
    anything was sent becomes a problem like any other error.
    """

    media_type = "application/json"

    def __init__(
        self,
        lethe: Lethe,
        tenant_id: TenantId,
        produce: Callable[[], object],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", **(headers or {})})
        self._lethe = lethe
        self._tenant_id = tenant_id
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold, check, render, send, release."""
        await anyio.to_thread.run_sync(
            self._hand_over, scope, send, limiter=scope["app"].state.fenced_threads
        )

    def _hand_over(self, scope: Scope, send: Send) -> None:
        with self._lethe.reading(self._tenant_id):
            body = orjson.dumps(self._produce())
            self.headers["content-length"] = str(len(body))
            anyio.from_thread.run(deliver, scope, send, _messages(self.status_code, self.raw_headers, body))


class FencedFile(Response):
    """Bytes sent in pieces, each checked and sent on its own under the fence.

    ``check`` raises when they may not leave: before the first piece that becomes a problem like any other
    error, later the connection is dropped. A large file to a slow client holds up no forget longer than a
    piece does.
    """

    def __init__(
        self,
        lethe: Lethe,
        tenant_id: TenantId,
        body: bytes,
        check: Callable[[], None],
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", **headers}, media_type=media_type)
        self.headers["content-length"] = str(len(body))
        self._lethe = lethe
        self._tenant_id = tenant_id
        self._body = body
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all is sent or nothing more may be."""
        await anyio.to_thread.run_sync(self._send, scope, send, limiter=scope["app"].state.fenced_threads)

    def _send(self, scope: Scope, send: Send) -> None:
        for start in range(0, max(1, len(self._body)), PIECE_BYTES):
            with self._lethe.reading(self._tenant_id):
                try:
                    self._check()
                except LetheError:
                    if start == 0:
                        raise
                    anyio.from_thread.run(cut_off, scope)
                    return
                if not anyio.from_thread.run(deliver, scope, send, self._piece(start)):
                    return
        anyio.from_thread.run(deliver, scope, send, [_more(b"", last=True)])

    def _piece(self, start: int) -> list[Message]:
        first: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        piece = [_more(self._body[start : start + PIECE_BYTES]), _more(b"")]
        return piece if start else [first, *piece]


class FencedEvents(Response):
    """An answer as server-sent events, each sentence checked and sent on its own under the fence.

    ``answers`` starts a generator of answers of one claim each, then the whole one. Nothing is sent
    before the first event is ready, so that an early error still gets its status; a later one becomes
    an ``error`` event.
    """

    media_type = "text/event-stream"

    def __init__(
        self, lethe: Lethe, tenant_id: TenantId, answers: Callable[[], Generator[Answered, None, None]]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._lethe = lethe
        self._tenant_id = tenant_id
        self._answers = answers
        self._gone = threading.Event()
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the answer is whole or the client has gone."""
        async with listening(receive) as self._gone:
            await anyio.to_thread.run_sync(
                self._stream, scope, send, limiter=scope["app"].state.fenced_threads
            )

    def _stream(self, scope: Scope, send: Send) -> None:
        try:
            with closing(self._answers()) as answers:
                self._send_answers(answers, scope, send)
        except LetheError as error:
            if not self._started:
                raise
            if not self._gone.is_set():
                problem = problem_of(error, instance=scope["path"])
                self._send(scope, send, _event("error", problem))
        if self._started and not self._gone.is_set():
            end: Message = {"type": "http.response.body", "body": b"", "more_body": False}
            anyio.from_thread.run(deliver, scope, send, [end])

    def _send_answers(self, answers: Iterator[Answered], scope: Scope, send: Send) -> None:
        told: set[str] = set()
        last: Answered | None = None
        for last in answers:
            if self._gone.is_set():
                return
            if len(last.claims) == 1 and last.claims[0].supported and last.claims[0].text not in told:
                told.add(last.claims[0].text)
                with self._lethe.reading(self._tenant_id):
                    checked = self._lethe.recheck_answer(self._tenant_id, last)
                    if checked.claims and checked.claims[0].supported:
                        self._send(scope, send, _event("claim", claim_reply(checked, checked.claims[0])))
        if last is not None and not self._gone.is_set():
            with self._lethe.reading(self._tenant_id):
                checked = self._lethe.recheck_answer(self._tenant_id, last)
                self._send(scope, send, _event("done", answer_reply(checked)))

    def _send(self, scope: Scope, send: Send, event: bytes) -> None:
        messages: list[Message] = []
        if not self._started:
            messages.append(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
        self._started = True
        messages.append({"type": "http.response.body", "body": event, "more_body": True})
        messages.append({"type": "http.response.body", "body": b"", "more_body": True})
        if not anyio.from_thread.run(deliver, scope, send, messages):
            self._gone.set()


async def deliver(scope: Scope, send: Send, messages: Iterable[Message]) -> bool:
    """Send all messages within ``DRAIN_SECONDS``; else drop the connection and return False.

    A server waits with each message until the bytes of the one before are out of its hands, so the
    last message of a response or an event is always an empty one.
    """
    with anyio.move_on_after(DRAIN_SECONDS) as limit:
        for message in messages:
            await send(message)
    if not limit.cancelled_caught:
        return True
    await cut_off(scope)
    return False


async def cut_off(scope: Scope) -> None:
    """Drop the connection of a response that has begun and cannot go on; the client sees it broken."""
    abort: Callable[[], None] | None = scope.get(ABORT)
    if abort is not None:
        abort()
        await anyio.sleep(0.001)  # lets the server notice that the connection is lost


def _messages(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Iterator[Message]:
    yield {"type": "http.response.start", "status": status, "headers": headers}
    for start in range(0, len(body), CHUNK_BYTES):
        yield {
            "type": "http.response.body",
            "body": body[start : start + CHUNK_BYTES],
            "more_body": True,
        }
    yield {"type": "http.response.body", "body": b"", "more_body": False}


def _more(body: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
