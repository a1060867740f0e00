"""Serving over TCP with uvicorn, so that a handed-over response is really out of our hands.

Uvicorn by itself keeps up to 64 KiB of a response in memory and calls it sent. Here nothing may be left in
memory when a send returns, and a client that was cut off gets nothing more. It also reads request heads
without end; here they are bounded.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from uuid import uuid4

import orjson
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.fenced import ABORT
from api.problems import PROBLEM_MEDIA_TYPE, problem_body

STOP_SECONDS = 10
IDLE_SECONDS = 75
"""Longer than clients and proxies (60 s in many) keep a connection, so that the end that asks closes it: else
a request may be sent just when it is closed here, and be lost."""
MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, give or take what arrives at once."""


class FencedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose writes are done only when the operating system has them."""

    _reading_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the transport pause the writer as soon as it has to buffer anything."""
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and refuse a head that grows beyond measure."""
        was_reading_head = self._reading_head
        super().data_received(data)
        if not (was_reading_head and self._reading_head):
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            detail = f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes"
            self._refuse(431, "head-too-large", "The head of the request is too large", detail)

    def on_headers_complete(self) -> None:
        """Note that what follows is the body."""
        self._reading_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP at all as a problem, too."""
        self._refuse(400, "malformed-request", "The request is not HTTP", msg)

    def _refuse(self, status: int, slug: str, title: str, detail: str) -> None:
        body = orjson.dumps(problem_body(status, slug, title, detail, instance="/"))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: {PROBLEM_MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {uuid4().hex}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Give each request the means to drop its connection."""
        super().on_message_begin()
        self._reading_head = True
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, which goes on for a while after the first signal and ends hard at the second.

    Meanwhile ``/readyz`` says 503, so that a load balancer sends its requests elsewhere before the
    socket is closed.
    """

    def __init__(self, config: uvicorn.Config, *, drain: Callable[[], None], drain_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._exit_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; asked once more, end at once. What was acknowledged is on the disk."""
        if self._exit_at is not None:
            os._exit(128 + sig)
        self._drain()
        self._exit_at = time.monotonic() + self._drain_seconds
        self._captured_signals.append(sig)
        if not self._drain_seconds:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """End the loop when the time for draining is over."""
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)


def server_of(
    app: FastAPI, *, host: str, port: int, trusted_proxies: str = "", drain_seconds: float = 0
) -> uvicorn.Server:
    """Return a server for the app; it logs requests through ``api.logs`` alone.

    ``trusted_proxies``: addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed,
    separated by commas; by default nobody's are.
    """
    return DrainingServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=FencedProtocol,
            ws="none",
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=trusted_proxies,
            log_level="warning",
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        drain=app.state.drain,
        drain_seconds=drain_seconds,
    )
