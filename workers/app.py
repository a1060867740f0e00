"""The Celery app: one thin task, whose message is a job id. The job row is the truth.

Nothing here knows what a job does; ``run_job`` is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from memory.faults import point

TASK = "lethe.run_job"
VISIBILITY_SECONDS = 3_600
"""Longer than any task, so that the broker does not deliver one that is still running again."""


def make_app(broker_url: str, run_job: Callable[[str], None]) -> Celery:
    """Return a Celery app over this broker whose only task runs a job.

    Kombu's own defaults would redeliver a killed worker's message after 100 s; here it takes seconds.
    """
    app = Celery("lethe", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
        },
    )

    def run(job_id: str) -> None:
        run_job(job_id)

    # Not shared: another app in this process has its own.
    app.task(run, name=TASK, shared=False)
    return app


def send(app: Any, job_id: str) -> None:
    """Wake a worker for one job; raises kombu's ``OperationalError`` when the broker is away."""
    point("broker.send")
    app.send_task(TASK, args=[job_id])
    point("broker.sent")
