"""Remote encoder and reader are the local ones, bit for bit; and when the engine is not there, they say so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from api.engine import create_engine
from embedding.encoder import TextEncoder
from embedding.remote import RemoteEncoder
from memory.errors import ForbiddenError, InvalidInputError, UnavailableError
from memory.ports import Shelf
from memory.values import Citation, Claim, Evidence, PassageId, Reading
from memory.vault import SealedVault
from reader.extractive import ExtractiveReader
from reader.remote import RemoteReader
from service.engine import EngineConnection
from service.views import Scope
from tests.engine.serving import connected, free_port, remote_encoder, remote_reader, serving
from tests.service.harness import TENANT, House
from tests.tiny import WORDS, build_tiny_encoder

QUICKLY_SECONDS = 3.0
KEY = "0123456789abcdef-key"
EVIDENCE = (
    Evidence(
        PassageId("p1"),
        "The tower stands by the river.\u2028It was built of stone in the winter of 1921.",
        title="The tower",
        heading=("History", "Building"),
        occurred_at=datetime(2026, 3, 1, 12, 30, 15, 250_001, tzinfo=UTC),
        probability=1 / 3,
    ),
    Evidence(PassageId("p2"), "Bob forgot the letter at the harbour.", probability=0.1),
)


def texts(count: int) -> list[str]:
    """Texts of all lengths, some beyond the model's limit, with what JSON has to escape."""
    return [
        ' "\\\n\t\u2028é漢🙂\x00'[: n % 11]
        + " ".join(WORDS[(n * 7 + at) % len(WORDS)] for at in range(n % 150))
        for n in range(count)
    ]


@pytest.mark.parametrize("role", ["passage", "query"])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_vectors_are_the_same_bits(
    encoder: TextEncoder, connection: EngineConnection, count: int, role: Literal["passage", "query"]
) -> None:
    remote = remote_encoder(connection)
    assert remote.space == encoder.space
    got, expected = remote.encode(texts(count), role=role), encoder.encode(texts(count), role=role)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


def test_the_role_reaches_the_encoder(tmp_path: Path) -> None:
    """With a prompt for queries, the two roles differ; sent as one they would not."""
    folder = build_tiny_encoder(tmp_path)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "where is "}}')
    encoder = TextEncoder(folder, name="prompted", threads=1)
    with serving(create_engine(encoder, ExtractiveReader())) as url, connected(url) as connection:
        remote = remote_encoder(connection)
        query, passage = (remote.encode(["the tower"], role=role) for role in ("query", "passage"))
        assert (query != passage).any()
        assert (query == encoder.encode(["the tower"], role="query")).all()


def test_many_threads_share_one_remote_encoder(encoder: TextEncoder, connection: EngineConnection) -> None:
    remote = remote_encoder(connection)
    told = texts(300)
    expected = encoder.encode(told, role="passage")
    got: dict[int, bool] = {}

    def ask(at: int) -> None:
        got[at] = bool(np.array_equal(remote.encode(told[at:], role="passage"), expected[at:]))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict.fromkeys(range(6), True)


@pytest.mark.parametrize("question", ["When was the tower built of stone?", "Who won the regatta?"])
def test_readings_are_equal(encoder: TextEncoder, connection: EngineConnection, question: str) -> None:
    remote = remote_reader(connection)
    local = ExtractiveReader(encoder)
    got, expected = (one.read(question, EVIDENCE, explain=True) for one in (remote, local))
    assert got.explanation is not None
    assert replace(got, timings_ms={}) == replace(expected, timings_ms={})
    assert got.timings_ms.keys() == expected.timings_ms.keys()
    assert list(remote.iter_claims(question, EVIDENCE)) == list(expected.claims)
    assert remote.name == local.name


def test_a_house_with_an_engine_has_the_same_digest(
    tmp_path: Path, encoder: TextEncoder, connection: EngineConnection
) -> None:
    """And gives the same answers, after a forget, too."""
    digests, answers = [], []
    for name, mine, reader in (
        ("local", encoder, ExtractiveReader(encoder)),
        ("remote", remote_encoder(connection), remote_reader(connection)),
    ):
        house = House(tmp_path / name, mine, reader)
        vault = house.lethe.kernel.vault
        assert isinstance(vault, SealedVault)
        vault.adopt_tenant_key(TENANT, bytes(range(32)))  # names are made under it
        try:
            for at, item in enumerate(EVIDENCE):
                house.remember(item.text, f"{at:032d}", subjects=(f"person:{at}",))
            house.remember("Carol is in the garden. " * 40, f"{9:032d}", title="Garden")
            house.remember("Dave lost his music.", f"{7:032d}", subjects=("person:dave",))
            answered = house.lethe.answer(TENANT, "Who forgot the letter?")
            answers.append((answered.answer, answered.claims, answered.confidence))
            house.lethe.forget(TENANT, Scope(subjects=("person:dave",)), preview=False)
            house.waker.drain()
            digests.append(house.digest())
        finally:
            house.close()
    assert digests[0] == digests[1] and digests[0]
    assert answers[0] == answers[1] and answers[0][0]


class Waiting:
    """A reader that says one claim and then waits until it is let go, or closed."""

    name = "waiting"

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.told = threading.Event()
        self.proceed = threading.Event()

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        try:
            yield Claim("first", True, (Citation(0, 0, 3, evidence[0].text[:3]),))
            self.told.set()
            while not self.proceed.wait(0.05):
                yield Claim("again", False, reason="still waiting")
            if question == "fail":
                raise UnavailableError("the model is gone")
            return Reading((), 0.5, self.name)
        finally:
            self.closed.set()

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        raise NotImplementedError


@pytest.fixture
def waiting(encoder: TextEncoder) -> Iterator[tuple[Waiting, EngineConnection]]:
    reader = Waiting()
    with serving(create_engine(encoder, reader)) as url, connected(url) as connection:
        yield reader, connection
        reader.proceed.set()


def test_claims_come_before_the_reading_is_done(waiting: tuple[Waiting, EngineConnection]) -> None:
    reader, connection = waiting
    claims = remote_reader(connection).iter_claims("q", EVIDENCE)
    assert next(claims).text == "first"
    assert not reader.closed.is_set()
    reader.proceed.set()
    with pytest.raises(StopIteration) as end:
        while True:
            next(claims)
    assert end.value.value == Reading((), 0.5, "waiting")


def test_closing_the_claims_ends_the_reading_in_the_engine(waiting: tuple[Waiting, EngineConnection]) -> None:
    reader, connection = waiting
    with closing(remote_reader(connection).iter_claims("q", EVIDENCE)) as claims:
        next(claims)
        assert reader.told.wait(QUICKLY_SECONDS)
    assert reader.closed.wait(QUICKLY_SECONDS), "the reader went on for nobody"


def test_a_reader_that_fails_under_way_fails_here(waiting: tuple[Waiting, EngineConnection]) -> None:
    reader, connection = waiting
    claims = remote_reader(connection).iter_claims("fail", EVIDENCE)
    next(claims)
    reader.proceed.set()
    with pytest.raises(UnavailableError, match="the model is gone"):
        list(claims)


def test_nobody_listens() -> None:
    with connected(f"http://127.0.0.1:{free_port()}") as connection:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"no engine answers at .*lethe engine \(waited 0\.3 s\)"):
            connection.wait(0.3)
        assert time.monotonic() - began < QUICKLY_SECONDS


def test_a_url_that_is_none_is_refused_with_the_setting_named() -> None:
    for url in ("127.0.0.1:8710", "file:///models", "http://", ""):
        with pytest.raises(InvalidInputError, match="LETHE_ENGINE_URL"):
            EngineConnection(url)


def test_construction_waits_for_an_engine_that_comes_up_later(encoder: TextEncoder) -> None:
    port = free_port()
    found: list[RemoteEncoder] = []
    with connected(f"http://127.0.0.1:{port}") as connection:
        waiter = threading.Thread(target=lambda: found.append(remote_encoder(connection)))
        waiter.start()
        time.sleep(0.4)
        assert not found
        with serving(create_engine(encoder, ExtractiveReader(encoder)), port):
            waiter.join(QUICKLY_SECONDS)
        waiter.join()
    assert found[0].space == encoder.space


@contextmanager
def replying(reply: bytes) -> Iterator[str]:
    """A server that answers everything with the same bytes, or with silence."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            held.append(one)
            one.recv(65536)
            one.sendall(reply)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for one in held:
            one.close()


def test_silence_is_not_waited_for_for_ever() -> None:
    with replying(b"") as url, connected(url, reply_seconds=0.3) as connection:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="did not reply in time"):
            connection.wait(0)
        assert time.monotonic() - began < QUICKLY_SECONDS


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"object":"list","data":[{"id":"gpt"}]}'])
def test_another_service_behind_the_url_is_no_engine(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    with (
        replying(head + body) as url,
        connected(url) as connection,
        pytest.raises(InvalidInputError, match="no engine of Lethe"),
    ):
        connection.wait(0)


def test_a_reply_that_breaks_off_or_is_none_is_unavailable(encoder: TextEncoder) -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n{"
    short = b'{"data":[],"lethe":%s}'
    space = encoder.space
    told = (
        f'{{"model":"{space.model}","digest":"{space.digest}","dimension":{space.dimension},'
        f'"numeric_class":"{space.numeric_class}"}}'
    ).encode()
    bodies = [b"<html/>", short % told]
    whole = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body) for body in bodies]
    for reply, words in zip(
        (cut, *whole),
        ("did not reply in time|broke", "holds no vectors", "0 vectors to 1 texts"),
        strict=True,
    ):
        with replying(reply) as url, connected(url, reply_seconds=0.3) as connection:
            with pytest.raises(UnavailableError, match=words):
                RemoteEncoder(connection, space).encode(["x"], role="query")
            with pytest.raises(UnavailableError):
                RemoteReader(connection, name="?").read("q", EVIDENCE)


def test_a_wrong_key_is_told_in_words_and_a_changed_one_is_waited_out(encoder: TextEncoder) -> None:
    """A key that never worked is a mistake; one that stops working is an engine restarted with another."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    reader = ExtractiveReader(encoder)
    with connected(url, KEY) as connection:
        with serving(create_engine(encoder, reader, key=KEY), port):
            for wrong in (None, KEY[:-1], KEY + "x"):
                with (
                    connected(url, wrong) as refused,
                    pytest.raises(ForbiddenError, match=r"does not take the key.*LETHE_ENGINE_KEY_FILE"),
                ):
                    refused.wait(5)
            remote = remote_encoder(connection)
            assert remote.encode(["x"], role="query").shape == (1, encoder.space.dimension)
        with (
            serving(create_engine(encoder, reader, key="another-key-of-its-own"), port),
            pytest.raises(UnavailableError, match="does not take the key"),
        ):
            remote.encode(["x"], role="query")


def test_another_model_behind_the_same_url_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    """Its vectors may look alike: same name, same dimension, other weights."""
    port = free_port()
    other = TextEncoder(build_tiny_encoder(tmp_path, seed=1), name="tiny", threads=1)
    with connected(f"http://127.0.0.1:{port}") as connection:
        with serving(create_engine(encoder, ExtractiveReader(encoder)), port):
            remote = remote_encoder(connection)
            expected = remote.encode(["the tower"], role="query")
        with serving(create_engine(other, ExtractiveReader(other)), port):
            for count in (1, 600):
                with pytest.raises(UnavailableError, match=r"now encodes with .* restart it"):
                    remote.encode(["the tower"] * count, role="query")
        with serving(create_engine(encoder, ExtractiveReader(encoder)), port):
            assert (remote.encode(["the tower"], role="query") == expected).all()


def test_a_text_beyond_utf8_is_the_texts_fault(connection: EngineConnection) -> None:
    with pytest.raises(InvalidInputError, match="UTF-8"):
        remote_encoder(connection).encode(["\ud800"], role="query")


def test_a_connection_serves_many_requests(
    encoder: TextEncoder, connection: EngineConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    connect = socket.create_connection

    def counting(*arguments: Any, **named: Any) -> socket.socket:
        opened.append(arguments)
        return connect(*arguments, **named)

    monkeypatch.setattr(socket, "create_connection", counting)
    remote = RemoteEncoder(connection, encoder.space)
    for _ in range(10):
        remote.encode(["x"], role="query")
    assert len(opened) == 1
