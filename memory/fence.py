"""The fence: readers and committers pass together, a forget passes alone.

A forget denies its entries while it holds the fence exclusively; everything that lets content out
holds it shared from its last lineage check until the bytes are handed over. So after a forget is
acknowledged, nothing that was checked before it can still leave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from memory.errors import UnavailableError
from memory.values import TenantId


class Fence(Protocol):
    """One shared/exclusive lock per tenant."""

    def acquire_shared(self, tenant_id: TenantId, *, timeout_seconds: float = 30.0) -> None: ...

    def release_shared(self, tenant_id: TenantId) -> None: ...

    def exclusive(
        self, tenant_id: TenantId, *, timeout_seconds: float = 60.0
    ) -> AbstractContextManager[None]: ...

    def close(self) -> None: ...


class _Gate:
    """Writer-preferring: once a forget waits, new readers queue behind it."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.readers = 0
        self.waiting = 0
        self.writing = False


class InProcessFence:
    """The fence of a single process (SQLite means one process).

    A shared hold belongs to no thread: it may be taken in one and released in another.
    """

    def __init__(self) -> None:
        self._gates: dict[TenantId, _Gate] = {}
        self._lock = threading.Lock()

    def _gate(self, tenant_id: TenantId) -> _Gate:
        with self._lock:
            return self._gates.setdefault(tenant_id, _Gate())

    def acquire_shared(self, tenant_id: TenantId, *, timeout_seconds: float = 30.0) -> None:
        """Wait until no forget holds or awaits the fence; ``UnavailableError`` after the timeout."""
        gate = self._gate(tenant_id)
        with gate.condition:
            if not gate.condition.wait_for(
                lambda: not gate.writing and not gate.waiting, timeout=timeout_seconds
            ):
                raise UnavailableError("a forget request is being fenced; try again")
            gate.readers += 1

    def release_shared(self, tenant_id: TenantId) -> None:
        """Give one shared hold back."""
        gate = self._gate(tenant_id)
        with gate.condition:
            gate.readers -= 1
            gate.condition.notify_all()

    @contextmanager
    def exclusive(self, tenant_id: TenantId, *, timeout_seconds: float = 60.0) -> Iterator[None]:
        """Hold the fence alone; ``UnavailableError`` when readers do not finish in time."""
        gate = self._gate(tenant_id)
        deadline = time.monotonic() + timeout_seconds
        with gate.condition:
            gate.waiting += 1
            try:
                free = gate.condition.wait_for(
                    lambda: not gate.writing and not gate.readers,
                    timeout=max(0.0, deadline - time.monotonic()),
                )
                if not free:
                    raise UnavailableError("readers did not finish in time for the fence")
                gate.writing = True
            finally:
                gate.waiting -= 1
                gate.condition.notify_all()
        try:
            yield
        finally:
            with gate.condition:
                gate.writing = False
                gate.condition.notify_all()

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def shared(fence: Fence, tenant_id: TenantId, *, timeout_seconds: float = 30.0) -> Iterator[None]:
    """Hold the fence shared for the block."""
    fence.acquire_shared(tenant_id, timeout_seconds=timeout_seconds)
    try:
        yield
    finally:
        fence.release_shared(tenant_id)
