"""Streams over HTTP: opened, fed in segments, looked into while they go on, closed and forgotten."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

import anyio.to_thread
import orjson
from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from api.auth import Caller, ForgetCaller, ReadCaller, WriteCaller
from api.bodies import JSON, MULTIPART, Form, media_type_of, read_form, read_json, validate
from api.documents import FORGOTTEN
from api.fenced import FencedResponse
from api.forget import forget_scope
from api.forms import form_fields
from api.media import media_type_of_file
from api.openapi import PROBLEM, SEGMENT_FORM, json_body, reference, reply
from api.parameters import Cursor, Id, Limit
from api.problems import problem_response
from api.remembering import FINISHED, job_failure
from api.stream_replies import (
    MomentReply,
    SegmentReply,
    StreamPage,
    StreamReply,
    moment_reply,
    segment_reply,
    stream_page,
    stream_reply,
)
from api.stream_schemas import RecordedPart, SegmentRequest, StreamRequest
from api.waiting import PREFER, applied, poll, wait_seconds
from memory.errors import ForgottenError, UnsupportedMediaError
from memory.values import Attributes, Content, SourceId
from service.views import Scope

router = APIRouter(prefix="/v1/streams", tags=["streams"], responses=PROBLEM)

ACKNOWLEDGED = {
    "stream_id": "77aa",
    "number": 4,
    "next_number": 5,
    "id": "5b0c",
    "job": {"id": "91fe", "status": "queued"},
    "unchanged": False,
}
SEGMENT: dict[str, Any] = {
    **PREFER,
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": reference(SegmentRequest)}, MULTIPART: {"schema": SEGMENT_FORM}},
    },
}
LONGEST_MS = 10 * 366 * 86_400_000

_PART: TypeAdapter[RecordedPart] = TypeAdapter(RecordedPart)

StartMs = Annotated[int, Query(ge=0, le=LONGEST_MS, description="Milliseconds of the stream's time.")]
EndMs = Annotated[int, Query(ge=0, le=LONGEST_MS, description="Until here, exclusive.")]


@router.post(
    "",
    status_code=201,
    responses={
        200: reply("It was open already; go on with `next_number`", StreamReply),
        201: reply("Opened", StreamReply),
    },
    openapi_extra=json_body(StreamRequest),
)
async def open_stream(request: Request, caller: WriteCaller) -> Response:
    """Open a stream; one of the same `external_id` that is open is gone on with."""
    asked = await read_json(request, StreamRequest)
    streams, tenant_id = caller.lethe.streams, caller.tenant_id
    view, fresh = await anyio.to_thread.run_sync(
        lambda: streams.open(tenant_id, asked.kind, asked.attributes())
    )
    return _shown(caller, view.id, 201 if fresh else 200)


@router.post(
    "/{id}/segments",
    status_code=202,
    responses={
        200: reply("Received before; nothing changed", SegmentReply),
        201: reply("Received and searchable (with `Prefer: wait=N`)", SegmentReply),
        202: reply("Received; a job makes it searchable", SegmentReply, ACKNOWLEDGED),
    },
    openapi_extra=SEGMENT,
)
async def append_segment(request: Request, caller: WriteCaller, id: Id) -> Response:
    """Append a segment: cues as JSON, or a file as multipart with its number and times.

    Sending a number again changes nothing. 429 says that too many segments wait to be read.
    """
    stream_id = SourceId(id)
    content = await _read_segment(request, stream_id)
    lethe, tenant_id = caller.lethe, caller.tenant_id
    received = await anyio.to_thread.run_sync(lambda: lethe.streams.append(tenant_id, stream_id, content))
    job, seconds = received.job, wait_seconds(request)
    if job is not None and seconds is not None:
        job_id = job.id
        job = await poll(
            request,
            lambda: lethe.get_job(tenant_id, job_id),
            lambda job: job.status in FINISHED,
            timeout_seconds=seconds,
        )
        if job.status == "failed":
            return problem_response(job_failure(request, job), applied(seconds))
    done = job is not None and seconds is not None and job.status == "done"
    status = 200 if received.unchanged else 201 if done else 202
    return _told(segment_reply(received, job), status, applied(seconds))


@router.post("/{id}/close", responses={200: reply("The stream, closed", StreamReply)})
async def close_stream(caller: WriteCaller, id: Id) -> Response:
    """Take no more segments; what was received is made searchable still."""
    await anyio.to_thread.run_sync(lambda: caller.lethe.streams.close(caller.tenant_id, SourceId(id)))
    return _shown(caller, SourceId(id), 200)


@router.get("", responses={200: reply("One page of streams, newest first", StreamPage)})
def list_streams(caller: ReadCaller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List streams."""

    def produce() -> StreamPage:
        return stream_page(caller.lethe.streams.list(caller.tenant_id, cursor=cursor, limit=limit))

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


@router.get("/{id}", responses={200: reply("The stream as far as it has come", StreamReply)})
def get_stream(caller: ReadCaller, id: Id) -> Response:
    """Return a stream and which segment is expected next."""

    def produce() -> StreamReply:
        return stream_reply(caller.lethe.streams.get(caller.tenant_id, SourceId(id)))

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


@router.get(
    "/{id}/passages", responses={200: reply("What is said and shown then, in order", list[MomentReply])}
)
def list_moments(
    caller: ReadCaller, id: Id, start_ms: StartMs = 0, end_ms: EndMs = LONGEST_MS, limit: Limit = 100
) -> Response:
    """Return what is said and shown in a stretch of the stream's time: before and after a hit, say."""

    def produce() -> list[MomentReply]:
        found = caller.lethe.streams.list_moments(
            caller.tenant_id, SourceId(id), start_ms, end_ms, limit=limit
        )
        return [moment_reply(moment) for moment in found]

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


@router.delete("/{id}", status_code=202, responses=FORGOTTEN, openapi_extra=PREFER)
async def forget_stream(request: Request, caller: ForgetCaller, id: Id) -> Response:
    """Forget a stream: what was said of it, all its segments and all that was made of them."""
    with suppress(ForgottenError):  # asked for again: nothing is left to do, and the reply says so
        await anyio.to_thread.run_sync(lambda: caller.lethe.streams.get(caller.tenant_id, SourceId(id)))
    return await forget_scope(request, caller, Scope(ids=(id,)), preview=False)


def _shown(caller: Caller, stream_id: SourceId, status: int) -> Response:
    """Return a stream under the fence; to a key that may not read, nothing of what was said of it."""

    def produce() -> StreamReply:
        view = caller.lethe.streams.get(caller.tenant_id, stream_id)
        if not caller.principal.roles & {"read", "admin"}:
            said = Attributes(external_id=view.attributes.external_id)
            view = replace(view, attributes=said)
        return stream_reply(view)

    response = FencedResponse(caller.lethe, caller.tenant_id, produce)
    response.status_code = status
    return response


async def _read_segment(request: Request, stream_id: SourceId) -> Content:
    """Return the segment in a request's body, whichever form it came in."""
    media_type = media_type_of(request)
    if media_type == JSON:
        return (await read_json(request, SegmentRequest)).content(stream_id)
    if media_type == MULTIPART:
        return _segment_of(await read_form(request), stream_id)
    raise UnsupportedMediaError(media_type, (JSON, MULTIPART))


def _segment_of(form: Form, stream_id: SourceId) -> Content:
    part = validate(_PART, form_fields(form.fields))
    media_type = media_type_of_file(form.media_type, form.filename, form.body)
    attributes = part.attributes(stream_id, part.start_ms, part.end_ms)
    return Content("segment", media_type, form.body, attributes, form.filename)


def _told(body: object, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")
