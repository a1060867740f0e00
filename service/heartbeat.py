"""Leases are kept alive while the work behind them runs, however long that takes.

Without this, work longer than a lease would be claimed a second time and done in parallel, for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memory.jobs import LEASE_SECONDS, Job, Jobs

BEAT_SECONDS = LEASE_SECONDS / 4


@contextmanager
def keep_leased(jobs: Jobs, claimed: Sequence[Job], *, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Renew the leases every ``beat_seconds`` until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_seconds):
            jobs.extend(claimed)

    thread = threading.Thread(target=beat, name="lethe-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
