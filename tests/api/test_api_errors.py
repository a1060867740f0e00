"""Every error of every route is problem JSON with the status its family has."""

from __future__ import annotations

import json
import socket

import pytest
from doors import check_problem, client_of
from fake_lethe import FakeLethe

from memory.errors import (
    ConflictError,
    CorruptionError,
    DigestMismatchError,
    DimensionMismatchError,
    ForbiddenError,
    ForgottenError,
    InvalidInputError,
    LetheError,
    NotFoundError,
    UnavailableError,
    UnsupportedMediaError,
)

TEXT = {"text": "the harbour opens at seven"}
ROUTES = [
    ("POST", "/v1/documents", TEXT),
    ("PUT", "/v1/documents/s1", TEXT),
    ("DELETE", "/v1/documents/s1", None),
    ("GET", "/v1/documents", None),
    ("GET", "/v1/documents/s1", None),
    ("POST", "/v1/documents/batch", [TEXT]),
    ("POST", "/v1/memories", TEXT),
    ("GET", "/v1/memories", None),
    ("POST", "/v1/recall", {"query": "harbour"}),
    ("POST", "/v1/answer", {"query": "harbour"}),
    ("POST", "/v1/answer", {"query": "harbour", "stream": True}),
    ("POST", "/v1/forget", {"scope": {"ids": ["s1"]}, "mode": "execute"}),
    ("GET", "/v1/forget/f1", None),
    ("GET", "/v1/forget/f1/certificate", None),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs/j1", None),
    ("GET", "/v1/stats", None),
    ("POST", "/v1/rebuild", None),
]
ERRORS = [
    (NotFoundError("document", "s1"), 404, "not-found"),
    (ConflictError("it changed"), 409, "conflict"),
    (InvalidInputError("bad", where="filter"), 422, "invalid-input"),
    (DimensionMismatchError(3, 4), 422, "invalid-input"),
    (UnsupportedMediaError("a/b", ("text/plain",)), 415, "unsupported-media"),
    (ForbiddenError("no"), 403, "forbidden"),
    (UnavailableError("later"), 503, "unavailable"),
    (CorruptionError("secret path"), 500, "corruption"),
    (DigestMismatchError("secret", "a", "b"), 500, "corruption"),
    (ForgottenError("s1"), 410, "forgotten"),
    (LetheError("secret"), 500, "internal"),
    (RuntimeError("secret"), 500, "internal"),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_each_family_has_its_status_on_each_route(http, lethe, method, path, body):
    for error, status, slug in ERRORS:
        lethe.error = error

        response = http.request(method, path, json=body)

        problem = check_problem(response, status)
        assert problem["type"] == f"urn:lethe:problem:{slug}"
        assert problem["instance"] == path
        assert "secret" not in response.text
        assert ("retry-after" in response.headers) == (status == 503)
    assert lethe.holds == 0


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_without_a_known_key_every_route_is_closed(http, method, path, body):
    for headers in ({"authorization": ""}, {"authorization": "Bearer nobody"}, {"authorization": "Basic x"}):
        response = http.request(method, path, json=body, headers=headers)

        check_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")


ROLES = {
    "read-key": {"GET", "/v1/recall", "/v1/answer"},
    "write-key": {"/v1/documents", "/v1/documents/s1", "/v1/documents/batch", "/v1/memories", "/v1/jobs"},
    "forget-key": {"DELETE", "/v1/forget", "/v1/jobs"},
}


@pytest.mark.parametrize("key", ROLES)
@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_a_key_does_what_its_role_may_and_no_more(lethe, key, method, path, body):
    if method == "GET":
        may = key == "read-key" or path.startswith("/v1/jobs") or (key == "forget-key" and "forget" in path)
    else:
        may = (method == "DELETE" and key == "forget-key") or (method != "DELETE" and path in ROLES[key])

    response = client_of(lethe, key).request(method, path, json=body)

    assert (response.status_code == 403) != may, response.text
    if not may:
        check_problem(response, 403)


def test_what_was_forgotten_is_gone_to_the_forget_role_and_unknown_to_others(lethe):
    admin = client_of(lethe)
    id = admin.post("/v1/documents", json=TEXT).json()["id"]
    admin.delete(f"/v1/documents/{id}")

    gone = check_problem(admin.get(f"/v1/documents/{id}"), 410)
    hidden = check_problem(client_of(lethe, "read-key").get(f"/v1/documents/{id}"), 404)
    never = check_problem(client_of(lethe, "read-key").get("/v1/documents/never"), 404)

    assert gone["type"].endswith("forgotten")
    assert hidden["type"] == never["type"]
    assert "forgotten" not in str(hidden)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/", 404),
        ("GET", "/v1/documents/", 404),
        ("PATCH", "/v1/documents", 405),
        ("DELETE", "/v1/recall", 405),
        ("GET", "/v1/documents/a%00b", 422),
        ("GET", "/v1/documents/%ff", 422),
        ("GET", "/v1/documents?limit=0", 422),
        ("GET", "/v1/documents?limit=x", 422),
        ("GET", "/v1/documents?cursor=%00", 422),
        ("GET", "/v1/documents?cursor=zz", 422),
        ("GET", "/v1/memories?user_id=a%00", 422),
        ("GET", "/v1/documents/s1?as_of=yesterday", 422),
        ("GET", "/v1/documents/s1?as_of=2026-01-01T00:00:00", 422),
    ],
)
def test_the_router_speaks_problem_json_too(http, method, path, status):
    check_problem(http.request(method, path), status)


def test_a_wrong_method_is_told_all_the_right_ones(http):
    assert http.request("PATCH", "/v1/documents/s1").headers["allow"] == "DELETE, GET, PUT"
    assert http.request("OPTIONS", "/v1/documents").headers["allow"] == "GET, POST"


def test_what_is_not_http_is_answered_with_a_problem(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        reply = b"".join(iter(lambda: connection.recv(4096), b""))

    head, body = reply.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/problem+json" in head
    assert b"x-request-id" in head
    assert json.loads(body)["status"] == 400


def test_not_ready_says_what_is_missing(http, lethe):
    lethe.ready = False

    problem = check_problem(http.get("/readyz"), 503)

    assert problem["missing"] == {"worker": "not started"}
    assert http.get("/healthz").status_code == 200


def test_the_tenant_comes_from_the_key_alone(lethe):
    id = client_of(lethe).post("/v1/documents", json=TEXT).json()["id"]

    other = client_of(lethe, "other-key")

    check_problem(other.get(f"/v1/documents/{id}"), 404)
    assert other.post("/v1/recall", json={"query": "harbour"}).json()["hits"] == []
    check_problem(other.post("/v1/recall", json={"query": "harbour", "tenant_id": "t1"}), 422)


def test_a_given_request_id_is_kept_and_a_strange_one_replaced(http):
    assert http.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert http.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_the_app_starts_and_stops_the_facade():
    lethe = FakeLethe()
    with client_of(lethe):
        assert lethe.started == 1
    assert lethe.started == 0
