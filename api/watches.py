"""Watches over HTTP: queries that stand, with what matched them lately."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import anyio.to_thread
import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.auth import ForgetCaller, ReadCaller, WriteCaller
from api.bodies import read_json
from api.documents import FORGOTTEN
from api.fenced import FencedResponse
from api.forget import forget_scope
from api.openapi import PROBLEM, json_body, reply
from api.parameters import Cursor, Id, Limit
from api.waiting import PREFER
from api.watch_replies import (
    WatchMatchesReply,
    WatchPage,
    WatchReply,
    watch_matches_reply,
    watch_page,
    watch_reply,
)
from api.watch_schemas import WatchRequest
from memory.errors import ForgottenError
from memory.values import SourceId
from service.views import Scope

router = APIRouter(prefix="/v1/watches", tags=["watches"], responses=PROBLEM)

Matches = Annotated[int, Query(ge=1, le=200, description="So many of the newest matches.")]


@router.post(
    "",
    status_code=201,
    responses={201: reply("It stands", WatchReply)},
    openapi_extra=json_body(WatchRequest),
)
async def create_watch(request: Request, caller: WriteCaller) -> Response:
    """Have a query stand."""
    asked = await read_json(request, WatchRequest)
    stream_id = None if asked.stream_id is None else SourceId(asked.stream_id)
    watch = await anyio.to_thread.run_sync(
        lambda: caller.lethe.watches.create(
            caller.tenant_id,
            asked.query,
            name=asked.name,
            filter=asked.filter,
            stream_id=stream_id,
            threshold=asked.threshold,
            subjects=asked.subjects,
        )
    )
    return Response(orjson.dumps(watch_reply(watch)), status_code=201, media_type="application/json")


@router.get("", responses={200: reply("One page of watches, newest first", WatchPage)})
def list_watches(caller: ReadCaller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List watches."""

    def produce() -> WatchPage:
        return watch_page(caller.lethe.watches.list_page(caller.tenant_id, cursor=cursor, limit=limit))

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


@router.get("/{id}", responses={200: reply("The watch and its newest matches", WatchMatchesReply)})
def get_watch(caller: ReadCaller, id: Id, limit: Matches = 20) -> Response:
    """Return a watch with the newest passages that match it."""

    def produce() -> WatchMatchesReply:
        watches, watch_id = caller.lethe.watches, SourceId(id)
        matches = watches.list_matches(caller.tenant_id, watch_id, limit=limit)
        return watch_matches_reply(watches.get(caller.tenant_id, watch_id), matches)

    return FencedResponse(caller.lethe, caller.tenant_id, produce)


@router.delete("/{id}", status_code=202, responses=FORGOTTEN, openapi_extra=PREFER)
async def forget_watch(request: Request, caller: ForgetCaller, id: Id) -> Response:
    """Forget a watch. What it matched stays."""
    with suppress(ForgottenError):  # asked for again: nothing is left to do, and the reply says so
        await anyio.to_thread.run_sync(lambda: caller.lethe.watches.get(caller.tenant_id, SourceId(id)))
    return await forget_scope(request, caller, Scope(ids=(id,)), preview=False)
