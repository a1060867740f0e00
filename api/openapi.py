"""The OpenAPI description: bodies are read by ``api.bodies``, so they are described by hand here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.problems import PROBLEM_MEDIA_TYPE
from api.schemas import (
    AnswerRequest,
    AttributesRequest,
    DocumentRequest,
    ForgetRequest,
    KeyRequest,
    MemoryRequest,
    RecallRequest,
    RotateRequest,
    TenantRequest,
)
from api.stream_schemas import RecordedPart, SegmentRequest, StreamRequest
from api.watch_schemas import WatchRequest

REF = "#/components/schemas/{model}"

PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": REF.format(model="ProblemReply")}}},
    }
}
"""Goes into every route's ``responses``."""

PROBLEM_EXAMPLE = {
    "type": "urn:lethe:problem:not-found",
    "title": "There is no such thing",
    "status": 404,
    "detail": "there is no document 'b41c'",
    "instance": "/v1/documents/b41c",
}


REQUESTS = (
    AnswerRequest,
    AttributesRequest,
    DocumentRequest,
    ForgetRequest,
    KeyRequest,
    MemoryRequest,
    RecallRequest,
    RecordedPart,
    RotateRequest,
    SegmentRequest,
    StreamRequest,
    TenantRequest,
    WatchRequest,
)
SEGMENT_FORM = {"$ref": REF.format(model="SegmentForm")}
"""Schema of a segment that comes as a file with fields beside it."""
FORM = {"$ref": REF.format(model="DocumentForm")}
"""Schema of a document that comes as a file with fields beside it."""


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return a schema that points to a request model."""
    return {"$ref": REF.format(model=model.__name__)}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference(model)}}}}


def reply(description: str, shape: Any, example: object | None = None) -> dict[str, Any]:
    """Describe a JSON reply."""
    described: dict[str, Any] = {"description": description, "model": shape}
    if example is not None:
        described["content"] = {"application/json": {"example": example}}
    return described


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the app's OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, definitions = models_json_schema([(model, "validation") for model in REQUESTS], ref_template=REF)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(definitions["$defs"])
        schemas["ProblemReply"] = _problem_schema()
        schemas["DocumentForm"] = _form_schema("DocumentForm", schemas[AttributesRequest.__name__])
        schemas["SegmentForm"] = _form_schema("SegmentForm", schemas[RecordedPart.__name__])
        app.openapi_schema = document
    return app.openapi_schema


def _form_schema(title: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        **attributes,
        "title": title,
        "description": "A file, with what is said about it.",
        "required": ["file", *attributes.get("required", ())],
        "properties": {"file": {"type": "string", "format": "binary"}, **attributes["properties"]},
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "title": "Problem",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "instance": {"type": "string", "format": "uri-reference"},
            "errors": {
                "type": "array",
                "items": {"type": "object", "properties": {"pointer": text, "detail": text}},
            },
        },
        "examples": [PROBLEM_EXAMPLE],
    }
