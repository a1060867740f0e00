"""The waker of a process that does no work itself: it only tells the workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from workers.app import make_app, send

QUIET_SECONDS = 5.0
"""So long nothing is sent to a broker that was away."""

log = structlog.get_logger()


class Sender:
    """Sends each job's id to the broker. One that cannot be sent is found by the workers' sweeper."""

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._app: Celery | None = None
        self._quiet_until = 0.0

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None:
        """Get ready to send; what is due is the workers' business."""
        self._app = make_app(self._broker_url, run_job)

    def wake(self, job_id: str) -> None:
        """Tell the workers of a job."""
        if self._app is None or time.monotonic() < self._quiet_until:
            return
        try:
            send(self._app, job_id)
        except (OperationalError, RedisError, OSError) as error:
            # Each try takes seconds, and there is a request that waits for it.
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            log.warning(
                "broker away; the sweeper will send the job", job_id=job_id, error=type(error).__name__
            )

    def stop(self) -> None:
        """Let go of the broker."""
        if self._app is not None:
            self._app.close()
            self._app = None
