"""The kernel in one object: what every use case and organ adapter is handed.

``commit`` is the only way in for derived state: under the shared fence, in one transaction, with
the deny-set looked at first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from memory.clock import Clock, NewId
from memory.database import Database, chunked
from memory.errors import NotFoundError
from memory.fence import Fence, shared
from memory.jobs import Jobs
from memory.tables import changes, denied, entries, tenants
from memory.values import EntryId, TenantId
from memory.vault import Vault


@dataclass(frozen=True, slots=True)
class Commit:
    """An open transaction for derived state, and which of its inputs were forgotten meanwhile."""

    connection: sa.Connection
    denied: frozenset[EntryId]


@dataclass(frozen=True, slots=True)
class Position:
    """How far a tenant's state has come: ``epoch`` counts forgets, ``revision`` counts changes."""

    epoch: int
    revision: int


@dataclass(frozen=True)
class Kernel:
    """Database, vault, fence, queue, clock and ids, wired once."""

    data: Path
    database: Database
    vault: Vault
    fence: Fence
    jobs: Jobs
    clock: Clock
    new_id: NewId

    def create_tenant(self, tenant_id: TenantId) -> bool:
        """Make a tenant unless it is there; say whether it was made."""
        with self.database.write(alone="tenants") as connection:
            missing = connection.scalar(sa.select(tenants.c.id).where(tenants.c.id == tenant_id)) is None
            if missing:
                connection.execute(
                    tenants.insert().values(id=tenant_id, epoch=0, revision=0, created_us=self.clock())
                )
        return missing

    def list_tenants(self) -> list[TenantId]:
        """Return every tenant's id."""
        with self.database.read() as connection:
            return [TenantId(i) for i in connection.scalars(sa.select(tenants.c.id).order_by(tenants.c.id))]

    @contextmanager
    def commit(self, tenant_id: TenantId, inputs: Collection[EntryId]) -> Iterator[Commit]:
        """Hold the fence shared, open a transaction, and say which inputs may no longer be used.

        An input is refused when it is denied, and also when its journal entry is gone.
        """
        with shared(self.fence, tenant_id), self.database.write(alone=tenant_id) as connection:
            refused = find_denied(connection, tenant_id, inputs)
            gone = set(inputs) - find_entries(connection, tenant_id, inputs)
            yield Commit(connection, frozenset(refused | gone))


def get_position(connection: sa.Connection, tenant_id: TenantId) -> Position:
    """Return the tenant's epoch and revision."""
    row = connection.execute(
        sa.select(tenants.c.epoch, tenants.c.revision).where(tenants.c.id == tenant_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError("tenant", tenant_id)
    return Position(row.epoch, row.revision)


def find_denied(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Collection[EntryId]
) -> set[EntryId]:
    """Return which of these entries are denied."""
    found: set[EntryId] = set()
    for chunk in chunked(sorted(entry_ids)):
        rows = connection.scalars(
            sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id, denied.c.entry_id.in_(chunk))
        )
        found |= {EntryId(i) for i in rows}
    return found


def find_entries(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Collection[EntryId]
) -> set[EntryId]:
    """Return which of these entries are in the journal."""
    found: set[EntryId] = set()
    for chunk in chunked(sorted(entry_ids)):
        rows = connection.scalars(
            sa.select(entries.c.id).where(entries.c.tenant_id == tenant_id, entries.c.id.in_(chunk))
        )
        found |= {EntryId(i) for i in rows}
    return found


def list_changes(
    connection: sa.Connection, tenant_id: TenantId, after_revision: int
) -> list[tuple[int, EntryId, str]]:
    """Return (revision, entry, kind) of what changed behind a revision, in order."""
    rows = connection.execute(
        sa.select(changes.c.revision, changes.c.entry_id, changes.c.kind)
        .where(changes.c.tenant_id == tenant_id, changes.c.revision > after_revision)
        .order_by(changes.c.revision)
    )
    return [(row.revision, EntryId(row.entry_id), row.kind) for row in rows]
