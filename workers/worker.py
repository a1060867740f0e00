"""A Celery worker inside this process, and the sweeper that makes up for lost messages.

The laptop's way: one process holds the API, the models and the worker, because SQLite's fence is a
lock of one process. The same task runs under ``celery worker`` where the database is a server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from memory.errors import UnavailableError
from workers.app import make_app, send
from workers.broker import EmbeddedBroker

SWEEP_SECONDS = 5.0
SWEEP_LIMIT = 64

log = structlog.get_logger()


class EmbeddedWorker:
    """Broker (unless one is given), worker threads and sweeper, started and stopped together.

    It is the service's ``Waker``: ``wake`` sends a job's id. A message that cannot be sent is no
    failure, for the sweeper sends what is due again.
    """

    def __init__(
        self,
        *,
        broker_url: str | None,
        broker: EmbeddedBroker | None,
        threads: int,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._broker_url = broker_url
        self._broker = broker
        self._threads = threads
        self._sweep_seconds = sweep_seconds
        self._app: Celery | None = None
        self._controller: Any = None
        self._stopping = threading.Event()
        self._running: list[threading.Thread] = []

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None:
        """Start everything; returns once the broker answers."""
        if self._broker is not None:
            self._broker.start()
        url = self._broker_url or (self._broker.url if self._broker else None)
        assert url is not None, "either a broker or its URL is needed"
        self._app = make_app(url, run_job)
        self._controller = self._app.WorkController(
            pool_cls="threads",
            concurrency=self._threads,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
            quiet=True,
        )
        self._stopping.clear()
        self._running = [
            threading.Thread(target=self._controller.start, name="lethe-worker", daemon=True),
            threading.Thread(target=self._sweep, args=(list_due,), name="lethe-sweeper", daemon=True),
        ]
        for thread in self._running:
            thread.start()

    def wake(self, job_id: str) -> None:
        """Tell a worker of a job."""
        if self._app is None:
            return
        try:
            send(self._app, job_id)
        except (OperationalError, RedisError, OSError) as error:
            log.warning(
                "broker away; the sweeper will send the job", job_id=job_id, error=type(error).__name__
            )

    def _sweep(self, list_due: Callable[[int], Sequence[str]]) -> None:
        while not self._stopping.wait(self._sweep_seconds):
            if self._broker is not None:
                try:
                    self._broker.ensure()
                except (UnavailableError, OSError) as error:
                    log.warning("broker does not start; trying again", error=type(error).__name__)
                    continue
            for job_id in list_due(SWEEP_LIMIT):
                self.wake(job_id)

    def stop(self) -> None:
        """Let the running task finish, then end worker, sweeper and broker."""
        self._stopping.set()
        if self._controller is not None:
            self._controller.stop(in_sighandler=False)
            for thread in self._running:
                thread.join(timeout=60)
            self._controller = None
        if self._app is not None:
            self._app.close()
            self._app = None
        if self._broker is not None:
            self._broker.stop()
