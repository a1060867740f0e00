"""Bodies: bounded, strict, and never a reason for a 5xx."""

from __future__ import annotations

import json

import pytest
from doors import check_problem, client_of
from fake_lethe import FakeLethe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LETHE = FakeLethe()
HTTP = client_of(LETHE)
JSON = {"content-type": "application/json"}
PATHS = ["/v1/documents", "/v1/documents/batch", "/v1/memories", "/v1/recall", "/v1/answer", "/v1/forget"]
FIELDS = [
    "text", "title", "external_id", "subjects", "metadata", "user_id", "occurred_at", "query", "limit",
    "filter", "as_of", "stream", "scope", "mode", "messages", "role", "content", "ids", "time_range", "from",
]  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["execute", "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=values)
def test_no_json_is_answered_with_a_server_error(path, value):
    response = HTTP.post(path, content=json.dumps(value).encode("utf-8", "surrogatepass"), headers=JSON)

    assert response.status_code < 500
    if response.status_code >= 400:
        check_problem(response, response.status_code)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_bytes_are_answered_with_a_server_error(path, body):
    for media_type in ("application/json", "application/x-ndjson", "multipart/form-data; boundary=x", "a/b"):
        response = HTTP.post(path, content=body, headers={"content-type": media_type})

        assert 400 <= response.status_code < 500
        check_problem(response, response.status_code)


@settings(max_examples=60, deadline=None)
@given(
    headers=st.lists(st.sampled_from([b'name="file"; filename="a"', b'name="text"', b'name="metadata"', b'name="\xff"', b""])),
    body=st.binary(max_size=60),
    charset=st.sampled_from(["", "; charset=utf-7", "; charset=raw_unicode_escape", "; charset=idna", "; charset=rot13"]),
)  # fmt: skip
def test_no_form_is_answered_with_a_server_error(headers, body, charset):
    parts = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + header + b"\r\n\r\n" + body + b"\r\n"
        for header in headers
    )
    media_type = f"multipart/form-data; boundary=x{charset}"

    response = HTTP.post("/v1/documents", content=parts + b"--x--\r\n", headers={"content-type": media_type})

    assert response.status_code < 500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"query": "a", "query": "b"}', 400),
        (b'{"query": "a", "filter": {"a": 1, "a": 2}}', 400),
        (b'{"query": NaN}', 400),
        (b'{"query": "a", "limit": Infinity}', 400),
        (b'{"query": "a", "limit": 1e999}', 400),
        (b'{"query": "\\ud800"}', 400),
        (b'{"query": "\xed\xa0\x80"}', 400),
        (b'\xef\xbb\xbf{"query": "a"}', 400),
        (b'{"query": "a", "filter": ' + b'{"a":' * 900 + b"1" + b"}" * 901, 400),
        (b'{"query": "a", "filter": ' + b'{"a":' * 90 + b"1" + b"}" * 91, 400),
        (b"[" * 100_000, 400),
        (b'{"query": "a", "limit": ' + b"1" * 5000 + b"}", 400),
        (b'{"query": "a\\u0000b"}', 422),
        (b'{"query": "a", "filter": {"\\u0000": 1}}', 422),
        (b'{"query": "a", "limit": true}', 422),
        (b'{"query": "a", "limit": "5"}', 422),
        (b'{"query": "a", "limit": 1000000}', 422),
        (b'{"query": " "}', 422),
        (b'{"query": 5}', 422),
        (b'{"query": "a", "unknown": 1}', 422),
        (b'{"query": "a", "as_of": 5}', 422),
        (b'{"query": "a", "as_of": "2026-02-30T00:00:00Z"}', 422),
        (b'{"query": "a", "as_of": "0001-01-01T00:00:00+14:00"}', 422),
        (b'{"query": "a", "filter": {"$bad": 1}}', 422),
        (b'["query"]', 422),
        (b"null", 422),
    ],
)
def test_what_is_not_plain_json_is_refused(http, body, status):
    check_problem(http.post("/v1/recall", content=body, headers=JSON), status)


def test_findings_name_the_field_and_do_not_repeat_what_was_sent(http):
    body = {"text": "x", "subjects": ["a", 5], "metadata": [], "secret-name": "secret-value"}

    response = http.post("/v1/documents", json=body)

    pointers = [found["pointer"] for found in check_problem(response, 422)["errors"]]
    assert pointers == ["/subjects/1", "/metadata", "/secret-name"]
    assert "secret-value" not in response.text


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x", "subjects": ["a"] * 201},
        {"text": "x", "subjects": [""]},
        {"text": "x", "title": "t" * 1001},
        {"text": "x", "metadata": {"k": "v" * 70_000}},
        {"text": "x", "occurred_at": "2026-01-01"},
        {"text": ""},
        {},
    ],
)
def test_documents_have_limits(http, body):
    check_problem(http.post("/v1/documents", json=body), 422)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "messages": [{"role": "user", "content": "b"}]},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": "a", "extra": 1}]},
    ],
)
def test_a_memory_is_a_text_or_messages(http, body):
    check_problem(http.post("/v1/memories", json=body), 422)


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"ids": []},
        {"ids": None},
        {"filter": {}},
        {"time_range": {}},
        {"time_range": {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}},
        {"user_id": ""},
        {"everything": True},
    ],
)
def test_a_scope_that_selects_nothing_in_particular_is_refused(http, lethe, scope):
    check_problem(http.post("/v1/forget", json={"scope": scope, "mode": "execute"}), 422)
    assert lethe.scopes == []


def test_a_forget_needs_its_mode(http):
    check_problem(http.post("/v1/forget", json={"scope": {"ids": ["a"]}}), 422)


@pytest.mark.parametrize("path", ["/v1/recall", "/v1/documents/batch", "/v1/documents"])
def test_other_media_types_are_refused(http, path):
    check_problem(http.post(path, content=b"<a/>", headers={"content-type": "text/xml"}), 415)


def test_a_large_body_is_refused_before_it_is_read(lethe):
    http = client_of(lethe, max_body_bytes=1000)
    read = []

    def endless():
        for _ in range(100):
            read.append(1)
            yield b" " * 100

    declared = http.post("/v1/documents", content=b" " * 1001, headers=JSON)
    streamed = http.post("/v1/documents", content=endless(), headers=JSON)
    form = http.post("/v1/documents", files={"file": ("a.txt", b"a" * 2000)})

    for response in (declared, streamed, form):
        check_problem(response, 413)
        assert response.headers["connection"] == "close"
    assert http.post("/v1/documents", json={"text": "short"}).status_code == 202
