"""Serving over TCP with uvicorn, so that a handed-over response is really out of our hands.

Uvicorn by itself keeps up to 64 KiB of a response in memory and calls it sent. Here nothing may be left in
memory when a send returns, and a client that was cut off gets nothing more.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

import orjson
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.fenced import ABORT
from api.problems import PROBLEM_MEDIA_TYPE, problem_body

STOP_SECONDS = 10


class FencedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose writes are done only when the operating system has them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the transport pause the writer as soon as it has to buffer anything."""
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP at all as a problem, too."""
        body = orjson.dumps(
            problem_body(400, "malformed-request", "The request is not HTTP", msg, instance="/")
        )
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            f"content-type: {PROBLEM_MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {uuid4().hex}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Give each request the means to drop its connection."""
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]


def server_of(app: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """Return a server for the app; it logs requests through ``api.logs`` alone."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=FencedProtocol,
            ws="none",
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
