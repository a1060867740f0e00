"""How often a key may ask, and how often an address may try keys that nobody knows.

Token buckets in the generic cell rate form: of each bucket only the moment is kept at which it will be
full again. Buckets live in this process: with several API processes each allows the rate, so the whole
service allows at most the rate times their number.

Replies tell what is left in the fields of draft-ietf-httpapi-ratelimit-headers-10 (RateLimit-Policy: quota q
in a window of w seconds; RateLimit: r left, full again in t seconds).
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Use = Literal["read", "write", "answer"]

FAILURES_PER_MINUTE = 30.0
MAX_BUCKETS = 10_000
"""Buckets kept at once; beyond it those longest unused are forgotten, and count as full."""
MAX_WELCOME = 10_000


class Taken(NamedTuple):
    """What a bucket said: was there a token, how many are left, when is it full, when to try again."""

    allowed: bool
    left: int
    full_in_seconds: float
    retry_in_seconds: float


class Buckets:
    """Buckets of one size, by name: ``burst`` tokens, refilled at ``per_second``."""

    def __init__(self, per_second: float, burst: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.burst = burst
        self.interval = 1 / per_second
        self._now = now
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def window_seconds(self) -> int:
        """How long an empty bucket takes to fill."""
        return max(1, math.ceil(self.burst * self.interval))

    def take(self, name: str, *, only_look: bool = False) -> Taken:
        """Take a token from a bucket, or say when there will be one."""
        with self._lock:
            now = self._now()
            full_at = max(self._full_at.get(name, now), now)
            # A hair of tolerance: sums of intervals are not exact.
            left = math.floor(self.burst - (full_at - now) / self.interval + 1e-6)
            if left < 1:
                wait = full_at - now - (self.burst - 1) * self.interval
                return Taken(False, 0, full_at - now, wait)
            if only_look:
                return Taken(True, left, full_at - now, 0.0)
            full_at += self.interval
            self._full_at[name] = full_at
            self._full_at.move_to_end(name)
            if len(self._full_at) > MAX_BUCKETS:
                self._full_at.popitem(last=False)
            return Taken(True, left - 1, full_at - now, 0.0)


class Welcome:
    """Keys, as digests, that worked when this process last saw them; whether they still do it cannot say."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return _digest(key) in self._seen

    def add(self, key: str) -> None:
        """Remember a key that worked."""
        with self._lock:
            self._seen[_digest(key)] = None
            if len(self._seen) > MAX_WELCOME:
                self._seen.popitem(last=False)

    def discard(self, key: str) -> None:
        """Forget a key that works no more."""
        with self._lock:
            self._seen.pop(_digest(key), None)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True)
class Limits:
    """The limits of one application. A use without a rate is not limited."""

    uses: Mapping[Use, Buckets]
    failures: Buckets | None
    welcome: Welcome = field(default_factory=Welcome)


def make_limits(
    *,
    read_per_second: float | None = None,
    write_per_second: float | None = None,
    answer_per_second: float | None = None,
    burst_seconds: float = 5.0,
    failures_per_minute: float | None = FAILURES_PER_MINUTE,
    now: Callable[[], float] = time.monotonic,
) -> Limits:
    """Return limits for rates; a bucket holds what ``burst_seconds`` bring, one request at least."""
    rates: dict[Use, float | None] = {
        "read": read_per_second,
        "write": write_per_second,
        "answer": answer_per_second,
    }
    uses = {
        use: Buckets(rate, max(1, round(rate * burst_seconds)), now=now)
        for use, rate in rates.items()
        if rate is not None
    }
    failures = None
    if failures_per_minute is not None:
        failures = Buckets(failures_per_minute / 60, max(1, round(failures_per_minute)), now=now)
    return Limits(uses, failures)


def rate_fields(use: str, buckets: Buckets, taken: Taken) -> dict[str, str]:
    """Return the header fields that tell a client where it stands."""
    return {
        "ratelimit-policy": f'"{use}";q={buckets.burst};w={buckets.window_seconds}',
        "ratelimit": f'"{use}";r={taken.left};t={math.ceil(taken.full_in_seconds)}',
    }


def address_of(scope: Scope) -> str:
    """Return what failures are counted by: the client's address, of IPv6 its network of 64 bits."""
    client = scope.get("client")
    host = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return host


class RateFields:
    """ASGI middleware: sends the fields that authentication left in the request's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add to its reply's headers."""

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in scope.get("state", {}).get("rate_fields", {}).items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_fields)
