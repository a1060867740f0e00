"""Jobs over HTTP: how far the work is."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from api.auth import JobReader, WriteCaller
from api.openapi import PROBLEM, reply
from api.parameters import Cursor, Id, Limit
from api.replies import JobPage, JobReply, job_page, job_reply
from memory.values import JobId
from service.views import JobView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=PROBLEM)

EXAMPLE = {"id": "91fe", "kind": "ingest", "status": "running", "progress": 0.4}


@router.get("", responses={200: reply("One page of jobs", JobPage)})
def list_jobs(caller: JobReader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List jobs."""
    page = caller.lethe.list_jobs(caller.tenant_id, cursor=cursor, limit=limit)
    return Response(orjson.dumps(job_page(page)), media_type="application/json")


@router.get("/{id}", responses={200: reply("The job as it is now", JobReply, EXAMPLE)})
def get_job(caller: JobReader, id: Id) -> Response:
    """Return a job as it is now."""
    return _told(caller.lethe.get_job(caller.tenant_id, JobId(id)))


@router.post("/{id}/retry", responses={200: reply("The job, queued again", JobReply, EXAMPLE)})
def retry_job(caller: WriteCaller, id: Id) -> Response:
    """Have a job that ended without success done once more."""
    return _told(caller.lethe.retry_job(caller.tenant_id, JobId(id)))


@router.post("/{id}/cancel", responses={200: reply("The job, cancelled", JobReply, EXAMPLE)})
def cancel_job(caller: WriteCaller, id: Id) -> Response:
    """Cancel a job that has not ended; content that was to be ingested is taken back."""
    return _told(caller.lethe.cancel_job(caller.tenant_id, JobId(id)))


def _told(job: JobView) -> Response:
    return Response(orjson.dumps(job_reply(job)), media_type="application/json")
