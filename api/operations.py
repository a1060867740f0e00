"""Running the service over HTTP: health, readiness, metrics, counts, rebuild."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
import orjson
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api.auth import AdminCaller, ReadCaller
from api.fenced import FencedResponse
from api.openapi import PROBLEM, reply
from api.problems import instance_of, problem_body, problem_response
from api.replies import JobReply, job_reply

if TYPE_CHECKING:
    from service.lethe import Lethe

router = APIRouter(tags=["operations"], responses=PROBLEM)


@router.get("/healthz", responses={200: reply("The process lives", dict[str, str], {"status": "ok"})})
async def healthz() -> Response:
    """Say that the process lives."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get("/readyz", responses={200: reply("Requests are served", dict[str, str], {"status": "ready"})})
async def readyz(request: Request) -> Response:
    """Say whether requests are served, or what is missing."""
    lethe: Lethe = request.app.state.lethe
    missing = await anyio.to_thread.run_sync(lethe.is_ready, limiter=request.app.state.polling_threads)
    if not missing:
        return Response(b'{"status":"ready"}', media_type="application/json")
    detail = "; ".join(f"{what}: {why}" for what, why in sorted(missing.items()))
    return problem_response(
        problem_body(
            503, "not-ready", "Not ready yet", detail, instance=instance_of(request), missing=missing
        )
    )


@router.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """Return this process's metrics for Prometheus; they hold no content."""
    lethe: Lethe = request.app.state.lethe
    text = await anyio.to_thread.run_sync(lethe.render_metrics, limiter=request.app.state.polling_threads)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/stats", responses={200: reply("Counts", dict[str, Any])})
def stats(caller: ReadCaller) -> Response:
    """Return counts of what is remembered."""
    return FencedResponse(caller.lethe, caller.tenant_id, lambda: caller.lethe.stats(caller.tenant_id))


@router.post("/v1/rebuild", status_code=202, responses={202: reply("A job rebuilds", JobReply)})
def rebuild(caller: AdminCaller) -> Response:
    """Fold everything again from the journal and compare."""
    job = caller.lethe.rebuild(caller.tenant_id)
    return Response(orjson.dumps(job_reply(job)), status_code=202, media_type="application/json")
