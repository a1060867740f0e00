"""A bare kernel over fresh tables in a temporary folder: no migrations, no service."""

from __future__ import annotations

from pathlib import Path

from memory.database import Database, connect
from memory.fence import InProcessFence
from memory.jobs import Jobs
from memory.kernel import Kernel
from memory.postgres import AdvisoryFence
from memory.tables import key_metadata, metadata
from memory.values import TenantId
from memory.vault import SealedVault

TENANT = TenantId("t")
OTHER = TenantId("other")
ROOT_KEY = bytes(range(32))


class Ticks:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_us = 1_750_000_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def pass_seconds(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


class Numbers:
    """Ids in order: 1, 2, 3 …"""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"{self.count:032x}"


def open_database(path: Path) -> Database:
    database = connect(f"sqlite:///{path}")
    metadata.create_all(database.engine)
    return database


def open_vault(path: Path, root_key: bytes = ROOT_KEY) -> SealedVault:
    database = connect(f"sqlite:///{path}")
    key_metadata.create_all(database.engine)
    return SealedVault(database, root_key)


def open_kernel(folder: Path, database: Database | None = None, keys: Database | None = None) -> Kernel:
    """Open a kernel over SQLite files, or over given databases that hold the tables."""
    clock, new_id = Ticks(), Numbers()
    database = database or open_database(folder / "lethe.db")
    kernel = Kernel(
        folder,
        database,
        SealedVault(keys, ROOT_KEY) if keys is not None else open_vault(folder / "keys.db"),
        AdvisoryFence(database.url) if database.is_shared else InProcessFence(),
        Jobs(database, clock, new_id),
        clock,
        new_id,
    )
    kernel.create_tenant(TENANT)
    kernel.create_tenant(OTHER)
    return kernel


def close_kernel(kernel: Kernel) -> None:
    kernel.fence.close()
    kernel.database.close()
    kernel.vault.close()
