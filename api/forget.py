"""Forgetting over HTTP: ask, preview, follow, and fetch the certificate."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import Caller, ForgetCaller, ForgetReader
from api.bodies import read_json
from api.openapi import PROBLEM, json_body, reply
from api.parameters import Id
from api.replies import ForgetReply, forget_reply
from api.schemas import ForgetRequest
from api.waiting import PREFER, applied, poll, wait_seconds
from memory.values import ForgetId
from service.views import Scope

router = APIRouter(prefix="/v1/forget", tags=["forget"], responses=PROBLEM)

SETTLED = frozenset({"previewed", "certified", "failed"})
EXAMPLE = {"id": "77d0", "state": "fenced", "epoch": 4, "counts": {"entries": 1, "passages": 12}}


@router.post(
    "",
    status_code=202,
    responses={
        200: reply("A preview, or certified in time (with `Prefer: wait=N`)", ForgetReply),
        202: reply("Fenced: nothing in scope leaves from here on; a job erases it", ForgetReply, EXAMPLE),
    },
    openapi_extra={**PREFER, **json_body(ForgetRequest)},
)
async def forget(request: Request, caller: ForgetCaller) -> Response:
    """Forget all that a scope selects, or preview what that would be."""
    asked = await read_json(request, ForgetRequest)
    return await forget_scope(request, caller, asked.scope.scope(), preview=asked.mode == "preview")


@router.get("/{id}", responses={200: reply("How far it is", ForgetReply, {**EXAMPLE, "remaining": {}})})
def get_forget(caller: ForgetReader, id: Id) -> Response:
    """Return how far a forget request is and what remains."""
    view = caller.lethe.get_forget(caller.tenant_id, ForgetId(id))
    return _json(forget_reply(view, whole=True))


@router.get(
    "/{id}/certificate",
    responses={200: reply("The signed certificate; `lethe verify` checks it offline", dict[str, Any])},
)
def get_certificate(caller: ForgetReader, id: Id) -> Response:
    """Return the signed certificate, once there is one."""
    return _json(caller.lethe.get_certificate(caller.tenant_id, ForgetId(id)))


async def forget_scope(request: Request, caller: Caller, scope: Scope, *, preview: bool) -> Response:
    """Forget a scope: 202 once it is fenced, 200 for a preview or when certified in time."""
    lethe, tenant_id = caller.lethe, caller.tenant_id
    view = await anyio.to_thread.run_sync(lambda: lethe.forget(tenant_id, scope, preview=preview))
    if preview:
        return _json(forget_reply(view, whole=False))
    seconds = wait_seconds(request)
    if seconds is not None:
        view = await poll(
            request,
            lambda: lethe.get_forget(tenant_id, view.id),
            lambda latest: latest.state in SETTLED,
            timeout_seconds=seconds,
        )
    status = 200 if seconds is not None and view.state == "certified" else 202
    return _json(forget_reply(view, whole=False), status=status, headers=applied(seconds))


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )
