"""Keys, contents and subjects stand in no log line, and in no error that the service words itself."""

from __future__ import annotations

import io
import json
import logging

import httpx2
import pytest
import structlog
from doors import serving_app
from real import real_service, tiny_encoder

from service.wiring import configure_logs

BODY = "quicksilver-body"
SUBJECT = "person:quicksilver-subject"
QUERY = "quicksilver-query"
NAME = "quicksilver-name"
LABEL = "quicksilver-label"


@pytest.fixture
def service(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened


@pytest.fixture
def logged(monkeypatch):
    """Everything that is logged or printed: structlog as the service sets it up, and every logger below it."""
    captured = io.StringIO()
    monkeypatch.setattr("sys.stderr", captured)
    configure_logs("DEBUG")
    handler = logging.StreamHandler(captured)
    handler.addFilter(lambda record: not record.name.startswith("http"))  # this test's own client
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield captured
    root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def iter_requests(id: str):
    """Yield requests of every kind, well-formed and broken, full of secrets."""
    said = {"text": f"the {BODY} is here", "subjects": [SUBJECT], "external_id": NAME, "user_id": NAME}
    yield "POST", "/v1/documents", {"json": said}
    yield "POST", "/v1/documents/batch", {"json": [said, said]}
    yield "POST", "/v1/documents/batch", {"content": f'{{"text": "{BODY}'.encode()}
    yield "POST", "/v1/memories", {"json": said}
    yield "POST", "/v1/memories", {"json": {"messages": [{"role": "user", "content": BODY}]}}
    yield "POST", "/v1/recall", {"json": {"query": QUERY, "filter": {"subjects": SUBJECT}}}
    yield "POST", "/v1/answer", {"json": {"query": QUERY}}
    yield "POST", "/v1/answer", {"json": {"query": QUERY, "stream": True}}
    yield "PUT", f"/v1/documents/{id}", {"json": said}
    yield "GET", f"/v1/documents/{id}", {}
    yield "GET", "/v1/memories", {"params": {"user_id": NAME}}
    yield "POST", "/v1/keys", {"json": {"name": LABEL, "roles": ["read"]}}
    yield "GET", "/v1/keys", {}
    yield "POST", "/v1/forget", {"json": {"scope": {"subjects": [SUBJECT]}, "mode": "preview"}}
    # Broken ones: what was wrong is said by its place, not by repeating it.
    yield "POST", "/v1/documents", {"json": {**said, "metadata": BODY}}
    yield "POST", "/v1/documents", {"json": {**said, "subjects": SUBJECT}}
    yield "POST", "/v1/documents", {"content": f'{{"text": "{BODY}", "text": "{BODY}"}}'.encode()}
    yield "POST", "/v1/documents", {"content": BODY.encode(), "headers": {"content-type": "text/xml"}}
    yield "POST", "/v1/documents", {"files": {"file": (f"{NAME}.pdf", BODY.encode())}}
    yield "POST", "/v1/documents", {"files": {"other": (NAME, BODY.encode())}}
    yield "POST", "/v1/recall", {"json": {"query": QUERY, "limit": 100_000, "as_of": SUBJECT}}
    yield "POST", "/v1/forget", {"json": {"scope": {"subjects": SUBJECT}, "mode": BODY}}
    yield "POST", "/v1/keys", {"json": {"name": LABEL, "roles": [SUBJECT]}}
    yield "GET", "/v1/memories", {"params": {"user_id": NAME, "limit": SUBJECT, "cursor": BODY}}
    yield "GET", "/v1/nowhere", {"params": {"key": SUBJECT}}
    yield "POST", "/v1/tenants", {"json": {"id": SUBJECT}}
    yield "DELETE", "/v1/recall", {"params": {"q": QUERY}}
    yield "POST", "/v1/forget", {"json": {"scope": {"subjects": [SUBJECT]}, "mode": "execute"}}


def test_no_secret_is_logged_or_told_in_an_error(service, logged, monkeypatch):
    admin = service.key("admin")
    secrets = [admin, admin.removeprefix("lethe_"), BODY, SUBJECT, QUERY, NAME, LABEL]
    problems = []
    with (
        serving_app(service.app, lifespan="off") as port,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        key = {"authorization": f"Bearer {admin}"}
        id = http.post("/v1/memories", json={"text": BODY}, headers=key).json()["id"]
        for wrong in (f"Bearer {admin}x", f"Basic {admin}", f"Bearer {admin} {admin}"):
            problems.append(http.get("/v1/stats", headers={"authorization": wrong}))
        for method, path, request in iter_requests(id):
            headers = {**key, **request.pop("headers", {})}
            problems.append(http.request(method, path, headers=headers, **request))
        monkeypatch.setattr(service.lethe.access, "list_keys", fail)
        problems.append(http.get("/v1/keys", headers=key))

    refused = [reply for reply in problems if reply.status_code >= 400]
    assert {401, 404, 405, 400, 415, 422, 500} <= {reply.status_code for reply in refused}
    assert len(problems) - len(refused) >= 12, "the control: the well-formed ones went through"
    for reply in refused:
        for secret in secrets:
            assert secret not in reply.text, reply.request.url
    lines = logged.getvalue()
    requests = [json.loads(line) for line in lines.splitlines() if '"event": "request"' in line]
    assert len(requests) == len(problems) + 1
    for secret in secrets:
        assert secret not in lines
    key_ids = {line["key"] for line in requests}
    assert service.lethe.authenticate(admin).key_id in key_ids, "which key asked is told by its id"


def fail(*_: object, **__: object) -> None:
    raise RuntimeError(f"{BODY} {SUBJECT} in an error nobody foresaw")
