"""Pictures and clips of remembered videos at the HTTP door, and what a forget does to one on its way."""

from __future__ import annotations

import asyncio
import io
import threading

import anyio.to_thread
import av
import pytest
from doors import check_problem, client_of
from real import OTHER, real_service, tiny_encoder

import api.fenced
from api.app import create_app
from api.client import LetheClient
from memory.errors import InvalidInputError
from service.views import Scope
from tests.service.harness import TENANT
from tests.sources.moving import CUES, make_film, make_media, read_number

KEY = (b"authorization", b"Bearer admin-key")
GOP = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=2"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    with real_service(tmp_path_factory.mktemp("house") / "data", encoder) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(service):
    return service.client(service.key("read", "write"))


def post(client, body: bytes, name: str = "ferry.mp4") -> str:
    reply = client.post("/v1/documents", files={"file": (name, body)}, headers={"prefer": "wait=5"})
    assert reply.status_code == 201
    return reply.json()["id"]


def get_frame(client, id: str, at_ms: int):
    return client.get(f"/v1/sources/{id}/frame", params={"at_ms": at_ms})


def get_clip(client, id: str, start_ms: int, end_ms: int):
    return client.get(f"/v1/sources/{id}/clip", params={"start_ms": start_ms, "end_ms": end_ms})


def number_of(jpeg: bytes) -> int:
    with av.open(io.BytesIO(jpeg)) as container:
        (frame,) = container.decode(video=0)
        return read_number(frame.to_ndarray(format="rgb24"))


def numbers_of(film: bytes) -> list[int]:
    with av.open(io.BytesIO(film)) as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def film(client) -> str:
    return post(client, make_film("mp4", options=GOP, captions=("mov_text", CUES)))


def test_a_frame_is_what_the_video_shows_then(client, film):
    reply = get_frame(client, film, 1500)

    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
    assert number_of(reply.content) == 37
    assert (reply.headers["lethe-start-ms"], reply.headers["lethe-end-ms"]) == ("1480", "1480")
    assert reply.headers["content-disposition"] == 'inline; filename="frame-1480.jpg"'
    assert reply.headers["cache-control"] == "no-store"


def test_a_clip_begins_at_a_key_frame_and_says_so(client, film):
    reply = get_clip(client, film, 1000, 1600)

    assert (reply.status_code, reply.headers["content-type"]) == (200, "video/mp4")
    assert numbers_of(reply.content)[:16] == list(range(24, 40))
    assert reply.headers["lethe-start-ms"] == "960"
    assert 1600 <= int(reply.headers["lethe-end-ms"]) <= 1700


def test_the_client_gets_both(client, film, service):
    opened = LetheClient(key=service.key("read"))
    opened._http = client
    frame, clip = opened.get_frame(film, 0), opened.get_clip(film, 0, 400)
    assert (number_of(frame.body), frame.media_type, frame.start_ms) == (0, "image/jpeg", 0)
    assert numbers_of(clip.body)[:10] == list(range(10))
    assert (clip.media_type, clip.start_ms) == ("video/mp4", 0)
    with pytest.raises(InvalidInputError, match="at_ms: it is over at"):
        opened.get_frame(film, 60_000)


def test_the_newest_version_is_shown(client):
    id = post(client, make_film("mkv", pictures=5, captions=("subrip", CUES)), "a.mkv")
    newer = make_media("mkv", seconds=5.0, subtitles=[("subrip", "eng", CUES)])
    assert get_frame(client, id, 0).status_code == 200
    assert client.put(f"/v1/documents/{id}", files={"file": ("a.mkv", newer)}).status_code in (201, 202)
    check_problem(get_frame(client, id, 0), 422)
    assert get_clip(client, id, 0, 1000).headers["content-type"] == "audio/x-matroska"


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (1000, 1000, "end_ms: it must be after start_ms, 1000"),
        (0, 600_001, "end_ms: a clip lasts 10 minutes at most"),
        (50_000, 51_000, "nothing to see or hear from 50000 to 51000 ms"),
    ],
)
def test_spans_that_hold_nothing_are_refused_in_words(client, film, start, end, said):
    assert said in check_problem(get_clip(client, film, start, end), 422)["detail"]


def test_what_is_no_media_is_refused_and_what_is_not_there_not_found(client, film, service):
    text = client.post("/v1/documents", json={"text": "a letter"}).json()["id"]
    other = service.client(service.key("read", tenant=OTHER))
    assert "it is text/plain" in check_problem(get_frame(client, text, 0), 422)["detail"]
    check_problem(get_frame(client, "nobody", 0), 404)
    check_problem(get_frame(other, film, 0), 404)
    check_problem(get_clip(other, film, 0, 100), 404)
    check_problem(client.get(f"/v1/sources/{film}/frame"), 422)
    check_problem(get_frame(client, film, -1), 422)


def test_what_was_forgotten_is_not_shown(client, service):
    id = post(client, make_film("mp4", pictures=5, captions=("mov_text", CUES)))
    assert get_frame(client, id, 0).status_code == 200
    service.lethe.forget(TENANT, Scope(ids=(id,)), preview=False)
    check_problem(get_frame(client, id, 0), 404)
    check_problem(get_clip(client, id, 0, 100), 404)
    check_problem(get_frame(service.client(service.key("forget", "read")), id, 0), 410)


@pytest.mark.parametrize("name", ["picture", "clip"])
def test_a_forget_that_comes_while_it_is_cut_keeps_it_in(client, service, monkeypatch, name):
    id = post(client, make_film("mp4", pictures=5, captions=("mov_text", CUES)))
    cutter = service.lethe.excerpts.cutter
    made = getattr(cutter, name)

    def make_and_forget(*args):
        excerpt = made(*args)
        service.lethe.forget(TENANT, Scope(ids=(id,)), preview=False)
        return excerpt

    monkeypatch.setattr(cutter, name, make_and_forget)
    reply = get_frame(client, id, 0) if name == "picture" else get_clip(client, id, 0, 100)
    check_problem(reply, 404)


def test_a_forget_between_two_pieces_stops_a_file_and_waits_for_no_more_than_one(lethe, monkeypatch):
    """The fence is let go between pieces, and each is checked on its own."""
    monkeypatch.setattr(api.fenced, "PIECE_BYTES", 4)
    assert client_of(lethe).post("/v1/documents", json={"text": "abcdefghij"}).status_code == 202
    sent, dropped = [], []

    async def send(message) -> None:
        sent.append(message)
        if message.get("body") == b"efgh":
            # As another request does: it waits for the fence, and goes before the next piece.
            asyncio.get_running_loop().run_in_executor(
                None, lambda: lethe.forget("t1", Scope(ids=("s1",)), preview=False)
            )
            while not lethe.fence._gate("t1").waiting:
                await asyncio.sleep(0.001)

    real = lethe.recheck_excerpt

    def recheck(tenant_id, excerpt):
        if any(message.get("body") == b"efgh" for message in sent):
            # The third piece: the forget that was asked for has passed the fence by now.
            assert lethe.denied
        real(tenant_id, excerpt)

    monkeypatch.setattr(lethe, "recheck_excerpt", recheck, raising=False)
    asyncio.run(call_get(create_app(lethe), "/v1/sources/s1/frame", b"at_ms=0", send, dropped))

    assert b"".join(message.get("body", b"") for message in sent) == b"abcdefgh"
    assert all(message.get("more_body", True) for message in sent)
    assert dropped == [True]


def test_those_who_wait_for_pictures_take_no_thread_from_others(lethe, monkeypatch):
    assert client_of(lethe).post("/v1/documents", json={"text": "abcdefghij"}).status_code == 202
    cutting, waiting = threading.Event(), threading.Semaphore(0)
    real = lethe.get_frame

    def get_frame(*args):
        waiting.release()
        cutting.wait(30)
        return real(*args)

    monkeypatch.setattr(lethe, "get_frame", get_frame)
    app, sent = create_app(lethe), []

    async def send(message) -> None:
        sent.append(message.get("status"))

    async def ignore(message) -> None:
        pass

    async def look() -> None:
        threads = anyio.to_thread.current_default_thread_limiter().total_tokens
        async with asyncio.TaskGroup() as group:
            for _ in range(int(threads) + 5):
                group.create_task(call_get(app, "/v1/sources/s1/frame", b"at_ms=0", ignore, []))
            try:
                while not waiting.acquire(blocking=False):
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.2)
                async with asyncio.timeout(5):
                    await call_get(app, "/v1/documents/s1", b"", send, [])
            finally:
                cutting.set()

    asyncio.run(look())
    assert 200 in sent


async def call_get(app, path: str, query: bytes, send, dropped: list[bool]) -> None:
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [KEY],
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            api.fenced.ABORT: lambda: dropped.append(True),
        },
        receive,
        send,
    )
