"""A server that breaks off, is slow, or refuses: errors in our words, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from memory.errors import ForbiddenError, InvalidInputError, UnavailableError
from service import connection as connections
from tests.engine.serving import free_port
from tests.openai_server import OpenAIServer, chunk, chunks, event, refusal
from tests.reader.over_openai import EVIDENCE, QUESTION, QUICKLY_SECONDS, SECRET, TRUE, read_locally, reading


@pytest.fixture
def server(openai: OpenAIServer) -> OpenAIServer:
    openai.say(TRUE)
    return openai


async def unfinished() -> AsyncIterator[bytes]:
    yield chunk("The harbour bridge ")


async def dropped() -> AsyncIterator[bytes]:
    yield chunk("The harbour bridge ")
    raise ConnectionAbortedError


async def told_an_error() -> AsyncIterator[bytes]:
    yield chunk("The harbour bridge ")
    yield event({"error": {"message": f"no memory for {QUESTION}", "type": "server_error", "code": 500}})


async def told_an_error_as_llama_cpp_does() -> AsyncIterator[bytes]:
    yield b'error: {"code":500,"message":"no memory"}\n\n'


async def no_stream() -> AsyncIterator[bytes]:
    yield b'{"id":"c","object":"chat.completion","choices":[{"message":{"content":"1932"}}]}'


async def a_page() -> AsyncIterator[bytes]:
    yield b"<html>welcome</html>\n"


async def half_a_chunk() -> AsyncIterator[bytes]:
    yield chunk("The harbour")[:-20] + b"\n\n"


async def half_a_letter() -> AsyncIterator[bytes]:
    yield b'data: {"choices":[{"delta":{"content":"\xe6\x9d"}}]}\n\n'


async def endless_line() -> AsyncIterator[bytes]:
    while True:
        yield b"data: " + b" " * 65_536


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (unfinished, "broke off"),
        (dropped, "broke"),
        (told_an_error, "failed while writing"),
        (told_an_error_as_llama_cpp_does, "failed while writing"),
        (no_stream, "does not stream"),
        (a_page, "does not stream"),
        (half_a_chunk, "does not stream"),
        (half_a_letter, "does not stream"),
        (endless_line, "a line that does not end"),
    ],
)
def test_a_broken_stream_is_unavailable(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, lines, words: str
) -> None:
    monkeypatch.setattr(connections, "MOST_LINE_BYTES", 1 << 20)
    server.lines = lines
    with reading(server) as reader, pytest.raises(UnavailableError, match=words) as raised:
        reader.read(QUESTION, EVIDENCE)
    assert "harbour" not in str(raised.value)
    assert server.ended.wait(QUICKLY_SECONDS)


async def silent() -> AsyncIterator[bytes]:
    yield chunk("The harbour bridge ")
    await asyncio.sleep(30)


async def trickling() -> AsyncIterator[bytes]:
    while True:
        yield b": keep-alive\n\n"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("lines", "bounds", "words"),
    [
        (silent, {"reply_seconds": 0.3}, "did not reply"),
        (trickling, {"whole_seconds": 0.5}, "did not end"),
    ],
)
def test_a_slow_server_is_not_waited_for_for_ever(server: OpenAIServer, lines, bounds, words: str) -> None:
    server.lines = lines
    began = time.monotonic()
    with (
        reading(server, **bounds) as reader,
        pytest.raises(UnavailableError, match=f"{words}.* in time"),
    ):
        reader.read(QUESTION, EVIDENCE)
    assert time.monotonic() - began < QUICKLY_SECONDS
    assert server.ended.wait(QUICKLY_SECONDS)


def test_every_request_has_a_connection_of_its_own(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that served already may be closed there just now."""
    opened: list[object] = []
    connect = socket.create_connection

    def counting(*arguments: Any, **named: Any) -> socket.socket:
        opened.append(arguments)
        return connect(*arguments, **named)

    monkeypatch.setattr(socket, "create_connection", counting)
    with reading(server) as reader:
        for _ in range(3):
            assert not reader.read(QUESTION, EVIDENCE).abstained
    assert len(opened) == 3


def test_a_server_that_is_slow_but_comes_is_waited_for(server: OpenAIServer) -> None:
    async def slow() -> AsyncIterator[bytes]:
        async for line in chunks(TRUE, size=20):
            await asyncio.sleep(0.1)
            yield line

    server.lines = slow
    with reading(server, reply_seconds=2.0) as reader:
        got = reader.read(QUESTION, EVIDENCE)
    assert got.claims == read_locally(TRUE).claims
    assert got.timings_ms["prefill"] >= 100


def test_nobody_listens() -> None:
    server = OpenAIServer()
    server.url = f"http://127.0.0.1:{free_port()}"
    with reading(server) as reader, pytest.raises(UnavailableError, match="mend LETHE_READER_URL"):
        reader.read(QUESTION, EVIDENCE)


@pytest.mark.parametrize(
    ("status", "code", "family", "words"),
    [
        (401, "invalid_api_key", ForbiddenError, r"\(401 invalid_api_key\); set LETHE_READER_KEY"),
        (403, "", ForbiddenError, r"\(403 error\); set LETHE_READER_KEY"),
        (404, "model_not_found", InvalidInputError, r"LETHE_READER_MODEL: .*\(404 model_not_found\)"),
        (400, "exceed_context_size_error", InvalidInputError, "exceed_context_size_error"),
        (307, "moved", InvalidInputError, "refused"),
        (
            429,
            "rate_limit_exceeded",
            UnavailableError,
            "cannot serve now: it replied 429 rate_limit_exceeded",
        ),
        (500, "an unspeakable thing", UnavailableError, "it replied 500 error"),
        (503, "loading", UnavailableError, "cannot serve now"),
    ],
)
def test_refusals_are_our_families(server: OpenAIServer, status: int, code: str, family, words: str) -> None:
    """Once the server has served, none of them is the fault of who asks; its own words are never repeated."""
    server.refusal = refusal(status, code, f"{SECRET}: {EVIDENCE[0].text}")
    with reading(server, SECRET) as reader:
        with pytest.raises(family, match=words) as first:
            reader.read(QUESTION, EVIDENCE)
        server.refusal = None
        assert not reader.read(QUESTION, EVIDENCE).abstained
        server.refusal = refusal(status, code, f"{SECRET}: {EVIDENCE[0].text}")
        with pytest.raises(UnavailableError) as second:
            reader.read(QUESTION, EVIDENCE)
    for raised in (first, second):
        assert SECRET not in str(raised.value)
        assert "harbour" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        PlainTextResponse("no", 400),
        JSONResponse({"object": "error", "type": "BadRequestError", "message": QUESTION}, 400),
    ],
)
def test_refusals_of_other_shapes_are_told_by_status(server: OpenAIServer, body) -> None:
    server.refusal = body
    with reading(server) as reader, pytest.raises(InvalidInputError, match=r"\(400 Bad ?Request") as raised:
        reader.read(QUESTION, EVIDENCE)
    assert QUESTION not in str(raised.value)
