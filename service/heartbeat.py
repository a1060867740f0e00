"""Leases are kept alive while the work behind them runs, however long that takes.

Without this, work longer than a lease would be claimed a second time and done in parallel, for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memory.jobs import LEASE_SECONDS, Job, Jobs
from service.repeating import Repeating

BEAT_SECONDS = LEASE_SECONDS / 4


@contextmanager
def keep_leased(jobs: Jobs, claimed: Sequence[Job], *, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Renew the leases every ``beat_seconds`` until the block ends."""
    beating = Repeating("heartbeat", beat_seconds, lambda: jobs.extend(claimed))
    beating.start()
    try:
        yield
    finally:
        beating.stop()
