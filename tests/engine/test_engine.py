"""The engine's routes: OpenAI's shapes, problems, limits, its gates and its key."""

from __future__ import annotations

import base64
import struct
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import TestClient as StarletteClient

from api import engine as engine_door
from api.engine import Gates, create_engine
from api.gate import Gate
from embedding.encoder import TextEncoder
from memory.asking import asked_by, whose
from memory.errors import BusyError, UnavailableError
from memory.ports import Reader, Shelf, Vectors
from memory.values import Claim, Evidence, Reading, Space
from reader.extractive import ExtractiveReader
from reader.remote import RemoteReader
from reader.switch import SwitchingReader
from tests.engine.serving import connected, remote_encoder, serving

KEY = "0123456789abcdef-key"


@pytest.fixture
def http(encoder: TextEncoder) -> Iterator[StarletteClient]:
    app = create_engine(encoder, ExtractiveReader(encoder))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def check_problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:lethe:problem:{slug}"
    return problem


def test_models_are_listed_as_openai_does(http: StarletteClient, encoder: TextEncoder) -> None:
    reply = http.get("/v1/models").json()
    assert reply["object"] == "list"
    for model in reply["data"]:
        assert {"id", "object", "created", "owned_by"} <= model.keys()
        assert model["object"] == "model"
    assert [model["id"] for model in reply["data"]] == ["tiny", "extractive"]
    assert Space(**reply["data"][0]["lethe"]["space"]) == encoder.space
    assert reply["data"][1]["lethe"] == {"reader": "extractive"}


def test_embeddings_are_openai_s(http: StarletteClient, encoder: TextEncoder) -> None:
    """As its client sends them: a model, a user, extra fields; numbers or base64 of little-endian float32."""
    expected = encoder.encode(["the tower", "a river"], role="passage")
    sent = {"model": "tiny", "input": ["the tower", "a river"], "user": "someone", "dimensions": 32}
    reply = http.post("/v1/embeddings", json=sent).json()
    assert reply.keys() == {"object", "data", "model", "usage", "lethe"}
    assert (reply["object"], reply["model"]) == ("list", "tiny")
    assert reply["usage"].keys() == {"prompt_tokens", "total_tokens"}
    assert [(item["object"], item["index"]) for item in reply["data"]] == [("embedding", 0), ("embedding", 1)]
    assert [item["embedding"] for item in reply["data"]] == expected.tolist()

    coded = http.post("/v1/embeddings", json={**sent, "encoding_format": "base64"}).json()
    rows = [struct.unpack("<32f", base64.b64decode(item["embedding"])) for item in coded["data"]]
    assert [list(row) for row in rows] == expected.tolist()
    one = http.post("/v1/embeddings", json={"model": "tiny", "input": "the tower"}).json()
    assert one["data"] == reply["data"][:1]


@pytest.mark.parametrize(
    ("body", "status", "slug", "words"),
    [
        (b"", 400, "malformed-body", "JSON"),
        (b'{"input": "x"', 400, "malformed-body", "JSON"),
        (b"[]", 422, "invalid-input", "the body"),
        (b"{}", 422, "invalid-input", "/input"),
        (b'{"input": [[1, 2, 3]]}', 422, "invalid-input", "/input"),
        (b'{"input": [null]}', 422, "invalid-input", "/input"),
        (b'{"input": "x", "role": "document"}', 422, "invalid-input", "/role"),
        (b'{"input": "x", "encoding_format": "int8"}', 422, "invalid-input", "/encoding_format"),
        (b'{"input": "x", "dimensions": 31}', 422, "invalid-input", "/dimensions"),
        (b'{"input": "x", "model": "other"}', 404, "not-found", "other"),
        (b'{"input": "\\ud800"}', 400, "malformed-body", "JSON"),
        (b'{"input": "\xff"}', 400, "malformed-body", "JSON"),
    ],
)
def test_what_cannot_be_encoded_is_told_in_words(
    http: StarletteClient, body: bytes, status: int, slug: str, words: str
) -> None:
    reply = http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert words in check_problem(reply, status, slug)["detail"]


def test_limits_on_count_and_size(encoder: TextEncoder) -> None:
    app = create_engine(encoder, ExtractiveReader(encoder), max_body_bytes=10_000)
    with TestClient(app, raise_server_exceptions=False) as http:
        many = {"input": ["x"] * (engine_door.MAX_TEXTS + 1)}
        assert "2048" in check_problem(http.post("/v1/embeddings", json=many), 422, "invalid-input")["detail"]
        long = {"input": "x" * 10_000}
        check_problem(http.post("/v1/embeddings", json=long), 413, "body-too-large")
    with TestClient(create_engine(encoder, ExtractiveReader(encoder))) as http:
        piece = {"passage_id": "p", "text": "x"}
        for wrong, where in (
            ({"question": "q" * (engine_door.MAX_QUESTION_CHARACTERS + 1), "evidence": []}, "/question"),
            ({"question": "q", "evidence": [piece] * (engine_door.MAX_EVIDENCE + 1)}, "/evidence"),
            ({"question": "q", "evidence": [{"passage_id": "p"}]}, "/evidence/0/text"),
        ):
            problem = check_problem(http.post("/v1/read", json=wrong), 422, "invalid-input")
            assert problem["errors"][0]["pointer"] == where


def test_other_routes_methods_and_media_types_are_problems(http: StarletteClient) -> None:
    check_problem(http.get("/v1/documents"), 404, "not-found")
    check_problem(http.get("/v1/embeddings"), 405, "method-not-allowed")
    plain = http.post("/v1/embeddings", content=b'{"input": "x"}', headers={"content-type": "text/plain"})
    check_problem(plain, 415, "unsupported-media")


def test_only_the_key_opens_v1(encoder: TextEncoder) -> None:
    """Health, readiness and metrics stay open: they hold no content."""
    app = create_engine(encoder, ExtractiveReader(encoder), key=KEY)
    asks: list[tuple[str, str, Any]] = [
        ("GET", "/v1/models", None),
        ("POST", "/v1/embeddings", {"input": "x"}),
        ("POST", "/v1/read", {"question": "q", "evidence": []}),
    ]
    with TestClient(app) as http:
        for method, path, body in asks:
            for given in (
                b"",
                b"Bearer",
                b"Bearer x",
                b"Bearer " + KEY[:-1].encode(),
                b"Basic " + KEY.encode(),
            ):
                refused = http.request(method, path, json=body, headers={b"authorization": given})
                assert check_problem(refused, 401, "unauthenticated")
                assert refused.headers["www-authenticate"].startswith("Bearer")
                assert KEY not in refused.text
            strange = http.request(method, path, json=body, headers={b"authorization": b"Bearer \xe9\xff"})
            check_problem(strange, 401, "unauthenticated")
            assert http.request(
                method, path, json=body, headers={"authorization": f"Bearer {KEY}"}
            ).is_success
        for path in ("/healthz", "/readyz", "/metrics"):
            assert http.get(path).status_code == 200


class Held:
    """An encoder that works when it is let go; it counts how many are inside."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.proceed = threading.Event()
        self.inside = threading.Semaphore(0)

    @property
    def space(self) -> Space:
        return self._encoder.space

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        if role == "passage":
            self.inside.release()
            assert self.proceed.wait(30)
        return self._encoder.encode(texts, role=role)


def test_too_many_at_once_are_told_to_come_back_and_queries_go_on(encoder: TextEncoder) -> None:
    held = Held(encoder)
    gates = Gates()
    gates.passages = Gate("passages", running=1, waiting=2)
    app = create_engine(held, ExtractiveReader(), gates=gates)
    with serving(app) as url, connected(url) as connection, ThreadPoolExecutor(3) as callers:
        remote = remote_encoder(connection)
        working = [callers.submit(remote.encode, ["the tower"], role="passage") for _ in range(3)]
        try:
            assert held.inside.acquire(timeout=10)
            deadline = time.monotonic() + 10
            while b'lethe_engine_in_flight{work="passages"} 3.0' not in connection.ask("/metrics"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with pytest.raises(UnavailableError, match="cannot serve now: the engine is busy"):
                remote.encode(["one more"], role="passage")
            assert remote.encode(["a query"], role="query").shape == (1, 32)
        finally:
            held.proceed.set()
        expected = encoder.encode(["the tower"], role="passage")
        assert all((call.result() == expected).all() for call in working)
        assert b'lethe_engine_refused_total{work="passages"} 1.0' in connection.ask("/metrics")
        assert b'lethe_engine_in_flight{work="passages"} 0.0' in connection.ask("/metrics")


def test_a_busy_engine_says_when_to_come_back(encoder: TextEncoder) -> None:
    gates = Gates()
    gates.readings = Gate("readings", running=1, waiting=0)
    with TestClient(create_engine(encoder, ExtractiveReader(), gates=gates)) as http:
        reply = http.post("/v1/read", json={"question": "q", "evidence": []})
        check_problem(reply, 503, "unavailable")
        assert int(reply.headers["retry-after"]) > 0


def test_a_request_whose_caller_has_gone_is_not_worked_on(encoder: TextEncoder) -> None:
    """What waited for its turn when its process was killed would only hold up the others."""
    held = Held(encoder)
    gates = Gates()
    gates.passages = Gate("passages", running=1, waiting=9)
    with serving(create_engine(held, ExtractiveReader(), gates=gates)) as url:
        with connected(url) as patient, ThreadPoolExecutor(1) as caller:
            first = caller.submit(remote_encoder(patient).encode, ["the tower"], role="passage")
            try:
                assert held.inside.acquire(timeout=10)
                with (
                    connected(url, reply_seconds=0.3) as hasty,
                    pytest.raises(UnavailableError, match="in time"),
                ):
                    remote_encoder(hasty).encode(["a river"], role="passage")
                time.sleep(0.2)
            finally:
                held.proceed.set()
            first.result()
            remote_encoder(patient).encode(["a garden"], role="passage")
        assert held.inside.acquire(timeout=10), "the last one"
        assert not held.inside.acquire(timeout=0.2), "the one that had gone was encoded, too"


class Full(ExtractiveReader):
    """A reader that has no place, and notes who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.parties: list[str] = []

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        self.parties.append(whose())
        raise BusyError("all places are taken", retry_in_seconds=7)
        yield


def test_a_full_reader_is_told_as_such_on_both_sides(encoder: TextEncoder) -> None:
    """The service gets the error that its own reader would raise; the engine knows whose turn it was."""
    reader = Full()
    with (
        serving(create_engine(encoder, reader)) as url,
        connected(url) as connection,
        asked_by("a tenant"),
        pytest.raises(BusyError, match="is busy") as caught,
    ):
        RemoteReader(connection, name="tiny").read("q", [])
    assert caught.value.retry_after_seconds == 7
    assert reader.parties == ["a tenant"]


class Broken:
    """An encoder whose device fails."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_readiness_says_what_is_missing(encoder: TextEncoder) -> None:
    extractive = ExtractiveReader()
    arrived = threading.Event()

    def load() -> Reader:
        arrived.wait(30)
        raise UnavailableError("the weights are nowhere")

    loader = SwitchingReader(extractive, load)
    with TestClient(create_engine(encoder, loader, loader)) as http:
        try:
            reply = http.get("/readyz")
            assert reply.status_code == 200, "it reads extractively meanwhile"
            assert "being loaded" in reply.json()["missing"]["reader"]
        finally:
            arrived.set()
        loader.wait(10)
        told = http.get("/readyz").json()["missing"]["reader"]
        assert "UnavailableError" in told
        assert "nowhere" not in told, "who asks shows no key"
    with TestClient(create_engine(Broken(encoder.space), extractive), raise_server_exceptions=False) as http:
        problem = check_problem(http.get("/readyz"), 503, "not-ready")
        assert "RuntimeError" in problem["missing"]["encoder"]
        check_problem(http.post("/v1/embeddings", json={"input": "x"}), 500, "internal")
        assert http.get("/healthz").json() == {"status": "ok"}
    with TestClient(create_engine(encoder, extractive)) as http:
        assert http.get("/readyz").json() == {"status": "ready", "missing": {}}


def test_the_reader_that_reads_now_is_named(encoder: TextEncoder) -> None:
    class Model(ExtractiveReader):
        name = "a-language-model"  # type: ignore[assignment]

    loader = SwitchingReader(ExtractiveReader(), Model)
    with TestClient(create_engine(encoder, loader, loader)) as http:
        loader.wait(10)
        assert http.get("/v1/models").json()["data"][1]["id"] == "a-language-model"
