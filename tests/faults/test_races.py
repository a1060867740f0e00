"""Races: forget against ingest and every door, paused at every point that matters.

The property: once ``forget`` has returned, no bytes with lineage in its scope leave by any door, and
once it is certified the content plane is the twin's.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

import service.recall
import service.work
from api.app import create_app
from api.client import LetheClient
from api.server import server_of
from embedding.encoder import TextEncoder
from memory.clock import random_id
from memory.errors import ForgottenError, NotFoundError
from memory.journal import get_content, list_entry_ids, list_rows
from memory.kernel import Kernel
from memory.tables import jobs
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content
from reader.extractive import ExtractiveReader
from retrieval.lexical import LexicalIndex
from service.answer import Answerer
from service.generation import Generation
from service.index import Indexes
from service.lethe import Lethe
from service.recall import Recaller
from service.shelf_files import SealedFiles
from service.shelves import Shelves
from service.topics import fold_topics
from service.views import Scope
from service.work import Work
from tests.faults import stories
from tests.faults.pauses import Running, paused
from tests.faults.stories import (
    QUESTION,
    SECRET,
    TENANT,
    Told,
    World,
    assert_like_twin,
    chat,
    open_world,
    plain,
    secret,
)
from tests.service.harness import Ids

ALICE = Scope(subjects=("person:alice",))
SOON = 0.3


# Ingest

INGEST_POINTS: tuple[tuple[str, object, str, bool], ...] = (
    ("after the claim", Work, "_iter_contents", False),
    ("after parse", service.work, "parse_contents", True),
    ("after encode", service.work, "derive", True),
    ("before commit", Kernel, "commit", False),
    ("inside the commit", service.work, "put", True),
    ("after commit", Indexes, "get", False),
    ("before the index follows", Indexes, "_load", False),
    ("after it has read", Indexes, "_load", True),
    ("before lexical commit", LexicalIndex, "commit", False),
    ("after lexical commit", LexicalIndex, "commit", True),
    ("after append", Generation, "append", True),
)


@pytest.mark.parametrize("point", INGEST_POINTS, ids=[point[0] for point in INGEST_POINTS])
def test_forget_against_ingest(
    point: tuple[str, object, str, bool], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry denied while it is being ingested never comes to light, and nothing of it stays."""
    kept = [world.tell(plain(1)), world.tell(chat(2, "tidebound"))]
    told = world.tell(secret(1), drain=False)
    _, owner, name, after = point
    with paused(monkeypatch, owner, name, after=after) as pause:
        ingest = Running(world.house.waker.drain)
        assert pause.reached.wait(20)
        forget = Running(lambda: world.house.lethe.forget(TENANT, ALICE, preview=False))
        if forget.ended_within(SOON):
            early = Running(lambda: assert_hidden(world, told))
            if early.ended_within(SOON):
                early.result()
        pause.go.set()
        view = forget.result()
        assert_hidden(world, told)
        ingest.result()
    assert_hidden(world, told)
    world.house.waker.drain()
    world.pass_time()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert_hidden(world, told)
    world.compact()
    assert_like_twin(world, kept, tmp_path / "twin")


def assert_hidden(world: World, told: Told) -> None:
    """No door of the facade shows an entry, each checked the way the HTTP doors do."""
    lethe = world.house.lethe
    with lethe.reading(TENANT):
        recalled = lethe.recheck_recall(TENANT, lethe.recall(TENANT, QUESTION, limit=50))
        assert told.entry_id not in {hit.entry_id for hit in recalled.hits}
        answered = lethe.recheck_answer(TENANT, lethe.answer(TENANT, QUESTION))
        assert SECRET not in repr(answered)
        page = lethe.list_sources(TENANT, kind="document", user_id=None, cursor=None, limit=100)
        assert told.source_id not in {item.source_id for item in page.items}
        with pytest.raises((ForgottenError, NotFoundError)):
            lethe.get_source(TENANT, told.source_id)
        assert lethe.forget(TENANT, ALICE, preview=True).counts["entries"] == 0


def test_forget_against_a_fold(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics computed before a forget are not written after it."""
    kept = [world.tell(plain(n)) for n in range(3)]
    world.tell(secret(1))
    world.house.lethe.rebuild(TENANT)
    with paused(monkeypatch, Kernel, "commit") as pause:
        work = Running(world.house.waker.drain)
        assert pause.reached.wait(20)
        view = world.house.lethe.forget(TENANT, ALICE, preview=False)
        pause.go.set()
        work.result()
    world.pass_time()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert_like_twin(world, kept, tmp_path / "twin")


def test_a_fold_that_saw_less_does_not_write_last(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers fold at once, and an entry comes between: its topic stays."""
    kept = [world.tell(plain(n)) for n in range(3)]
    lethe = world.house.lethe
    with paused(monkeypatch, Kernel, "commit") as pause:
        slow = Running(lambda: fold_topics(lethe.kernel, lethe.indexes, TENANT))
        assert pause.reached.wait(20)
        kept.append(world.tell(plain(7), drain=False))
        work = Running(world.house.waker.drain)
        work.ended_within(SOON)
        pause.go.set()
        slow.result()
        work.result()
    world.indexes.rewrite(TENANT)
    assert_like_twin(world, kept, tmp_path / "twin")


# The shelf

SHELF_POINTS: tuple[tuple[str, object, str, bool], ...] = (
    ("before the fence", Shelves, "_follow", True),
    ("before the check", Shelves, "_list_readable", False),
    ("after the check", Shelves, "_list_readable", True),
    ("before memory", Shelves, "_hold", False),
    ("after memory", Shelves, "_hold", True),
    ("before the file", SealedFiles, "write", False),
    ("after the file", SealedFiles, "write", True),
    ("before the file is read", SealedFiles, "read", False),
    ("after the file is read", SealedFiles, "read", True),
    ("before it is unpacked", stories, "unpack", False),
    ("after it is unpacked", stories, "unpack", True),
    ("after the device", Shelves, "_unpack", True),
)


@pytest.mark.parametrize("point", SHELF_POINTS, ids=[point[0] for point in SHELF_POINTS])
def test_forget_against_a_reader_that_keeps(
    point: tuple[str, object, str, bool], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader computed of an entry that is denied meanwhile is nowhere once that is certified.

    From the process's memory and its device it is gone at once.
    """
    kept, gone = [world.tell(plain(1))], [world.tell(secret(1))]
    shelves = world.house.lethe.shelves
    _, owner, name, after = point
    is_found = name in ("read", "unpack", "_unpack")
    if is_found:
        world.read(gone)
    if name == "read":
        shelves.let_go_of_all()

    def read() -> None:
        if is_found:
            world.find_read(gone)
        else:
            world.read(gone)

    with paused(monkeypatch, owner, name, after=after) as pause:
        reading = Running(read)
        assert pause.reached.wait(20)
        forget = Running(lambda: world.house.lethe.forget(TENANT, ALICE, preview=False))
        forget.ended_within(SOON)
        pause.go.set()
        view = forget.result()
        reading.result()
    assert world.find_read(gone) == set()
    assert not shelves.ram_bytes and not shelves.device_bytes
    world.house.waker.drain()
    world.pass_time()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert not shelves.ram_bytes and not shelves.device_bytes
    assert not list((world.house.data / "kv").glob("*/*"))
    assert_like_twin(world, kept, tmp_path / "twin")


# The doors, over HTTP


class Served:
    """A world served over real TCP by the product's own server; jobs run when the test says so."""

    def __init__(self, world: World) -> None:
        self.world = world
        lethe = world.house.lethe
        app = create_app(lethe)
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        host, port = self.listening.getsockname()
        self.server = server_of(app, host=host, port=port)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()
        key = lethe.access.issue(TENANT, ("read", "write", "forget", "admin"), name="race").key
        self.client = LetheClient(f"http://{host}:{port}", key)
        deadline = time.monotonic() + 30
        while not self.client.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, encoder: TextEncoder) -> Iterator[Served]:
    opened = Served(open_world(tmp_path_factory.mktemp("served") / "data", encoder))
    opened.world.tell(plain(1))
    yield opened
    opened.close()


class Door:
    """A way out: what to call over HTTP, and every piece it has handed out so far."""

    def __init__(self, call: Callable[[LetheClient, Told], Any]) -> None:
        self.call = call
        self.pieces: list[str] = []

    def open(self, client: LetheClient, told: Told) -> None:
        try:
            for piece in self.call(client, told):
                self.pieces.append(repr(piece))
        except (ForgottenError, NotFoundError) as error:
            self.pieces.append(f"refused: {type(error).__name__}")


DOORS: dict[str, Callable[[LetheClient, Told], Any]] = {
    "recall": lambda client, told: [client.recall(QUESTION)],
    "answer": lambda client, told: [client.answer(QUESTION)],
    "stream": lambda client, told: client.iter_answer(QUESTION),
    "get": lambda client, told: [client.get_document(told.source_id)],
    "list": lambda client, told: [list(client.iter_documents())],
}

DOOR_POINTS: tuple[tuple[str, object, str, bool, bool], ...] = (
    ("recall", service.recall, "rank", False, False),
    ("recall", service.recall, "rank", True, False),
    ("recall", Recaller, "load_parsed", False, False),
    ("recall", service.recall, "hydrate", True, False),
    ("recall", Lethe, "recall", True, False),
    ("recall", Lethe, "recheck_recall", True, True),
    ("answer", service.recall, "rank", True, False),
    ("answer", Answerer, "_gather", True, False),
    ("answer", ExtractiveReader, "read", True, False),
    ("answer", Lethe, "answer", True, False),
    ("answer", Lethe, "recheck_answer", True, True),
    ("stream", service.recall, "rank", True, False),
    ("stream", Answerer, "_gather", True, False),
    ("stream", Lethe, "recheck_answer", True, True),
    ("get", Lethe, "get_source", False, True),
    ("get", Lethe, "get_source", True, True),
    ("list", Lethe, "list_sources", True, True),
)


@pytest.mark.parametrize(
    ("door", "owner", "name", "after", "fenced"),
    DOOR_POINTS,
    ids=[f"{p[0]}-{p[2]}-{'after' if p[3] else 'before'}" for p in DOOR_POINTS],
)
def test_nothing_leaves_after_the_acknowledgement(
    door: str,
    owner: object,
    name: str,
    after: bool,
    fenced: bool,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held before its last check, a reply comes without it; held after it, the acknowledgement waits."""
    told = served.world.tell(secret(1))
    opened = Door(DOORS[door])
    with paused(monkeypatch, owner, name, after=after) as pause:
        reading = Running(lambda: opened.open(served.client, told))
        assert pause.reached.wait(20)
        forget = Running(lambda: served.world.house.lethe.forget(TENANT, ALICE, preview=False))
        acknowledged = forget.ended_within(SOON if fenced else 20)
        assert acknowledged is not fenced
        pause.go.set()
        forget.result()
        reading.result()
    said = "".join(opened.pieces)
    if fenced:
        assert SECRET in said or told.source_id in said, "it left before the acknowledgement, as it may"
    else:
        assert SECRET not in said and told.source_id not in said
    again = Door(DOORS[door])
    again.open(served.client, told)
    assert SECRET not in "".join(again.pieces) and told.source_id not in "".join(again.pieces)
    served.world.house.waker.drain()


def test_a_stream_stops_between_two_sentences(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before the acknowledgement was said; after it not a sentence more."""
    told = served.world.tell(secret(1))
    iter_answer = Answerer.iter_answer
    waiting, go = threading.Event(), threading.Event()

    def slowly(self: Answerer, *args: Any, **kwargs: Any) -> Any:
        for at, answered in enumerate(iter_answer(self, *args, **kwargs)):
            if at == 1:
                waiting.set()
                assert go.wait(20)
            yield answered

    opened = Door(DOORS["stream"])
    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "iter_answer", slowly)
        reading = Running(lambda: opened.open(served.client, told))
        assert waiting.wait(20)
        deadline = time.monotonic() + 10
        while not opened.pieces and time.monotonic() < deadline:
            time.sleep(0.01)
        before = len(opened.pieces)
        assert before and SECRET in opened.pieces[0]
        served.world.house.lethe.forget(TENANT, ALICE, preview=False)
        go.set()
        reading.result()
    assert len(opened.pieces) > before, "the stream ends with a whole answer"
    assert SECRET not in "".join(opened.pieces[before:])
    served.world.house.waker.drain()


def test_no_side_door_tells(served: Served) -> None:
    """Counts, previews, jobs and the request itself say nothing of it once it is acknowledged."""
    client = served.client
    before = {key: client.stats()[key] for key in ("entries", "sources", "passages", "nodes")}
    served.world.tell(secret(1))
    served.world.tell(chat(3, SECRET, subjects=("person:alice",), user_id="u9"))
    assert client.stats()["entries"] == before["entries"] + 2
    client.forget({"subjects": ["person:alice"]})

    assert {key: client.stats()[key] for key in before} == before
    assert not client.forget({"subjects": ["person:alice"]}, preview=True)["counts"]["entries"]
    assert not client.list_memories(user_id="u9")
    assert SECRET not in repr(client.list_jobs())
    served.world.house.waker.drain()


def test_versions_are_ranked_without_what_was_forgotten(world: World) -> None:
    """From the acknowledgement on, the second version of two is the first, through every door."""
    world.tell(secret(1, external_id="x"))
    told = world.tell(plain(1, external_id="x"))
    world.house.lethe.forget(TENANT, ALICE, preview=False)

    lethe = world.house.lethe
    recalled = lethe.recheck_recall(TENANT, lethe.recall(TENANT, "the ferry in the morning"))
    page = lethe.list_sources(TENANT, kind="document", user_id=None, cursor=None, limit=10)
    assert lethe.get_source(TENANT, told.source_id).version == 1
    assert [item.version for item in page.items] == [1]
    assert [hit.version for hit in recalled.hits] == [1]


def test_logs_and_job_rows_hold_no_content(world: World) -> None:
    """Through a whole life, failures included, neither log lines nor job rows repeat a word."""
    with structlog.testing.capture_logs() as lines:
        world.tell(secret(1))
        body = f'[{{"role": "user", "content": "{SECRET}", "at": "{SECRET} o\'clock"}}]'.encode()
        world.tell(Content("memory", MESSAGES_MEDIA_TYPE, body, Attributes()))
        world.tell(Content("document", "application/pdf", f"%PDF-1.7 {SECRET}".encode(), Attributes()))
        world.tell(Content("document", "application/json", f'{{"{SECRET}": '.encode(), Attributes()))
        world.ranked()
        world.forget(ALICE)
    assert lines and SECRET not in repr(lines)
    with world.house.lethe.kernel.database.read() as connection:
        rows = connection.execute(sa.select(jobs.c.status, jobs.c.error)).all()
    assert any(row.status == "failed" for row in rows)
    assert SECRET not in repr(rows)


# Everything at once

STRESS_SECONDS = 4.0


def test_everything_at_once(tmp_path: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers, tellers, forgetters and two workers together: no reply ever holds what was acknowledged."""
    monkeypatch.setattr(Ids, "__call__", lambda self: random_id())
    world = open_world(tmp_path / "data", encoder)
    lethe, began = world.house.lethe, time.monotonic()
    start_us = world.house.clock.now_us
    acknowledged: set[str] = set()
    names: list[str] = []
    leaks: list[str] = []
    replies = [0]
    ended = threading.Event()

    def tick() -> None:
        while not ended.is_set():
            world.house.clock.now_us = start_us + int((time.monotonic() - began) * 1_000_000)
            time.sleep(0.0005)

    def work() -> None:
        while not ended.is_set():
            for job_id in lethe.kernel.jobs.list_due(4):
                lethe.work.run(job_id)
            time.sleep(0.005)

    def tell_many(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(10_000):
            if ended.is_set():
                return
            name = f"{seed}x{number}"
            text = (
                f"The keeper of the garden tower wrote token{name} into log {chance.randrange(99)} at night."
            )
            content = Content("document", "text/plain", text.encode(), Attributes(external_id=name))
            lethe.remember(TENANT, [content])
            names.append(name)
            time.sleep(0.03)

    def forget_many() -> None:
        chance = random.Random(5)
        while not ended.is_set():
            time.sleep(0.15)
            left = [name for name in names if name not in acknowledged]
            if left:
                chosen = chance.sample(left, min(3, len(left)))
                lethe.forget(TENANT, Scope(external_ids=tuple(chosen)), preview=False)
                acknowledged.update(chosen)

    def check(said: str) -> None:
        replies[0] += 1
        leaks.extend(name for name in list(acknowledged) if f"token{name} " in said or f"'{name}'" in said)

    def read_many(seed: int) -> None:
        chance = random.Random(seed)
        while not ended.is_set():
            kind = chance.randrange(3)
            query = f"who wrote token{chance.choice(names)}" if names else "the keeper of the tower"
            if kind == 0:
                recalled = lethe.recall(TENANT, query)
                with lethe.reading(TENANT):
                    check(repr(lethe.recheck_recall(TENANT, recalled)))
            elif kind == 1:
                for answered in lethe.iter_answer(TENANT, query):
                    with lethe.reading(TENANT):
                        check(repr(lethe.recheck_answer(TENANT, answered)))
            else:
                with lethe.reading(TENANT):
                    page = lethe.list_sources(TENANT, kind="document", user_id=None, cursor=None, limit=20)
                    check(repr(page))
                    for item in page.items[:2]:
                        check(repr(lethe.get_source(TENANT, item.source_id)))

    kinds: list[Callable[[], Any]] = [tick, work, work, forget_many]
    kinds += [lambda seed=seed: tell_many(seed) for seed in (1, 2)]  # type: ignore[misc]
    kinds += [lambda seed=seed: read_many(seed) for seed in (3, 4, 5)]  # type: ignore[misc]
    running = [Running(kind) for kind in kinds]
    time.sleep(STRESS_SECONDS)
    ended.set()
    for thread in running:
        thread.result()

    assert not leaks
    assert replies[0] > 20 and len(acknowledged) > 5
    for _ in range(4):
        world.pass_time()
    assert set(lethe.stats(TENANT)["forgets"]) == {"certified"}  # type: ignore[call-overload]
    with lethe.kernel.database.read() as connection:
        ids = list_entry_ids(connection, TENANT)
        opener = lethe.kernel.vault.opener(TENANT, ids)
        rows = sorted(list_rows(connection, TENANT, ids), key=lambda row: (row.recorded_us, row.id))
        found = [(row, get_content(connection, opener, row.id)) for row in rows]
    kept = [Told(row.id, row.recorded_us, content, row.source_id) for row, content in found if content]
    assert {told.content.attributes.external_id for told in kept} == set(names) - acknowledged
    monkeypatch.undo()
    world.compact()
    assert_like_twin(world, kept, tmp_path / "twin")
    world.close()
