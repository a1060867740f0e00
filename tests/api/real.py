"""The HTTP door over a real service: SQLite, vault, indexes, a tiny encoder; jobs run as they are queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from api.app import create_app
from api.limits import Limits, make_limits
from embedding.encoder import TextEncoder
from memory.values import TenantId
from tests.service.harness import TENANT, House, StepWaker
from tests.tiny import build_tiny_encoder

OTHER = TenantId("other")


class PromptWaker(StepWaker):
    """Does every due job before the request that queued it is answered."""

    def __init__(self) -> None:
        super().__init__()
        self._running = False

    def wake(self, job_id: str) -> None:
        if self._running:  # a job woke another one, which the loop below takes next
            return
        self._running = True
        try:
            self.drain()
        finally:
            self._running = False


class Service:
    """A house with the application before it, and keys for two tenants."""

    def __init__(self, house: House, limits: Limits | None) -> None:
        self.house = house
        self.lethe = house.lethe
        self.access = house.lethe.access
        self.access.create_tenant(OTHER)
        self.app = create_app(self.lethe, limits=limits or make_limits(failures_per_minute=None))

    def key(self, *roles: str, tenant: TenantId = TENANT, seconds: int | None = None) -> str:
        return self.access.issue(tenant, roles, name="test", lifetime_seconds=seconds).key

    def client(self, key: str | None) -> TestClient:
        headers = {} if key is None else {"authorization": f"Bearer {key}".encode("latin-1")}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)


def tiny_encoder(folder: Path) -> TextEncoder:
    return TextEncoder(build_tiny_encoder(folder), name="tiny")


@contextmanager
def real_service(data: Path, encoder: TextEncoder, limits: Limits | None = None) -> Iterator[Service]:
    house = House(data, encoder, waker=PromptWaker())
    try:
        yield Service(house, limits)
    finally:
        house.close()
