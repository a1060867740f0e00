"""The hierarchy over HTTP: topics, and every node with what lies above and below it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.auth import ReadCaller
from api.fenced import FencedResponse
from api.node_replies import NodeReply, TopicPage, node_reply, topic_page
from api.openapi import PROBLEM, reply
from api.parameters import Cursor, Id, Limit

router = APIRouter(prefix="/v1", tags=["hierarchy"], responses=PROBLEM)

Level = Annotated[
    int | None,
    Query(ge=1, le=16, description="Topics of this level, 1 right above sources; else the topmost."),
]


@router.get("/topics", responses={200: reply("One page of topics, highest level first", TopicPage)})
def list_topics(
    caller: ReadCaller, limit: Limit = 50, cursor: Cursor = None, level: Level = None
) -> Response:
    """List topics of one level, or those that no other topic holds."""
    lethe, tenant_id = caller.lethe, caller.tenant_id

    def produce() -> TopicPage:
        return topic_page(lethe.list_topics(tenant_id, level=level, cursor=cursor, limit=limit))

    return FencedResponse(lethe, tenant_id, produce)


@router.get("/nodes/{id}", responses={200: reply("The node with a page of its children", NodeReply)})
def get_node(caller: ReadCaller, id: Id, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Return a topic, a source or a section of one."""
    lethe, tenant_id = caller.lethe, caller.tenant_id

    def produce() -> NodeReply:
        return node_reply(*lethe.get_node(tenant_id, id, cursor=cursor, limit=limit))

    return FencedResponse(lethe, tenant_id, produce)
