"""Remembering over HTTP: both forms of a document, batches, memories, waiting, pages."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

import pytest
from doors import check_problem, client_of

from memory.values import MESSAGES_MEDIA_TYPE

WAIT = {"prefer": "wait=5"}
FIELDS = {
    "title": "Harbour",
    "external_id": "a/b.md",
    "user_id": "bob",
    "agent_id": "agent",
    "run_id": "run",
    "occurred_at": "2026-03-01T10:00:00+01:00",
}


def check_attributes(content):
    said = content.attributes
    assert (said.title, said.external_id, said.user_id) == ("Harbour", "a/b.md", "bob")
    assert (said.agent_id, said.run_id) == ("agent", "run")
    assert said.subjects == ("x", "y")
    assert said.metadata == {"n": [1, {"deep": None}]}
    assert said.occurred_at == datetime(2026, 3, 1, 9, tzinfo=UTC)


def test_a_text_is_remembered_with_all_that_is_said_of_it(http, lethe):
    body = {"text": "héllo", **FIELDS, "subjects": ["x", "y"], "metadata": {"n": [1, {"deep": None}]}}

    response = http.post("/v1/documents", json=body)

    assert response.status_code == 202
    assert response.json() == {"id": "s1", "version": 1, "job": {"id": "job1", "status": "queued"}}
    [content] = lethe.contents
    assert (content.kind, content.media_type, content.body) == ("document", "text/plain", "héllo".encode())
    check_attributes(content)


@pytest.mark.parametrize("subjects", [["x", "y"], ['["x", "y"]']])
def test_a_file_is_remembered_with_the_same_fields(http, lethe, subjects):
    form = {**FIELDS, "subjects": subjects, "metadata": json.dumps({"n": [1, {"deep": None}]})}

    response = http.post("/v1/documents", files={"file": ("näme.md", b"# hi")}, data=form, headers=WAIT)

    assert response.status_code == 201
    assert response.json()["passages"] == 1
    [content] = lethe.contents
    assert (content.media_type, content.body, content.filename) == ("text/markdown", b"# hi", "näme.md")
    check_attributes(content)


@pytest.mark.parametrize(
    ("name", "said", "type"),
    [
        ("a.pdf", "application/octet-stream", "application/pdf"),
        ("a.HTML", "text/html; charset=utf-8", "text/html"),
        ("a.md", "text/plain", "text/markdown"),
        ("a.bin", "application/octet-stream", "text/plain"),
        ("a.jsonl", "application/octet-stream", "application/jsonl"),
        ("a.txt", "text/html", "text/html"),
    ],
)
def test_the_media_type_is_what_was_said_or_what_name_and_content_tell(http, lethe, name, said, type):
    http.post("/v1/documents", files={"file": (name, b"hi", said)})

    assert lethe.contents[0].media_type == type


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"text": ("a", b"x")}, {}),
        ({"file": ("a", b"")}, {}),
        ({"file": ("a", b"x")}, {"unknown": "1"}),
        ({"file": ("a", b"x")}, {"title": ["1", "2"]}),
        ({"file": ("a", b"x")}, {"metadata": "{"}),
        ({"file": ("a", b"x")}, {"metadata": "[1]"}),
        ({"file": ("a", b"x")}, {"metadata": '{"a": 1, "a": 2}'}),
        ({"file": ("a", b"x")}, {"subjects": "[1]"}),
        ({"file": ("a", b"x")}, {"title": "a\0b"}),
    ],
)
def test_a_form_is_as_strict_as_json(http, lethe, files, data):
    check_problem(http.post("/v1/documents", files=files, data=data), 422)
    assert lethe.contents == []


def test_waiting_tells_the_end_of_the_work(http):
    done = http.post("/v1/documents", json={"text": "fine"}, headers=WAIT)
    again = http.post("/v1/documents", json={"text": "same", "external_id": "e"}, headers=WAIT)
    unchanged = http.post("/v1/documents", json={"text": "same", "external_id": "e"}, headers=WAIT)
    failed = http.post("/v1/documents", json={"text": "poison"}, headers=WAIT)

    assert done.status_code == again.status_code == unchanged.status_code == 201
    assert done.json() == {"id": "s1", "version": 1, "passages": 1, "job": {"id": "job1", "status": "done"}}
    assert unchanged.json() == again.json()
    assert done.headers["preference-applied"] == "wait=5"
    assert failed.status_code == 422
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.json()["detail"] == "poison on line 1"


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=1", "wait=1"),
        ("respond-async, WAIT=1; x=y", "wait=1"),
        ('wait="2"', "wait=2"),
        ("wait=99999", "wait=300"),
        ("wait=-1", None),
        ("wait", None),
        ("wait=x", None),
        ("respond-async", None),
    ],
)
def test_the_preference_is_read_as_rfc_7240_has_it(http, prefer, applied):
    response = http.post("/v1/documents", json={"text": "a"}, headers={"prefer": prefer})

    assert response.headers.get("preference-applied") == applied
    assert response.status_code == (202 if applied is None else 201)


def test_when_time_is_up_the_reply_is_202_with_the_latest_state(lethe):
    lethe.slow = True
    http = client_of(lethe)
    started = time.monotonic()

    response = http.post("/v1/documents", json={"text": "a"}, headers={"prefer": "wait=1"})

    assert 0.9 < time.monotonic() - started < 3
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=1"
    assert "passages" not in response.json()


def test_many_waiting_requests_leave_the_threads_to_others(lethe):
    """More requests wait than the pool has threads, and others still come through."""
    lethe.slow = True
    with client_of(lethe) as http:
        statuses = []

        def wait(number):
            reply = http.post("/v1/documents", json={"text": f"a{number}"}, headers={"prefer": "wait=20"})
            statuses.append(reply.status_code)

        waiting = [threading.Thread(target=wait, args=(n,)) for n in range(60)]
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + 10
        while len(lethe.contents) < 60:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started = time.monotonic()
        assert http.post("/v1/recall", json={"query": "a1"}).status_code == 200
        assert time.monotonic() - started < 2
        lethe.slow = False
        lethe.finish()
        for thread in waiting:
            thread.join()
    assert statuses == [201] * 60


def test_a_new_version_keeps_the_id(http, lethe):
    id = http.post("/v1/documents", json={"text": "old"}).json()["id"]

    reply = http.put(f"/v1/documents/{id}", json={"text": "new"}, headers=WAIT)

    assert reply.status_code == 201
    assert (reply.json()["id"], reply.json()["version"]) == (id, 2)
    assert http.get(f"/v1/documents/{id}").json()["text"] == "new"
    check_problem(http.put("/v1/documents/unknown", json={"text": "new"}), 404)


LINES = b'{"text": "a"}\n\n{"text": "b", "subjects": ["s"]}\r\n{"text": "a"}'


@pytest.mark.parametrize(
    ("body", "type"),
    [
        (b'[{"text": "a"}, {"text": "b", "subjects": ["s"]}, {"text": "a"}]', "application/json"),
        (LINES, "application/x-ndjson"),
        (LINES, "application/jsonl; charset=utf-8"),
    ],
)
def test_a_batch_is_acknowledged_in_its_order(http, lethe, body, type):
    headers = {"content-type": type}

    queued = http.post("/v1/documents/batch", content=body, headers=headers)
    done = http.post("/v1/documents/batch", content=body, headers={**headers, **WAIT})

    assert queued.status_code == 202
    assert [reply["id"] for reply in queued.json()] == ["s1", "s2", "s3"]
    assert [content.body for content in lethe.contents[:3]] == [b"a", b"b", b"a"]
    assert done.status_code == 201
    assert [reply["passages"] for reply in done.json()] == [1, 1, 1]


def test_one_bad_document_refuses_the_batch_and_is_named(http, lethe):
    array = http.post("/v1/documents/batch", json=[{"text": "a"}, {"text": 5}])
    lines = http.post(
        "/v1/documents/batch", content=b'{"text": "a"}\n{', headers={"content-type": "application/jsonl"}
    )

    assert check_problem(array, 422)["errors"][0]["pointer"] == "/1/text"
    assert check_problem(lines, 400)["detail"].startswith("line 2:")
    check_problem(http.post("/v1/documents/batch", json=[]), 422)
    assert lethe.contents == []


def test_a_failed_document_does_not_hide_the_rest_of_its_batch(http):
    replies = http.post("/v1/documents/batch", json=[{"text": "a"}, {"text": "poison"}], headers=WAIT)

    assert replies.status_code == 202
    assert [reply["job"]["status"] for reply in replies.json()] == ["done", "failed"]


def test_memories_are_texts_or_chats(http, lethe):
    messages = [
        {"role": "user", "content": "hi", "at": "2026-01-01T01:00:00+01:00"},
        {"role": "bot", "content": ""},
    ]

    text = http.post("/v1/memories", json={"text": "tea", "user_id": "bob"}, headers=WAIT)
    chat = http.post("/v1/memories", json={"messages": messages, "user_id": "eve"}, headers=WAIT)

    assert text.status_code == chat.status_code == 201
    assert lethe.contents[0].kind == lethe.contents[1].kind == "memory"
    assert lethe.contents[1].media_type == MESSAGES_MEDIA_TYPE
    assert json.loads(lethe.contents[1].body) == [
        {"role": "user", "content": "hi", "at": "2026-01-01T00:00:00Z"},
        {"role": "bot", "content": ""},
    ]
    mine = http.get("/v1/memories", params={"user_id": "bob"}).json()
    assert [item["id"] for item in mine["items"]] == [text.json()["id"]]
    assert http.get("/v1/documents").json()["items"] == []


def test_listings_are_paged(http):
    for number in range(7):
        http.post("/v1/documents", json={"text": f"d{number}"})
    pages, cursor = [], None
    while True:
        page = http.get("/v1/documents", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        pages.append([item["id"] for item in page["items"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({id for page in pages for id in page}) == 7
    assert len(http.get("/v1/jobs", params={"limit": 2}).json()["items"]) == 2


def test_a_listed_document_has_no_text_and_a_single_one_has(http):
    http.post("/v1/documents", json={"text": "tide", **FIELDS}, headers=WAIT)

    [item] = http.get("/v1/documents").json()["items"]
    whole = http.get(f"/v1/documents/{item['id']}")

    assert item == {
        "id": "s1", "external_id": "a/b.md", "version": 1, "title": "Harbour", "subjects": [], "metadata": {},
        "user_id": "bob", "agent_id": "agent", "run_id": "run", "occurred_at": "2026-03-01T09:00:00Z",
        "recorded_at": "2026-03-01T00:00:00Z", "passages": 1,
    }  # fmt: skip
    assert whole.json() == {**item, "text": "tide"}
    assert whole.headers["cache-control"] == "no-store"
