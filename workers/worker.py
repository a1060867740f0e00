"""A Celery worker inside this process, and the sweeper that makes up for lost messages.

On a laptop it shares the process with the API, because SQLite's fence is a lock of one process. Where
database and broker are servers, ``lethe worker`` runs it by itself, on as many hosts as wanted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from celery import Celery

from service.repeating import Repeating
from workers.broker import EmbeddedBroker
from workers.sender import Sender

SWEEP_SECONDS = 5.0
SWEEP_LIMIT = 8
STALL_SECONDS = 30.0
STOP_SECONDS = 60.0
ABANDON_SECONDS = 2.0
"""What is still running when the worker is stopped was given back: nobody waits for it."""

log = structlog.get_logger()


class EmbeddedWorker(Sender):
    """Broker (unless one is given), worker threads and sweeper, started and stopped together."""

    def __init__(
        self,
        *,
        broker_url: str | None,
        broker: EmbeddedBroker | None,
        threads: int,
        sweep_seconds: float = SWEEP_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(broker_url or (broker.url if broker else ""))
        self._broker = broker
        self._threads = threads
        self._sweep_seconds = sweep_seconds
        self._stall_seconds = stall_seconds
        self._controller: Any = None
        self._stopping = threading.Event()
        self._consuming: threading.Thread | None = None
        self._sweeping: Repeating | None = None
        self._busy = 0
        self._moved_at = 0.0
        self._guard = threading.Lock()

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None:
        """Start everything; returns once the broker answers."""
        if self._broker is not None:
            self._broker.start()

        def run(job_id: str) -> None:
            self._count(1)
            try:
                run_job(job_id)
            finally:
                self._count(-1)

        super().start(run, list_due)
        assert self._app is not None
        self._stopping.clear()
        self._count(0)
        self._consuming = threading.Thread(
            target=self._work, args=(self._app,), name="lethe-worker", daemon=True
        )
        self._consuming.start()
        self._sweeping = Repeating("sweeper", self._sweep_seconds, lambda: self._sweep(list_due))
        self._sweeping.start()

    def _count(self, change: int) -> None:
        with self._guard:
            self._busy += change
            self._moved_at = time.monotonic()

    def _work(self, app: Celery) -> None:
        """Run one consumer after the other: ``_restart`` and a defect end one, ``stop`` ends them all."""
        # Pool threads look the task up in Celery's default app.
        app.set_default()
        while not self._stopping.is_set():
            self._controller = app.WorkController(
                pool_cls="threads",
                concurrency=self._threads,
                without_heartbeat=True,
                without_mingle=True,
                without_gossip=True,
                quiet=True,
            )
            self._controller.start()
            self._stopping.wait(0.1)

    def _restart(self) -> None:
        """End the consumer, so that a new one follows.

        One whose broker went away while tasks ran never hears of a broker again: it waits for
        acknowledgements that were refused.
        """
        log.warning("the consumer is started again")
        self._controller.stop(in_sighandler=False)
        self._count(0)

    def _sweep(self, list_due: Callable[[int], Sequence[str]]) -> None:
        """Have a broker that answers, a consumer that consumes, and a message for all that is due."""
        if self._broker is not None and self._broker.ensure():
            self._restart()
        due = list_due(SWEEP_LIMIT)
        if due and self._is_stalled():
            self._restart()
        for job_id in due:
            self.wake(job_id)
        if not due:
            self._count(0)

    def _is_idle(self) -> bool:
        with self._guard:
            return not self._busy

    def _is_stalled(self) -> bool:
        """Say whether nothing was run for long, though there is work and nothing runs."""
        with self._guard:
            return not self._busy and time.monotonic() - self._moved_at > self._stall_seconds

    def stop(self) -> None:
        """End worker, sweeper and broker. Whoever may wait for running tasks has waited before."""
        self._stopping.set()
        patience = STOP_SECONDS if self._is_idle() else ABANDON_SECONDS
        ending = [self._consuming] if self._consuming is not None else []
        if self._controller is not None:
            # In a thread of its own, for it waits for every task, however long that takes.
            stop = partial(self._controller.stop, in_sighandler=False)
            ending.append(threading.Thread(target=stop, daemon=True))
            ending[-1].start()
        if self._sweeping is not None:
            self._sweeping.stop(patience)
        for thread in ending:
            thread.join(timeout=patience)
        self._controller = self._consuming = self._sweeping = None
        super().stop()
        if self._broker is not None:
            self._broker.stop()
