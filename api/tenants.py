"""Tenants over HTTP: the operator makes and lists them."""

from __future__ import annotations

import anyio.to_thread
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import OperatorCaller
from api.bodies import read_json
from api.openapi import PROBLEM, json_body, reply
from api.parameters import Cursor, Limit
from api.replies import TenantPage, TenantReply, tenant_page, tenant_reply
from api.schemas import TenantRequest
from memory.values import TenantId

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], responses=PROBLEM)

EXAMPLE = {"id": "harbour-office", "created_at": "2026-03-01T09:30:00Z"}


@router.post(
    "",
    status_code=201,
    responses={201: reply("The tenant", TenantReply, EXAMPLE)},
    openapi_extra=json_body(TenantRequest),
)
async def create_tenant(request: Request, caller: OperatorCaller) -> Response:
    """Make a tenant; then make its first admin key with `POST /v1/keys`."""
    asked = await read_json(request, TenantRequest)
    view = await anyio.to_thread.run_sync(lambda: caller.lethe.access.create_tenant(TenantId(asked.id)))
    return Response(orjson.dumps(tenant_reply(view)), status_code=201, media_type="application/json")


@router.get("", responses={200: reply("One page of tenants", TenantPage)})
def list_tenants(caller: OperatorCaller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List tenants."""
    page = caller.lethe.access.list_tenants(cursor=cursor, limit=limit)
    return Response(orjson.dumps(tenant_page(page)), media_type="application/json")
