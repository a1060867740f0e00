"""A document that came as a multipart form: its text fields read as the JSON they stand for."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from api.bodies import Form, parse_json, validate
from api.media import media_type_of_file
from api.problems import InvalidFieldsError, MalformedBodyError
from api.schemas import AttributesRequest
from memory.values import Content

_AS_JSON = ("metadata", "number", "start_ms", "end_ms")
_FIELDS: TypeAdapter[AttributesRequest] = TypeAdapter(AttributesRequest)


def form_content(form: Form) -> Content:
    """Return what is to be remembered: the file, with the attributes of the fields beside it."""
    attributes = validate(_FIELDS, form_fields(form.fields)).attributes()
    media_type = media_type_of_file(form.media_type, form.filename, form.body)
    return Content("document", media_type, form.body, attributes, form.filename)


def form_fields(sent: dict[str, list[str]]) -> dict[str, Any]:
    """Return text fields as JSON: ``subjects`` repeated or one array, the rest of ``_AS_JSON``."""
    fields: dict[str, Any] = {}
    for name, values in sent.items():
        if name == "subjects":
            fields[name] = _subjects(values)
        elif len(values) > 1:
            raise InvalidFieldsError([(f"/{name}", "given more than once")])
        elif name in _AS_JSON:
            fields[name] = _json_field(name, values[0])
        else:
            fields[name] = values[0]
    return fields


def _subjects(values: list[str]) -> Any:
    if len(values) == 1 and values[0].lstrip().startswith("["):
        return _json_field("subjects", values[0])
    return values


def _json_field(name: str, text: str) -> Any:
    try:
        return parse_json(text.encode())
    except MalformedBodyError as error:
        raise InvalidFieldsError([(f"/{name}", error.what)]) from error
