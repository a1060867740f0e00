"""Reading request bodies: bounded while they arrive, strict in what they may hold.

JSON with duplicate keys, NaN, lone surrogates, NUL characters or deep nesting is refused: two readers of such
a body may understand different things, and what is forgotten must be what was remembered.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio.to_thread
import orjson
from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from api.problems import BodyTooLargeError, InvalidFieldsError, MalformedBodyError, invalid_fields
from memory.errors import InvalidInputError, UnsupportedMediaError

JSON = "application/json"
JSON_LINES = ("application/x-ndjson", "application/jsonl")
MULTIPART = "multipart/form-data"

MAX_DEPTH = 64
MAX_FORM_FIELDS = 200
MAX_FIELD_BYTES = 1 << 20
_OVER_A_LIMIT = ("Too many", "Field exceeded", "Part exceeded")
"""How Starlette's parser begins to say that a form has more fields or files, or larger ones, than it may."""

Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: the file and the text fields, each with every value it was sent with."""

    filename: str | None
    media_type: str | None
    body: bytes
    fields: dict[str, list[str]] = field(default_factory=dict)


def media_type_of(request: Request) -> str:
    """Return the content type without its parameters, in lower case; JSON where none is said."""
    return request.headers.get("content-type", JSON).split(";")[0].strip().lower()


async def iter_body(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; ``BodyTooLargeError`` as soon as it is known to be too large."""
    limit: int = request.app.state.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLargeError(limit)
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLargeError(limit)
            yield chunk
    except ClientDisconnect as error:
        raise MalformedBodyError("the connection ended before the body did") from error


async def read_body(request: Request) -> bytes:
    """Return the whole body."""
    body = bytearray()
    async for chunk in iter_body(request):
        body += chunk
    return bytes(body)


async def read_json(request: Request, model: type[Model]) -> Model:
    """Return the body as ``model``."""
    media_type = media_type_of(request)
    if media_type != JSON:
        raise UnsupportedMediaError(media_type, (JSON,))
    body = await read_body(request)
    return await anyio.to_thread.run_sync(lambda: validate(TypeAdapter(model), parse_json(body)))


async def read_list(request: Request, items: TypeAdapter[list[Item]], *, limit: int) -> list[Item]:
    """Return the body, a JSON array or JSON Lines, as a list of at most ``limit`` items."""
    media_type = media_type_of(request)
    if media_type not in (JSON, *JSON_LINES):
        raise UnsupportedMediaError(media_type, (JSON, *JSON_LINES))
    body = await read_body(request)

    def parse() -> Any:
        return parse_json(body) if media_type == JSON else parse_json_lines(body, limit=limit)

    return await anyio.to_thread.run_sync(lambda: validate(items, parse()))


async def read_form(request: Request) -> Form:
    """Return a multipart body with one file, named ``file``.

    The file stays in memory: a spooled temporary file would leave its bytes on a disk no forget reaches.
    """
    parser = MultiPartParser(
        request.headers,
        iter_body(request),
        max_files=1,
        max_fields=MAX_FORM_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    parser.spool_max_size = request.app.state.max_body_bytes + 1
    try:
        parts = await parser.parse()
        for name, value in parts.multi_items():
            (name + (value if isinstance(value, str) else value.filename or "")).encode()
    except MultiPartException as error:
        if error.message.startswith(_OVER_A_LIMIT):
            raise InvalidFieldsError([("", error.message)]) from error
        raise MalformedBodyError(error.message) from error
    except UnicodeError as error:
        raise MalformedBodyError("a field is not text in its character set") from error
    fields: dict[str, list[str]] = {}
    upload: UploadFile | None = None
    for name, value in parts.multi_items():
        if isinstance(value, str):
            check_texts({name: value})
            fields.setdefault(name, []).append(value)
        elif name == "file":
            upload = value
        else:
            raise InvalidFieldsError([("", "the file belongs in the field 'file'")])
    if upload is None:
        raise InvalidFieldsError([("/file", "Field required")])
    try:
        body = await upload.read()
    finally:
        await upload.close()
    if not body:
        raise InvalidFieldsError([("/file", "the file is empty")])
    return Form(upload.filename or None, upload.content_type, body, fields)


def parse_json(body: bytes) -> Any:
    """Return a JSON body's value, or refuse what is not plain, unambiguous JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"not JSON: {error.msg} at line {error.lineno}") from error
    check_texts(value)
    try:
        json.loads(body, object_pairs_hook=_refuse_duplicates)
    except (RecursionError, ValueError) as error:
        raise MalformedBodyError("not JSON: a number or a nesting is beyond all measure") from error
    return value


def parse_json_lines(body: bytes, *, limit: int) -> list[Any]:
    """Return one value per line that is not blank; ``InvalidFieldsError`` beyond ``limit`` of them."""
    values: list[Any] = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            if len(values) == limit:
                raise InvalidFieldsError([("", f"more than {limit} lines; send them in several batches")])
            try:
                values.append(parse_json(line))
            except MalformedBodyError as error:
                raise MalformedBodyError(error.what, where=f"line {number}") from error
    return values


def check_texts(value: Any) -> None:
    """Refuse NUL characters, which no text store keeps alike, and nesting beyond ``MAX_DEPTH``."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            if "\0" in item:
                raise InvalidInputError("a text holds a NUL character", where="the body")
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise MalformedBodyError(f"nested deeper than {MAX_DEPTH} levels")
            children = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            pending.extend((child, depth + 1) for child in children)


def validate(adapter: TypeAdapter[Item], value: Any) -> Item:
    """Return the value as the adapter's type; ``InvalidFieldsError`` names every field that is wrong."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise invalid_fields(error) from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedBodyError("not JSON: an object has the same key twice")
    return members
