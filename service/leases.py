"""The leases this process holds, and how it lets go of them when it stops.

Work that is under way may finish, within a limit. What has not finished by then is given back: its
rows are queued again with nothing held against them, and whichever worker looks next takes them. The
thread that still works on it changes nothing any more, for its token is no longer theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memory.jobs import Job, Jobs
from service.heartbeat import keep_leased


class Leases:
    """Counts what runs and remembers what is held. Safe to share between threads."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._changed = threading.Condition()
        self._running = 0
        self._held: dict[str, Job] = {}
        self._closed = False

    def open(self) -> None:
        """Take work from now on."""
        with self._changed:
            self._closed = False

    @contextmanager
    def working(self) -> Iterator[bool]:
        """Count the block as running work; yields whether work may begin at all."""
        with self._changed:
            allowed = not self._closed
            self._running += 1
        try:
            yield allowed
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def keep(self, claimed: Sequence[Job]) -> Iterator[None]:
        """Renew these leases until the block ends."""
        with self._changed:
            self._held.update({job.id: job for job in claimed})
        try:
            with keep_leased(self.jobs, claimed):
                yield
        finally:
            with self._changed:
                for job in claimed:
                    self._held.pop(job.id, None)

    def close(self, *, timeout_seconds: float) -> list[Job]:
        """Begin nothing more, wait for what runs, give back what has not ended; return that."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._running, timeout=timeout_seconds)
            left = list(self._held.values())
        if left:
            self.jobs.give_back(left)
        return left
