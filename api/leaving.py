"""Whether a client is still there while its request is worked on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from memory.asking import while_there


@asynccontextmanager
async def listening(receive: Receive) -> AsyncIterator[threading.Event]:
    """Yield an event that is set when the client goes, whose body must have been read.

    Work that waits meanwhile, in threads begun within, is then given up with ``LeftError``.
    """
    gone = threading.Event()

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    listener = asyncio.create_task(listen())
    try:
        with while_there(gone):
            yield gone
    finally:
        gone.set()
        listener.cancel()
