"""Answers over HTTP: whole, or sentence by sentence as server-sent events."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import AnswerCaller
from api.bodies import read_json
from api.fenced import FencedEvents, FencedResponse
from api.leaving import listening
from api.openapi import PROBLEM, json_body, reply
from api.replies import AnswerReply, answer_reply
from api.schemas import AnswerRequest

router = APIRouter(prefix="/v1/answer", tags=["answer"], responses=PROBLEM)

EXAMPLE = {
    "epoch": 3,
    "answer": "The harbour office opens at seven.",
    "abstained": False,
    "confidence": 0.82,
    "claims": [{"text": "The harbour office opens at seven.", "supported": True, "citations": [0]}],
    "citations": [
        {
            "source_id": "5b0c",
            "external_id": "notes/harbour.md",
            "passage_id": "c2a1",
            "quote": "The harbour office opens at seven.",
            "span": {"start": 0, "end": 34},
        }
    ],
    "reader": "extractive",
    "timings_ms": {"recall": 12.5, "read": 3.1},
    "tokens": {},
}
_REPLY = reply("The answer, or an abstention; as events when `stream` is true", AnswerReply)
_REPLY["content"] = {
    "application/json": {"example": EXAMPLE},
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "`claim` events {text, citations}, then `done` with the whole reply, or `error`.",
            "properties": {"event": {"enum": ["claim", "done", "error"]}, "data": {"type": "string"}},
        }
    },
}


@router.post("", responses={200: _REPLY}, openapi_extra=json_body(AnswerRequest))
async def answer(request: Request, caller: AnswerCaller) -> Response:
    """Answer a question from what is remembered, with citations, or abstain."""
    asked = await read_json(request, AnswerRequest)
    lethe, tenant_id = caller.lethe, caller.tenant_id
    how: dict[str, Any] = {
        "limit": asked.limit,
        "filter": asked.filter,
        "as_of": asked.as_of,
        "explain": asked.explain,
    }
    if asked.stream:
        return FencedEvents(
            lethe,
            tenant_id,
            lambda: lethe.iter_answer(tenant_id, asked.query, **how),
        )
    async with listening(request.receive):
        answered = await anyio.to_thread.run_sync(lambda: lethe.answer(tenant_id, asked.query, **how))
    return FencedResponse(lethe, tenant_id, lambda: answer_reply(lethe.recheck_answer(tenant_id, answered)))
