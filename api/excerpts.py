"""Pictures and clips of remembered videos and recordings over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.auth import Caller, ReadCaller
from api.fenced import FencedFile
from api.openapi import PROBLEM
from api.parameters import Id
from memory.values import SourceId
from service.excerpts import JPEG, Excerpt
from sources.media_types import M4A, MKA, MKV, MP4, WEBM

router = APIRouter(prefix="/v1/sources", tags=["sources"], responses=PROBLEM)

START, END = "lethe-start-ms", "lethe-end-ms"
"""Headers that tell what of the source a file is, as the file's own times begin at 0."""
MAX_MS = 10**10
"""Four months: longer than any file."""
SUFFIXES = {JPEG: "jpg", MP4: "mp4", M4A: "m4a", MKV: "mkv", MKA: "mka", WEBM: "webm"}

Moment = Annotated[int, Query(ge=0, le=MAX_MS, description="Milliseconds from the beginning of the file.")]


def _binary(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    count = {"schema": {"type": "integer", "minimum": 0}}
    return {
        200: {
            "description": description,
            "content": {each: {"schema": {"type": "string", "format": "binary"}} for each in media_types},
            "headers": {
                START: {"description": "From when on the source shows this, in milliseconds.", **count},
                END: {"description": "Until when; of a picture the same.", **count},
            },
        }
    }


@router.get(
    "/{id}/frame",
    response_class=Response,
    responses=_binary("What the newest version of a video shows then", JPEG),
)
async def get_frame(request: Request, caller: ReadCaller, id: Id, at_ms: Moment) -> Response:
    """Return what a video shows at a time, as a JPEG, its longer side 1280 pixels at most."""
    return await _send(
        request, caller, "frame", lambda: caller.lethe.get_frame(caller.tenant_id, SourceId(id), at_ms)
    )


@router.get(
    "/{id}/clip",
    response_class=Response,
    responses=_binary("An excerpt that plays from 0", MP4, M4A, WEBM, MKV, MKA),
)
async def get_clip(
    request: Request, caller: ReadCaller, id: Id, start_ms: Moment, end_ms: Moment
) -> Response:
    """Return an excerpt of a video or recording, ten minutes at most.

    Nothing is encoded anew, so that it begins at the last key frame before `start_ms`; headers tell when.
    """
    return await _send(
        request,
        caller,
        "clip",
        lambda: caller.lethe.get_clip(caller.tenant_id, SourceId(id), start_ms, end_ms),
    )


async def _send(request: Request, caller: Caller, name: str, take: Callable[[], Excerpt]) -> Response:
    """Take an excerpt in one of the few threads there are for that, and return it."""
    excerpt = await anyio.to_thread.run_sync(take, limiter=request.app.state.excerpt_threads)
    filename = f"{name}-{excerpt.start_ms}.{SUFFIXES[excerpt.media_type]}"
    return FencedFile(
        caller.lethe,
        caller.tenant_id,
        excerpt.body,
        lambda: caller.lethe.recheck_excerpt(caller.tenant_id, excerpt),
        media_type=excerpt.media_type,
        headers={
            "content-disposition": f'inline; filename="{filename}"',
            "x-content-type-options": "nosniff",
            START: str(excerpt.start_ms),
            END: str(excerpt.end_ms),
        },
    )
