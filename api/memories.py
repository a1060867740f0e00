"""Memories over HTTP: short texts and chats, remembered and listed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import ReadCaller, WriteCaller
from api.bodies import read_json
from api.documents import REMEMBERED, list_sources
from api.openapi import PROBLEM, json_body, reply
from api.parameters import Cursor, Limit, UserId
from api.remembering import remember_one
from api.replies import SourcePage
from api.schemas import MemoryRequest
from api.waiting import PREFER

router = APIRouter(prefix="/v1/memories", tags=["memories"], responses=PROBLEM)


@router.post("", status_code=202, responses=REMEMBERED, openapi_extra={**PREFER, **json_body(MemoryRequest)})
async def remember_memory(request: Request, caller: WriteCaller) -> Response:
    """Remember a text or the messages of a chat."""
    memory = await read_json(request, MemoryRequest)
    return await remember_one(request, caller, memory.content())


@router.get("", responses={200: reply("One page of memories", SourcePage)})
def list_memories(
    caller: ReadCaller, limit: Limit = 50, cursor: Cursor = None, user_id: UserId = None
) -> Response:
    """List memories, of one user where asked."""
    return list_sources(caller, "memory", user_id=user_id, cursor=cursor, limit=limit)
