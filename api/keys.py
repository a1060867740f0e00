"""API keys over HTTP: make, list, rotate and revoke those of one's own tenant.

The operator (an admin of the tenant that runs the service) may also make the first admin key of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import AdminCaller
from api.bodies import read_json
from api.openapi import PROBLEM, json_body, reply
from api.parameters import Cursor, Id, Limit
from api.replies import KeyPage, KeyReply, NewKeyReply, key_page, key_reply, new_key_reply
from api.schemas import KeyRequest, RotateRequest
from memory.errors import NotFoundError
from memory.values import TenantId
from service.views import NewKey

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=PROBLEM)

EXAMPLE = {
    "id": "0c5e",
    "tenant": "default",
    "name": "web shop",
    "roles": ["read", "write"],
    "created_at": "2026-03-01T09:30:00Z",
    "expires_at": None,
    "revoked_at": None,
    "replaced_by": None,
}
NEW: dict[int | str, dict[str, Any]] = {
    201: reply("The key, shown this once", NewKeyReply, {**EXAMPLE, "key": "lethe_…"})
}


@router.post("", status_code=201, responses=NEW, openapi_extra=json_body(KeyRequest))
async def create_key(request: Request, caller: AdminCaller) -> Response:
    """Make a key. `tenant` may name another tenant for the operator alone, and for its first admin key."""
    asked = await read_json(request, KeyRequest)
    access = caller.lethe.access
    tenant_id = caller.tenant_id if asked.tenant is None else TenantId(asked.tenant)
    if tenant_id != caller.tenant_id and not caller.principal.operator:
        raise NotFoundError("tenant", tenant_id)
    issue = access.issue if tenant_id == caller.tenant_id else access.issue_first
    return await _made(
        lambda: issue(tenant_id, asked.roles, name=asked.name, lifetime_seconds=asked.expires_in_seconds)
    )


@router.get("", responses={200: reply("One page of keys, without secrets", KeyPage)})
def list_keys(caller: AdminCaller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List keys, those that ended too."""
    page = caller.lethe.access.list_keys(caller.tenant_id, cursor=cursor, limit=limit)
    return Response(orjson.dumps(key_page(page)), media_type="application/json")


@router.post("/{id}/rotate", status_code=201, responses=NEW, openapi_extra=json_body(RotateRequest))
async def rotate_key(request: Request, caller: AdminCaller, id: Id) -> Response:
    """Replace a key by a new one of the same roles; the old one goes on working for the overlap."""
    asked = await read_json(request, RotateRequest)
    return await _made(
        lambda: caller.lethe.access.rotate(
            caller.tenant_id,
            id,
            overlap_seconds=asked.overlap_seconds,
            lifetime_seconds=asked.expires_in_seconds,
        )
    )


@router.delete("/{id}", responses={200: reply("The key, which works no more", KeyReply, EXAMPLE)})
def revoke_key(caller: AdminCaller, id: Id) -> Response:
    """Revoke a key: its next request is refused. The last admin key of a tenant cannot be revoked (409)."""
    view = caller.lethe.access.revoke(caller.tenant_id, id)
    return Response(orjson.dumps(key_reply(view)), media_type="application/json")


async def _made(make: Callable[[], NewKey]) -> Response:
    new = await anyio.to_thread.run_sync(make)
    return Response(
        orjson.dumps(new_key_reply(new)),
        status_code=201,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )
