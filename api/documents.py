"""Documents over HTTP: remember, update, list, read and forget them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import Caller, ForgetCaller, ReadCaller, WriteCaller
from api.bodies import (
    JSON,
    JSON_LINES,
    MULTIPART,
    media_type_of,
    parse_json,
    read_form,
    read_json,
    read_list,
)
from api.fenced import FencedResponse
from api.forget import forget_scope
from api.forms import form_content
from api.openapi import FORM, PROBLEM, reference, reply
from api.parameters import AsOf, Cursor, Filter, Id, Limit, Pending, UserId
from api.problems import MalformedBodyError
from api.remembering import remember_batch, remember_one
from api.replies import ForgetReply, RememberedReply, SourcePage, SourceReply, source_page, source_reply
from api.schemas import DOCUMENTS, MAX_BATCH, DocumentRequest
from api.waiting import PREFER
from memory.errors import ForgottenError, InvalidInputError, UnsupportedMediaError
from memory.values import Content, EntryKind, JsonValue, SourceId
from service.views import Scope

router = APIRouter(prefix="/v1/documents", tags=["documents"], responses=PROBLEM)


ACKNOWLEDGED = {"id": "5b0c", "version": 1, "job": {"id": "91fe", "status": "queued"}}
FINISHED = {"id": "5b0c", "version": 1, "passages": 12, "job": {"id": "91fe", "status": "done"}}
REMEMBERED: dict[int | str, dict[str, Any]] = {
    201: reply("Remembered and indexed (with `Prefer: wait=N`)", RememberedReply, FINISHED),
    202: reply("Remembered; a job indexes it", RememberedReply, ACKNOWLEDGED),
}

FORGOTTEN: dict[int | str, dict[str, Any]] = {
    200: reply("Certified in time (with `Prefer: wait=N`)", ForgetReply),
    202: reply("Fenced; a job erases it", ForgetReply),
}

BODY: dict[str, Any] = {
    **PREFER,
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": reference(DocumentRequest)}, MULTIPART: {"schema": FORM}},
    },
}
BATCH: dict[str, Any] = {
    **PREFER,
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"type": "array", "minItems": 1, "items": reference(DocumentRequest)}},
            **{
                lines: {"schema": {"type": "string", "description": "one document as JSON per line"}}
                for lines in JSON_LINES
            },
        },
    },
}


@router.post("", status_code=202, responses=REMEMBERED, openapi_extra=BODY)
async def remember_document(request: Request, caller: WriteCaller) -> Response:
    """Remember a document: text as JSON, or a file as multipart."""
    return await remember_one(request, caller, await read_document(request))


@router.post(
    "/batch",
    status_code=202,
    responses={
        201: reply("All remembered and indexed (with `Prefer: wait=N`)", list[RememberedReply], [FINISHED]),
        202: reply("Remembered; jobs index them", list[RememberedReply], [ACKNOWLEDGED]),
    },
    openapi_extra=BATCH,
)
async def remember_documents(request: Request, caller: WriteCaller) -> Response:
    """Remember many documents; the replies stand in the order of the request."""
    documents = await read_list(request, DOCUMENTS, limit=MAX_BATCH)
    return await remember_batch(request, caller, [document.content() for document in documents])


@router.put("/{id}", status_code=202, responses=REMEMBERED, openapi_extra=BODY)
async def update_document(request: Request, caller: WriteCaller, id: Id) -> Response:
    """Remember a new version of a document; the old one is still found through `as_of`."""
    return await remember_one(request, caller, await read_document(request), source_id=SourceId(id))


@router.delete("/{id}", status_code=202, responses=FORGOTTEN, openapi_extra=PREFER)
async def forget_document(request: Request, caller: ForgetCaller, id: Id) -> Response:
    """Forget a document, all its versions and all that was made of it."""
    with suppress(ForgottenError):  # asked for again: nothing is left to do, and the reply says so
        await anyio.to_thread.run_sync(lambda: caller.lethe.get_source(caller.tenant_id, SourceId(id)))
    return await forget_scope(request, caller, Scope(ids=(id,)), preview=False)


@router.get("", responses={200: reply("One page of documents", SourcePage)})
def list_documents(
    caller: ReadCaller,
    limit: Limit = 50,
    cursor: Cursor = None,
    user_id: UserId = None,
    filter: Filter = None,
    pending: Pending = False,
) -> Response:
    """List documents in their newest versions."""
    condition = None if filter is None else _read_filter(filter)
    return list_sources(
        caller, "document", user_id=user_id, cursor=cursor, limit=limit, filter=condition, pending=pending
    )


def _read_filter(text: str) -> JsonValue:
    try:
        value: JsonValue = parse_json(text.encode())
    except MalformedBodyError as error:
        raise InvalidInputError(error.what, where="filter") from error
    return value


@router.get("/{id}", responses={200: reply("The document with its extracted text", SourceReply)})
def get_document(caller: ReadCaller, id: Id, as_of: AsOf = None) -> Response:
    """Return a document with the text its spans refer to."""

    def produce() -> SourceReply:
        return source_reply(caller.lethe.get_source(caller.tenant_id, SourceId(id), as_of=as_of))

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


def list_sources(
    caller: Caller,
    kind: EntryKind,
    *,
    user_id: str | None,
    cursor: str | None,
    limit: int,
    filter: JsonValue = None,
    pending: bool = False,
) -> Response:
    """List documents or memories, a page at a time."""

    def produce() -> SourcePage:
        return source_page(
            caller.lethe.list_sources(
                caller.tenant_id,
                kind=kind,
                user_id=user_id,
                cursor=cursor,
                limit=limit,
                filter=filter,
                pending=pending,
            )
        )

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


async def read_document(request: Request) -> Content:
    """Return the document in a request's body, whichever form it came in."""
    media_type = media_type_of(request)
    if media_type == JSON:
        return (await read_json(request, DocumentRequest)).content()
    if media_type == MULTIPART:
        return form_content(await read_form(request))
    raise UnsupportedMediaError(media_type, (JSON, MULTIPART))
