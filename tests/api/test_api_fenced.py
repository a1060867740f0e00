"""G0 at the door: after a forget is acknowledged, nothing that it covers leaves."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from doors import client_of
from fake_lethe import FakeLethe

import api.fenced
from api.app import create_app
from api.client import LetheClient
from api.server import server_of
from memory.errors import BusyError, LeftError, UnavailableError
from reader.places import Places
from service.views import Scope

T1 = "t1"
KEY = (b"authorization", b"Bearer admin-key")


def remember(lethe: FakeLethe, *texts: str) -> None:
    reply = client_of(lethe).post("/v1/documents/batch", json=[{"text": text} for text in texts])
    assert reply.status_code == 202


def forget(lethe: FakeLethe, *ids: str) -> None:
    lethe.forget(T1, Scope(ids=ids), preview=False)


async def call(app, path: str, body: object, send, gone: asyncio.Event | None = None, **scope) -> None:
    """Call the app as a server would, with a ``send`` of our own."""
    requests = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if requests:
            return requests.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    headers = [KEY, (b"content-type", b"application/json")]
    await app(
        {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            **scope,
        },
        receive,
        send,
    )


@pytest.mark.parametrize("path", ["/v1/recall", "/v1/answer"])
def test_what_is_denied_between_search_and_reply_does_not_leave(lethe, path):
    remember(lethe, "tide secret", "tide public")
    search = lethe.recall

    def search_then_forget(*args, **kwargs):
        found = search(*args, **kwargs)
        forget(lethe, "s1")
        return found

    lethe.recall = search_then_forget

    reply = client_of(lethe).post(path, json={"query": "tide"})

    assert reply.status_code == 200
    assert "public" in reply.text
    assert "secret" not in reply.text


@pytest.mark.parametrize("path", ["/v1/recall", "/v1/answer"])
def test_a_forget_waits_for_a_reply_that_is_being_handed_over(lethe, path):
    """The acknowledgement comes after the last byte, never between check and send."""
    remember(lethe, "tide secret")
    events: list[str] = []

    async def scenario():
        sending, go = asyncio.Event(), asyncio.Event()

        async def send(message):
            sending.set()
            await go.wait()
            events.append(message["type"])

        reply = asyncio.create_task(call(create_app(lethe), path, {"query": "tide"}, send))
        await sending.wait()
        forgetting = asyncio.create_task(asyncio.to_thread(forget, lethe, "s1"))
        forgetting.add_done_callback(lambda _: events.append("acknowledged"))
        await asyncio.sleep(0.1)
        assert not forgetting.done()
        go.set()
        await reply
        await forgetting

    asyncio.run(scenario())

    assert events == ["http.response.start", "http.response.body", "http.response.body", "acknowledged"]
    assert lethe.holds == 0


@pytest.mark.parametrize("body", [{"query": "tide"}, {"query": "tide", "stream": True}])
def test_a_client_that_does_not_take_its_bytes_is_cut_off(lethe, monkeypatch, body):
    monkeypatch.setattr(api.fenced, "DRAIN_SECONDS", 0.1)
    remember(lethe, "tide secret")
    aborted = []

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    abort = {api.fenced.ABORT: lambda: aborted.append(1)}
    asyncio.run(asyncio.wait_for(call(create_app(lethe), "/v1/answer", body, send, **abort), 5))

    assert aborted == [1]
    assert lethe.holds == 0
    forget(lethe, "s1")


@pytest.mark.parametrize("body", [{"query": "tide"}, {"query": "tide", "stream": True}])
@pytest.mark.parametrize("message_type", ["http.response.start", "http.response.body"])
def test_a_cancelled_or_broken_reply_gives_its_hold_back(lethe, monkeypatch, body, message_type):
    monkeypatch.setattr(api.fenced, "DRAIN_SECONDS", 0.3)
    remember(lethe, "tide secret")

    async def cancel():
        sending = asyncio.Event()

        async def send(message):
            if message["type"] == message_type:
                sending.set()
                await asyncio.Event().wait()

        reply = asyncio.create_task(call(create_app(lethe), "/v1/answer", body, send))
        await sending.wait()
        reply.cancel()
        await asyncio.gather(reply, return_exceptions=True)

    async def broken():
        async def send(message):
            if message["type"] == message_type:
                raise OSError("the connection is gone")

        await asyncio.gather(call(create_app(lethe), "/v1/answer", body, send), return_exceptions=True)

    for scenario in (cancel, broken):
        asyncio.run(asyncio.wait_for(scenario(), 5))
        deadline = time.monotonic() + 5
        while lethe.holds and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lethe.holds == 0
    forget(lethe, "s1")


def test_over_tcp_nothing_leaves_after_the_acknowledgement(lethe, port, monkeypatch):
    """A client that stops reading a large reply can hold up a forget only so long, and gets no more of it."""
    monkeypatch.setattr(api.fenced, "DRAIN_SECONDS", 0.5)
    text = "tide " + "s" * 7_000_000
    remember(lethe, *(f"{text}{number}" for number in range(4)))
    body = json.dumps({"query": "tide"}).encode()
    head = (
        f"POST /v1/recall HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-key\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head.encode() + body)
        first = slow.recv(1000)
        assert b"200 OK" in first
        deadline = time.monotonic() + 5
        while not lethe.holds:
            assert time.monotonic() < deadline
        started = time.monotonic()
        forget(lethe, "s1", "s2", "s3", "s4")
        waited = time.monotonic() - started
        received = len(first)
        slow.settimeout(5)
        try:
            while chunk := slow.recv(1 << 20):
                received += len(chunk)
        except ConnectionResetError:
            pass
    assert 0.1 < waited < 3
    assert received < 20_000_000
    assert lethe.holds == 0


def test_a_stream_drops_sentences_denied_on_the_way(lethe):
    remember(lethe, "tide one", "tide two", "tide three")
    stream = lethe.iter_answer

    def forget_before_the_second(*args, **kwargs):
        for number, answered in enumerate(stream(*args, **kwargs)):
            if number == 1:
                forget(lethe, "s2")
            yield answered

    lethe.iter_answer = forget_before_the_second

    reply = client_of(lethe).post("/v1/answer", json={"query": "tide", "stream": True})

    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    assert [lines[0] for lines in events] == ["event: claim", "event: claim", "event: done"]
    assert all(len(lines) == 2 and lines[1].startswith("data: ") for lines in events)
    claims = [json.loads(lines[1][6:]) for lines in events]
    assert [claim["text"] for claim in claims[:2]] == ["tide one", "tide three"]
    assert claims[2]["answer"] == "tide one tide three"
    assert claims[0]["citations"][0]["quote"] == "tide one"
    assert "two" not in reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"


def test_the_last_event_is_the_body_of_the_plain_reply(http, lethe):
    remember(lethe, "tide one", "tide two")

    streamed = http.post("/v1/answer", json={"query": "tide", "stream": True}).text
    plain = http.post("/v1/answer", json={"query": "tide"}).json()
    unknown = http.post("/v1/answer", json={"query": "nothing", "stream": True}).text

    assert json.loads(streamed.strip().split("\n\n")[-1].split("data: ")[1]) == plain
    assert unknown.startswith("event: done\n")
    assert json.loads(unknown.split("data: ")[1])["abstained"] is True


def test_a_stream_that_fails_midway_says_so_and_ends(http, lethe):
    remember(lethe, "tide one")
    stream = lethe.iter_answer

    def failing(*args, **kwargs):
        yield next(stream(*args, **kwargs))
        raise UnavailableError("the reader died")

    lethe.iter_answer = failing

    events = http.post("/v1/answer", json={"query": "tide", "stream": True}).text.strip().split("\n\n")

    assert [event.split("\n")[0] for event in events] == ["event: claim", "event: error"]
    assert json.loads(events[1].split("data: ")[1])["status"] == 503


def test_a_stream_with_a_fault_breaks_off_and_never_looks_whole(lethe, port, capfd):
    remember(lethe, "tide one")
    stream = lethe.iter_answer

    def failing(*args, **kwargs):
        yield next(stream(*args, **kwargs))
        raise RuntimeError("tide secret")

    lethe.iter_answer = failing

    with LetheClient(f"http://127.0.0.1:{port}", "admin-key") as client:
        steps = client.iter_answer("tide")
        assert next(steps)[0] == "claim"
        with pytest.raises(UnavailableError):
            next(steps)
    captured = capfd.readouterr()
    assert "RuntimeError" in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err
    assert "secret" not in captured.out + captured.err
    assert lethe.holds == 0


def test_a_client_that_leaves_stops_the_stream(lethe):
    remember(lethe, *(f"tide {number}" for number in range(100)))
    made, closed = [], threading.Event()
    stream = lethe.iter_answer

    def counting(*args, **kwargs):
        try:
            for answered in stream(*args, **kwargs):
                made.append(1)
                time.sleep(0.01)
                yield answered
        finally:
            closed.set()

    lethe.iter_answer = counting

    async def scenario():
        gone = asyncio.Event()

        async def send(message):
            if len(made) >= 3:
                gone.set()

        await call(
            create_app(lethe), "/v1/answer", {"query": "tide", "stream": True, "limit": 64}, send, gone
        )

    asyncio.run(asyncio.wait_for(scenario(), 5))

    assert closed.is_set()
    assert len(made) < 20
    assert lethe.holds == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_place_in_the_queue_up(lethe, stream):
    """Nobody writes for it, and those behind it move up."""
    remember(lethe, "tide secret")
    places = Places(1, waiting=4)
    waiting, left = threading.Event(), threading.Event()
    answer = lethe.iter_answer

    def queueing(*args, **kwargs):
        waiting.set()
        try:
            with places.take():
                yield from answer(*args, **kwargs)
        except LeftError:
            left.set()
            raise

    lethe.iter_answer = queueing
    lethe.answer = lambda *args, **kwargs: list(queueing(*args, **kwargs))[-1]
    statuses = []

    async def scenario():
        gone = asyncio.Event()

        async def send(message):
            statuses.append(message.get("status"))

        asked = {"query": "tide", "stream": stream}
        request = asyncio.create_task(call(create_app(lethe), "/v1/answer", asked, send, gone))
        assert await asyncio.to_thread(waiting.wait, 10)
        gone.set()
        await request

    with places.take():
        asyncio.run(asyncio.wait_for(scenario(), 20))
        assert left.is_set()
    assert statuses[0] == 499
    assert not places._queue


@pytest.mark.parametrize("stream", [True, False])
def test_too_many_answers_are_told_to_come_again(http, lethe, stream):
    lethe.error = BusyError("8 answers are being written", retry_in_seconds=2.5)
    reply = http.post("/v1/answer", json={"query": "tide", "stream": stream})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    assert reply.json()["type"] == "urn:lethe:problem:busy"


def test_listings_and_counts_are_read_under_the_fence(lethe):
    remember(lethe, "tide")
    http = client_of(lethe)
    held = []
    for name in ("get_source", "list_sources", "stats"):
        use_case = getattr(lethe, name)

        def checking(*args, use_case=use_case, **kwargs):
            held.append(lethe.holds)
            return use_case(*args, **kwargs)

        setattr(lethe, name, checking)

    for path in ("/v1/documents", "/v1/documents/s1", "/v1/memories", "/v1/stats"):
        assert http.get(path).status_code == 200
    assert held == [1, 1, 1, 1]


def test_idle_connections_are_kept_longer_than_clients_and_proxies_keep_them() -> None:
    """The side that asks has to be the one that closes: what is sent meanwhile is lost."""
    server = server_of(create_app(FakeLethe()), host="127.0.0.1", port=0)
    assert server.config.timeout_keep_alive > 60  # of httpx 5 s, of nginx and cloud balancers 60 s
