"""A server over TCP that speaks as OpenAI's do, and says what it was told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PATIENCE_SECONDS = 30.0

Lines = Callable[[], AsyncIterator[bytes]]


class OpenAIServer:
    """What it replies may be changed at any time; it keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._write, methods=["POST"]),
            ]
        )
        self.reset()

    def reset(self) -> None:
        """Be as new: one model without a key, which says nothing."""
        self.models: Sequence[dict[str, Any]] = ({"id": "large"},)
        self.key: str | None = None
        self.refusal: Response | None = None
        """Of requests to write; models are listed in any case."""
        self.lines: Lines = lambda: chunks("")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.ended = threading.Event()
        """Set when a stream is over, because it was told or the client has gone."""

    def say(self, text: str) -> None:
        """Write this from now on."""
        self.lines = lambda: chunks(text)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(self.models)})

    async def _write(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        self.asked.append(await request.json())
        if self.refusal is not None:
            return self.refusal
        if self.key is not None and self.keys[-1] != f"Bearer {self.key}":
            return refusal(401, "invalid_api_key")
        self.ended.clear()
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            async for line in self.lines():
                yield line
                await asyncio.sleep(0)  # else a stream without end would leave no time to see the client go
        finally:
            self.ended.set()

    @property
    def prompts(self) -> list[str]:
        """The texts of the requests, probes left out."""
        texts = ["\n".join(one["content"] for one in body["messages"]) for body in self.asked]
        return [text for text in texts if "one word: ready" not in text]


def refusal(status: int, code: str, message: str = "no") -> Response:
    return JSONResponse({"error": {"message": message, "type": "error", "code": code}}, status)


def chunk(content: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None, **more}
    body = {"id": "c", "object": "chat.completion.chunk", "model": "large", "choices": [choice]}
    return event({**body, "usage": None})


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    told = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"choices": [], "usage": told})


async def chunks(text: str, *, size: int = 5, end: str = "stop", counts: bool = True) -> AsyncIterator[bytes]:
    """Yield a whole stream, the text in pieces of ``size`` characters."""
    yield chunk(None, delta={"role": "assistant", "content": ""})
    for start in range(0, len(text), size):
        yield chunk(text[start : start + size])
    yield chunk(delta={}, finish_reason=end)
    if counts:
        yield usage(100, -(-len(text) // size))
    yield b"data: [DONE]\n\n"


@contextmanager
def serving_openai(server: OpenAIServer, port: int = 0) -> Iterator[OpenAIServer]:
    """Serve in a thread; yield the server with its ``url``."""
    config = uvicorn.Config(server.app, port=port, log_level="error", ws="none", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not running.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        server.url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        yield server
    finally:
        running.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server did not stop"
