"""Waiting for work on behalf of a caller: the preference ``wait=N`` (RFC 7240) and patient polling.

A waiting request holds no thread: it looks, sleeps on the event loop, and looks again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

MAX_WAIT_SECONDS = 300
FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.05

PREFER = {
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`wait=N`: reply when the work is done, or after N seconds (RFC 7240).",
            "schema": {"type": "string"},
            "example": "wait=60",
        }
    ]
}
"""The header as OpenAPI describes it."""

_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', re.IGNORECASE | re.ASCII | re.DOTALL)

State = TypeVar("State")


def wait_seconds(request: Request) -> int | None:
    """Return how long the caller prefers to wait, at most ``MAX_WAIT_SECONDS``; None where it did not say."""
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            match = _WAIT.fullmatch(preference)
            if match is not None:
                return min(int(match[1]), MAX_WAIT_SECONDS)
    return None


def applied(seconds: int | None) -> dict[str, str]:
    """Return the header that says which preference was followed."""
    return {} if seconds is None else {"preference-applied": f"wait={seconds}"}


async def poll(
    request: Request, look: Callable[[], State], is_done: Callable[[State], bool], *, timeout_seconds: float
) -> State:
    """Return the state once it is done, else the latest one when time is up or the client has gone."""
    deadline = time.monotonic() + timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        state = await anyio.to_thread.run_sync(look, limiter=request.app.state.polling_threads)
        left = deadline - time.monotonic()
        if is_done(state) or left <= 0 or await request.is_disconnected():
            return state
        await anyio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
