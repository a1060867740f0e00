"""So many readings at once, so many waiting, the rest told to come back: fair between those who ask.

Whose turn it is: of those who wait the one who holds the fewest places, then who came in longest ago. Who
fills the queue makes room for others: its newest reading is refused when another's comes. Nothing here knows
what a place is for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter as Total
from prometheus_client import Gauge

from memory.asking import check_there, whose
from memory.errors import BusyError

LOOK_SECONDS = 0.1
"""Who waits looks so often whether who asked is still there."""

readings = Gauge("lethe_readings", "Answers a language model of this process writes, or will", ("state",))
refused_total = Total("lethe_readings_refused_total", "Answers refused because too many waited")


@dataclass(eq=False, slots=True)
class _Ticket:
    party: str
    since: float | None = None
    """When it got its place."""
    is_refused: bool = False


class Places:
    """Safe to share between threads."""

    def __init__(self, most: int, *, waiting: int) -> None:
        self._most = most
        self._most_waiting = waiting
        self._changed = threading.Condition()
        self._queue: list[_Ticket] = []
        self._held: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        """When each party that is here last came in, counted in turns."""
        self._turn = 0
        self._seconds = 1.0
        """How long a place is held, on a moving average."""

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a place and hold it.

        Raises ``BusyError`` when too many wait, ``LeftError`` when who asked is no longer there.
        """
        ticket = _Ticket(whose())
        try:
            self._come_in(ticket)
            yield
        finally:
            self._leave(ticket)

    def _come_in(self, ticket: _Ticket) -> None:
        with self._changed:
            self._queue.append(ticket)
            readings.labels("waiting").inc()
            self._let_in()
            if len(self._queue) > self._most_waiting:
                last = self._find_last()
                self._drop(last)
                last.is_refused = True
            while ticket in self._queue:
                check_there()
                self._changed.wait(LOOK_SECONDS)
            if ticket.is_refused:
                refused_total.inc()
                raise BusyError(
                    f"{self._most} answers are being written and {self._most_waiting} wait already",
                    retry_in_seconds=self._seconds * (1 + len(self._queue)) / self._most,
                )

    def _leave(self, ticket: _Ticket) -> None:
        with self._changed:
            if ticket in self._queue:
                self._drop(ticket)
            elif ticket.since is not None:
                readings.labels("active").dec()
                self._held[ticket.party] -= 1
                self._seconds += (time.monotonic() - ticket.since - self._seconds) / 8
            self._let_in()

    def _let_in(self) -> None:
        """Give free places to those whose turn it is, and forget parties that are not here."""
        while self._queue and self._held.total() < self._most:
            held, turns = self._held, self._turns
            ticket = min(self._queue, key=lambda one: (held[one.party], turns.get(one.party, 0)))
            self._turn += 1
            self._turns[ticket.party] = self._turn
            self._held[ticket.party] += 1
            self._drop(ticket)
            ticket.since = time.monotonic()
            readings.labels("active").inc()
        self._held = +self._held
        here = {ticket.party for ticket in self._queue} | self._held.keys()
        self._turns = {party: turn for party, turn in self._turns.items() if party in here}

    def _find_last(self) -> _Ticket:
        """Return the newest ticket of the party that waits for the most places."""
        waiting = Counter(ticket.party for ticket in self._queue)
        most = max(waiting.values())
        return next(ticket for ticket in reversed(self._queue) if waiting[ticket.party] == most)

    def _drop(self, ticket: _Ticket) -> None:
        self._queue.remove(ticket)
        readings.labels("waiting").dec()
        self._changed.notify_all()
