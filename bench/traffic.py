"""How requests come: a mix of routes, a closed loop to find a capacity, an open loop to measure at a rate.

In the open loop requests are sent at their times whether or not earlier ones were answered, and latency
counts from the time a request was due. A loop that waits for replies before it sends is slowed by the very
stalls it is to measure, and leaves them out ("coordinated omission": Gil Tene, How NOT to Measure Latency).
Nothing here knows what a request does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figures, percentile

Perform = Callable[[str], Awaitable[str | None]]
"""Does one request of a route; returns what went wrong, None when nothing did."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One request: when it was due, sent and answered, in seconds of a monotonic clock."""

    route: str
    due: float
    sent: float
    done: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the ramp. ``drained``: seconds until what was acknowledged was also done."""

    clients: int
    requests: int
    seconds: float
    drained: float

    @property
    def rate(self) -> float:
        """Requests a second, with the work they left behind counted in."""
        return self.requests / (self.seconds + self.drained)


def iter_mix(mix: Mapping[str, int], *, seed: int = 17) -> Iterator[str]:
    """Yield routes for ever: each round holds every route as often as the mix says, in a random order."""
    deck = [route for route, times in mix.items() for _ in range(times)]
    order = random.Random(seed)
    while True:
        order.shuffle(deck)
        yield from deck


async def closed_loop(
    perform: Perform, routes: Iterator[str], *, clients: int, seconds: float
) -> list[Timed]:
    """Have so many clients send one request after the other until the time is up."""
    timed: list[Timed] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        while (now := time.monotonic()) < end:
            timed.append(await _timed(perform, next(routes), now))

    await asyncio.gather(*(client() for _ in range(clients)))
    return timed


async def open_loop(perform: Perform, routes: Iterator[str], *, rate: float, seconds: float) -> list[Timed]:
    """Send ``rate`` requests a second at even intervals; return when all were answered."""
    started = time.monotonic()
    under_way: list[asyncio.Task[Timed]] = []
    for number in range(round(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        under_way.append(asyncio.create_task(_timed(perform, next(routes), due)))
    return list(await asyncio.gather(*under_way))


async def _timed(perform: Perform, route: str, due: float) -> Timed:
    sent = time.monotonic()
    error = await perform(route)
    return Timed(route, due, sent, time.monotonic(), error)


def route_figures(timed: Sequence[Timed], *, seconds: float) -> dict[str, Figures]:
    """Return each route's throughput and latency from when requests were due; failed ones are among them."""
    routes: dict[str, list[float]] = {}
    for one in timed:
        routes.setdefault(one.route, []).append(1000 * (one.done - one.due))
    return {
        route: {
            "requests": len(times),
            "per_second": round(len(times) / seconds, 2),
            **{f"p{share}_ms": round(percentile(times, share / 100), 1) for share in (50, 95, 99)},
            "max_ms": round(max(times), 1),
        }
        for route, times in sorted(routes.items())
    }


def count_errors(timed: Sequence[Timed]) -> Counter[str]:
    """Return how often each thing went wrong, by route."""
    return Counter(f"{one.route}: {one.error}" for one in timed if one.error is not None)
