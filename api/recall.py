"""Recall over HTTP: find passages."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import ReadCaller
from api.bodies import read_json
from api.fenced import FencedResponse
from api.openapi import PROBLEM, json_body, reply
from api.replies import RecallReply, recall_reply
from api.schemas import RecallRequest

router = APIRouter(prefix="/v1/recall", tags=["recall"], responses=PROBLEM)

EXAMPLE = {
    "epoch": 3,
    "hits": [
        {
            "passage_id": "c2a1",
            "source_id": "5b0c",
            "external_id": "notes/harbour.md",
            "version": 1,
            "title": "Harbour notes",
            "text": "The harbour office opens at seven.",
            "score": 0.031,
            "span": {"start": 0, "end": 34, "heading": "Opening hours"},
            "subjects": ["adeyemi"],
            "metadata": {"team": "harbour"},
            "duplicates": ["7f30.2"],
        }
    ],
}


@router.post(
    "",
    responses={200: reply("Passages, best first", RecallReply, EXAMPLE)},
    openapi_extra=json_body(RecallRequest),
)
async def recall(request: Request, caller: ReadCaller) -> Response:
    """Find the passages that a query is about."""
    asked = await read_json(request, RecallRequest)
    lethe, tenant_id = caller.lethe, caller.tenant_id
    recalled = await anyio.to_thread.run_sync(
        lambda: lethe.recall(
            tenant_id, asked.query, limit=asked.limit, filter=asked.filter, as_of=asked.as_of
        )
    )
    return FencedResponse(lethe, tenant_id, lambda: recall_reply(lethe.recheck_recall(tenant_id, recalled)))
