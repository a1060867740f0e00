"""The OpenAPI document is whole, and the logs hold no contents."""

from __future__ import annotations

import json

import jsonschema
import pytest
from structlog.testing import capture_logs

from api.openapi import REQUESTS

CONTRACT = {
    "/v1/documents": {"get", "post"},
    "/v1/documents/batch": {"post"},
    "/v1/documents/{id}": {"get", "put", "delete"},
    "/v1/sources/{id}/frame": {"get"},
    "/v1/sources/{id}/clip": {"get"},
    "/v1/memories": {"get", "post"},
    "/v1/streams": {"get", "post"},
    "/v1/streams/{id}": {"get", "delete"},
    "/v1/streams/{id}/close": {"post"},
    "/v1/streams/{id}/events": {"get"},
    "/v1/streams/{id}/passages": {"get"},
    "/v1/streams/{id}/segments": {"post"},
    "/v1/watches": {"get", "post"},
    "/v1/watches/{id}": {"get", "delete"},
    "/v1/recall": {"post"},
    "/v1/topics": {"get"},
    "/v1/nodes/{id}": {"get"},
    "/v1/answer": {"post"},
    "/v1/forget": {"post"},
    "/v1/forget/{id}": {"get"},
    "/v1/forget/{id}/certificate": {"get"},
    "/v1/jobs": {"get"},
    "/v1/jobs/{id}": {"get"},
    "/v1/jobs/{id}/cancel": {"post"},
    "/v1/jobs/{id}/retry": {"post"},
    "/v1/stats": {"get"},
    "/v1/rebuild": {"post"},
    "/v1/keys": {"get", "post"},
    "/v1/keys/{id}": {"delete"},
    "/v1/keys/{id}/rotate": {"post"},
    "/v1/tenants": {"get", "post"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture
def document(http):
    return http.get("/openapi.json").json()


def iter_references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for item in value.values():
            yield from iter_references(item)
    elif isinstance(value, list):
        for item in value:
            yield from iter_references(item)


def test_every_route_of_the_contract_is_described_and_no_other(document):
    described = {path: set(operations) for path, operations in document["paths"].items()}

    assert described == CONTRACT
    for operations in document["paths"].values():
        for operation in operations.values():
            problem = operation["responses"]["default"]["content"]
            assert list(problem) == ["application/problem+json"]
            assert operation["summary"]


def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]
    references = set(iter_references(document))

    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= schemas.keys()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_example_is_valid(document):
    """Examples are what people paste: each fits its own schema and is taken by the service's models."""
    shown = 0
    for model in REQUESTS:
        schema = document["components"]["schemas"][model.__name__]
        whole = {**schema, "components": document["components"]}
        for example in schema.get("examples", []):
            jsonschema.validate(example, whole)
            model.model_validate(example)
            shown += 1
    assert shown >= 7


def test_the_requests_need_a_key_except_for_operations(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == path.startswith("/v1/")


def test_logs_tell_routes_and_times_and_no_contents(http, lethe):
    with capture_logs() as lines:
        http.post("/v1/documents", json={"text": "SECRET text", "external_id": "SECRET-id"})
        http.post("/v1/recall", json={"query": "SECRET text"})
        http.get("/v1/documents/SECRET", params={"cursor": "SECRET"})
        lethe.error = RuntimeError("SECRET in an exception")
        http.post("/v1/recall", json={"query": "SECRET"})

    assert "SECRET" not in json.dumps(lines)
    assert "admin-key" not in json.dumps(lines)
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in requests] == [
        ("POST", "/v1/documents", 202),
        ("POST", "/v1/recall", 200),
        ("GET", "/v1/documents/{id}", 404),
        ("POST", "/v1/recall", 500),
    ]
    assert all(line["ms"] >= 0 and line["request_id"] for line in requests)
    [failure] = [line for line in lines if line["event"] == "request failed"]
    assert failure["error"] == "RuntimeError"
    assert any("fake_lethe" in frame for frame in failure["frames"])
