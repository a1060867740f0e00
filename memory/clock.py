"""Ids and time, injected everywhere so that histories can be replayed exactly.

Times are int64 microseconds since 1970-01-01T00:00:00Z, which order and compare the same
on every database.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], int]
"""Returns the present in microseconds since the epoch (UTC)."""

NewId = Callable[[], str]
"""Returns an id never seen before, free of time and order."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def random_id() -> str:
    """Return 122 random bits as 32 hexadecimal digits (UUID version 4)."""
    return uuid.uuid4().hex


class SystemClock:
    """The machine's clock, made strictly increasing within the process.

    Versions of a source are ranked by time, so two writes must never share one.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1_000)
            return self._last


def to_datetime(micros: int) -> datetime:
    """Return the instant as an aware UTC datetime, exact to the microsecond."""
    return EPOCH + timedelta(microseconds=micros)


def to_micros(instant: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch; naive ones are taken as UTC."""
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - EPOCH) // timedelta(microseconds=1)
