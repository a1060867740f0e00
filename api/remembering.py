"""The steps that all remembering routes share: remember, wait where asked, acknowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio.to_thread
import orjson
from fastapi import Request
from starlette.responses import Response

from api.auth import Caller
from api.problems import instance_of, problem_response
from api.replies import RememberedReply, remembered_reply
from api.waiting import applied, poll, wait_seconds
from memory.errors import ConflictError
from memory.values import Content, SourceId
from service.views import JobView, Remembered

FINISHED = frozenset({"done", "failed", "dead", "cancelled"})


async def remember_one(
    request: Request, caller: Caller, content: Content, *, source_id: SourceId | None = None
) -> Response:
    """Remember one entry: 202, or 201 when it was asked to wait and the work is done.

    A job known to have failed is told as the problem it failed with (422), a cancelled one as a conflict.
    """
    replies, jobs, seconds = await _remember(request, caller, [content], source_id)
    job = jobs[0]
    if seconds is not None and job.status == "failed":
        return problem_response(job_failure(request, job), applied(seconds))
    if seconds is not None and job.status == "cancelled":
        raise ConflictError("the entry was forgotten or replaced before it was indexed")
    return _acknowledge(replies[0], jobs, seconds)


async def remember_batch(request: Request, caller: Caller, contents: Sequence[Content]) -> Response:
    """Remember many entries at once: an acknowledgement each, in the same order."""
    replies, jobs, seconds = await _remember(request, caller, contents, None)
    return _acknowledge(replies, jobs, seconds)


async def _remember(
    request: Request, caller: Caller, contents: Sequence[Content], source_id: SourceId | None
) -> tuple[list[RememberedReply], list[JobView], int | None]:
    lethe, tenant_id = caller.lethe, caller.tenant_id
    remembered = await anyio.to_thread.run_sync(
        lambda: lethe.remember(tenant_id, contents, source_id=source_id)
    )
    seconds = wait_seconds(request)
    jobs = {one.job.id: one.job for one in remembered}
    if seconds is not None:
        with anyio.move_on_after(seconds):
            for job_id in jobs:
                jobs[job_id] = await poll(
                    request,
                    lambda job_id=job_id: lethe.get_job(tenant_id, job_id),  # type: ignore[misc]
                    lambda job: job.status in FINISHED,
                    timeout_seconds=seconds,
                )

    def passages_of(one: Remembered) -> int | None:
        if one.passages is not None or seconds is None or jobs[one.job.id].status != "done":
            return one.passages
        return lethe.get_source(tenant_id, one.source_id).passages

    def replies() -> list[RememberedReply]:
        return [remembered_reply(one, jobs[one.job.id], passages_of(one)) for one in remembered]

    return await anyio.to_thread.run_sync(replies), [jobs[one.job.id] for one in remembered], seconds


def _acknowledge(
    body: RememberedReply | list[RememberedReply], jobs: Sequence[JobView], seconds: int | None
) -> Response:
    done = seconds is not None and all(job.status == "done" for job in jobs)
    return Response(
        orjson.dumps(body),
        status_code=201 if done else 202,
        headers=applied(seconds),
        media_type="application/json",
    )


def job_failure(request: Request, job: JobView) -> dict[str, Any]:
    """Return the problem that a job failed with, as the reply to who waited for it."""
    return {
        "type": "urn:lethe:problem:job-failed",
        "title": "The work failed",
        "detail": "the content could not be indexed",
        **(job.error or {}),
        "status": 422,
        "instance": instance_of(request),
        "job": job.id,
    }
