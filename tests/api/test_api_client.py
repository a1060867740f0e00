"""The Python client, against a live service."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import httpx2
import pytest

import api.client
from api.client import LetheClient
from memory.errors import (
    ConflictError,
    CorruptionError,
    ForbiddenError,
    ForgottenError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)


@pytest.fixture
def client(port):
    with LetheClient(f"http://127.0.0.1:{port}", "admin-key") as client:
        yield client


def test_what_goes_in_comes_back(client, lethe, tmp_path):
    file = tmp_path / "tide.md"
    file.write_text("# Tide table")
    moment = datetime(2026, 3, 1, tzinfo=UTC)

    text = client.remember_document(
        "tide one",
        title="T",
        subjects=["s"],
        metadata={"none": None, "at": moment},
        occurred_at=moment,
        wait=5,
    )
    uploaded = client.remember_document(file, subjects=["s"], metadata={"k": 1}, title="T", wait=5)
    batch = client.remember_documents([{"text": "tide b"}, {"text": "tide c", "user_id": None}], wait=5)
    memory = client.remember_text("tide m", user_id="bob", wait=5)
    chat = client.remember_messages([{"role": "user", "content": "tide?", "at": moment}], wait=5)
    updated = client.update_document(text["id"], "tide two", wait=5)

    assert [reply["passages"] for reply in (text, uploaded, *batch, memory, chat)] == [1] * 6
    assert lethe.contents[0].attributes.metadata == {"none": None, "at": "2026-03-01T00:00:00Z"}
    assert lethe.contents[0].attributes.occurred_at == moment
    assert (lethe.contents[1].media_type, lethe.contents[1].filename) == ("text/markdown", "tide.md")
    assert lethe.contents[1].attributes.metadata == {"k": 1}
    assert (updated["id"], updated["version"]) == (text["id"], 2)
    assert client.get_document(text["id"], as_of=moment)["text"] == "tide two"
    assert len(client.list_documents()) == 4
    assert len(list(client.iter_documents(page_size=1))) == 4
    assert [one["id"] for one in client.list_memories(user_id="bob")] == [memory["id"]]
    assert len(client.recall("tide", limit=3, filter={"user_id": None})["hits"]) == 3
    assert client.answer("tide")["citations"]
    assert client.get_job(text["job"]["id"])["status"] == "done"
    assert client.wait_job(text["job"]["id"], timeout_seconds=1)["progress"] == 1.0
    assert client.stats()["epoch"] == 1
    assert client.rebuild()["kind"] == "rebuild"
    assert client.list_jobs(limit=2)
    assert client.is_ready()


def test_an_answer_streams(client):
    client.remember_document("tide one")
    client.remember_document("tide two")

    steps = list(client.iter_answer("tide"))

    assert [step[0] for step in steps] == ["claim", "claim", "done"]
    assert steps[0][1]["text"] == "tide one"
    assert steps[-1][1] == client.answer("tide")


def test_an_answer_is_explained_where_that_is_asked_for(client):
    client.remember_document("tide one")

    told = client.answer("tide", explain=True)
    *_, (_, streamed) = client.iter_answer("tide", explain=True)

    assert "explanation" not in client.answer("tide")
    explanation = told["explanation"]
    assert explanation["closed_book"] == {"answer": "I do not know.", "knew": False}
    assert [piece["quote"] for piece in explanation["shown"]] == ["tide one"]
    assert explanation["removed"] == [{"text": "wrong", "reason": "no passage says it"}]
    assert explanation["conflicts"][0]["holds"] == 0
    assert streamed == told


def test_forgetting(client):
    id = client.remember_document("tide one", subjects=["s"])["id"]

    assert client.forget({"subjects": ["s"]}, preview=True)["counts"] == {"entries": 1}
    done = client.forget({"subjects": ["s"], "time_range": {"to": datetime(2027, 1, 1, tzinfo=UTC)}}, wait=5)
    again = client.forget_document(client.remember_document("x")["id"])

    assert done["state"] == "certified"
    assert again["state"] == "fenced"
    assert client.get_forget(done["id"])["remaining"] == {}
    assert client.get_certificate(done["id"])["signature"] == "00"
    with pytest.raises(ForgottenError):
        client.get_document(id)


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("document", "x"),
        ConflictError("changed"),
        InvalidInputError("unknown operator", where="filter"),
        ForbiddenError("no"),
        ForgottenError("x"),
        CorruptionError("bad"),
        UnavailableError("later"),
    ],
)
def test_errors_come_back_as_what_they_were(client, lethe, monkeypatch, error):
    monkeypatch.setattr(api.client, "FIRST_PAUSE_SECONDS", 0.001)
    lethe.error = error

    for ask in (client.stats, lambda: list(client.iter_answer("tide"))):
        with pytest.raises(type(error)) as raised:
            ask()
        if not isinstance(error, CorruptionError):
            assert str(raised.value) == str(error)


def test_wrong_fields_are_named(client):
    with pytest.raises(InvalidInputError, match=r"/limit: .*200"):
        client.recall("tide", limit=1000)
    with pytest.raises(InvalidInputError, match="time zone"):
        client.recall("tide", as_of=datetime(2026, 1, 1))


def test_an_unknown_key_is_forbidden(port):
    for key in (None, "nobody"):
        with LetheClient(f"http://127.0.0.1:{port}", key) as client, pytest.raises(ForbiddenError):
            client.stats()


def test_when_nothing_listens_it_says_how_to_start(monkeypatch):
    monkeypatch.setattr(api.client, "FIRST_PAUSE_SECONDS", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    with LetheClient(f"http://127.0.0.1:{port}", "k") as client:
        for ask in (client.stats, lambda: list(client.iter_answer("a"))):
            with pytest.raises(UnavailableError, match="lethe serve"):
                ask()
        assert not client.is_ready()


def test_only_what_changes_nothing_is_tried_again(client, lethe, monkeypatch):
    monkeypatch.setattr(api.client, "FIRST_PAUSE_SECONDS", 0.001)
    lethe.error = UnavailableError("later")
    sent = []
    request = httpx2.Client.request

    def counting(self, method, path, **kwargs):
        sent.append((method, path))
        return request(self, method, path, **kwargs)

    monkeypatch.setattr(httpx2.Client, "request", counting)

    for ask in (
        client.stats,
        lambda: client.recall("a"),
        lambda: client.remember_text("a"),
        lambda: client.forget({"ids": ["a"]}),
    ):
        with pytest.raises(UnavailableError):
            ask()

    assert sent == [("GET", "/v1/stats")] * 3 + [("POST", "/v1/recall")] * 3 + [
        ("POST", "/v1/memories"),
        ("POST", "/v1/forget"),
    ]
