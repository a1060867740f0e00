"""A gate before scarce work: so many inside, so many waiting, the rest told at once to come back later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from prometheus_client import Counter, Gauge, Histogram

from memory.errors import UnavailableError

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)

seconds = Histogram(
    "lethe_engine_seconds", "From a request's turn to the end of its work", ("work",), buckets=BUCKETS
)
in_flight = Gauge("lethe_engine_in_flight", "Requests that work or wait for their turn", ("work",))
refused_total = Counter("lethe_engine_refused_total", "Requests refused because too many waited", ("work",))


class Gate:
    """Lets requests through in the order they came. ``work`` names what they come for."""

    def __init__(self, work: str, *, running: int, waiting: int) -> None:
        self._work = work
        self.running = running
        self._waiting = waiting
        self._limiter = CapacityLimiter(running)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it; ``UnavailableError`` when ``waiting`` others wait already."""
        if self._limiter.statistics().tasks_waiting >= self._waiting:
            refused_total.labels(self._work).inc()
            raise UnavailableError(f"the engine is busy: {self._waiting} {self._work} wait already")
        with in_flight.labels(self._work).track_inprogress():
            async with self._limiter:
                started = time.perf_counter()
                try:
                    yield
                finally:
                    seconds.labels(self._work).observe(time.perf_counter() - started)
