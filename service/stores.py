"""The registered stores over SQL and the key database: what each holds, erases and says of itself.

Every content-plane table and every kind of file under the data folder belongs to exactly one store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from pathlib import PurePosixPath

import sqlalchemy as sa

from memory.database import chunked
from memory.errors import ForgottenError
from memory.journal import delete_entries
from memory.kernel import Kernel
from memory.ledger import delete, drop_edges_from
from memory.tables import artifacts, edges, entries, keys
from memory.values import EntryId, JsonValue, TenantId
from memory.vault import SealedVault

DATABASE_FILES = frozenset({"lethe.db", "lethe.db-wal", "lethe.db-shm", "lethe.db-journal"})
KEY_FILES = frozenset({"keys.db", "keys.db-wal", "keys.db-shm", "keys.db-journal", "root.key"})
CONTROL_FILES = frozenset({"admin.key", "serving.lock"})
BROKER_FOLDER = "broker"
CONTENT_TABLES = ("entries", "artifacts", "edges", "manifests", "changes")


class JournalStore:
    """Sealed entries."""

    name = "journal"
    tables = frozenset({"entries"})

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Delete entries."""
        with self.kernel.database.write(alone=tenant_id) as connection:
            return delete_entries(connection, tenant_id, {EntryId(i) for i in ids})

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many of these entries are still there."""
        return _count(self.kernel, entries.c.id, entries.c.tenant_id == tenant_id, ids)

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield one record per entry: its keyed content digest stands for the content."""
        with self.kernel.database.read() as connection:
            rows = connection.execute(sa.select(entries).where(entries.c.tenant_id == tenant_id))
            for row in rows:
                yield {
                    "entry": row.id,
                    "source": row.source_id,
                    "kind": row.kind,
                    "external_key": row.external_key,
                    "recorded_us": row.recorded_us,
                    "content_key": row.content_key,
                    "stream": row.stream_id,
                }

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """The data database, which holds the control plane too."""
        return str(path) in DATABASE_FILES


class ArtifactStore:
    """Sealed artifacts and the edges of the ledger."""

    name = "artifacts"
    tables = frozenset({"artifacts", "edges"})

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Delete artifacts of these names, whatever is sealed under these entries, and edges from them.

        The index is an artifact without a row here: it loses its edges from what goes, and keeps the rest.
        """
        with self.kernel.database.write(alone=tenant_id) as connection:
            names: set[str] = set()
            for chunk in chunked(sorted(ids)):
                mine = artifacts.c.name.in_(chunk) | artifacts.c.sealed_under.in_(chunk)
                found = sa.select(artifacts.c.name).where(artifacts.c.tenant_id == tenant_id, mine)
                names |= set(connection.scalars(found))
            deleted = delete(connection, tenant_id, names)
            drop_edges_from(connection, tenant_id, ids)
            return deleted

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many artifacts and edges still stand under these ids."""
        mine = artifacts.c.tenant_id == tenant_id
        return (
            _count(self.kernel, artifacts.c.name, mine, ids)
            + _count(self.kernel, artifacts.c.sealed_under, mine, ids)
            + _count(self.kernel, edges.c.input, edges.c.tenant_id == tenant_id, ids)
        )

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield artifacts with the digest of what is inside, and the edges."""
        vault = self.kernel.vault
        with self.kernel.database.read() as connection:
            rows = connection.execute(sa.select(artifacts).where(artifacts.c.tenant_id == tenant_id)).all()
            for chunk in chunked(rows):
                opener = vault.opener(tenant_id, [row.sealed_under for row in chunk if row.sealed_under])
                for row in chunk:
                    try:
                        plain = opener.open(row.sealed_under, f"artifact:{row.name}", row.payload)
                    except ForgottenError:
                        continue  # its key was destroyed after the row was read
                    digest = hashlib.sha256(plain).hexdigest()
                    yield {"artifact": row.name, "recipe": row.recipe, "sha256": digest}
            for edge in connection.execute(sa.select(edges).where(edges.c.tenant_id == tenant_id)):
                yield {"artifact": edge.artifact, "input": edge.input}

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """No file of its own: its tables are in the data database."""
        return False


class KeyStore:
    """Data keys and subject keys, in a database that no backup of the data contains."""

    name = "keys"
    tables = frozenset({"keys", "key_uses"})

    def __init__(self, vault: SealedVault) -> None:
        self.vault = vault

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Destroy the entries' keys."""
        return self.vault.destroy_keys(tenant_id, {EntryId(i) for i in ids})

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many of these entries still have a key."""
        return self.vault.count_keys(tenant_id, {EntryId(i) for i in ids})

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield which keys there are; the keys themselves are random."""
        with self.vault.database.read() as connection:
            names = connection.scalars(sa.select(keys.c.name).where(keys.c.tenant_id == tenant_id))
            for name in names:
                yield {"key": name}

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """The key database and the root key."""
        return str(path) in KEY_FILES


class ControlFiles:
    """Files that hold no content: the first API key, locks, the embedded broker's list of job ids."""

    name = "control"
    tables: frozenset[str] = frozenset()

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Nothing to erase."""
        return 0

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Nothing is held."""
        return 0

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """No content."""
        return iter(())

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """The named files and everything of the broker's."""
        return str(path) in CONTROL_FILES or path.parts[:1] == (BROKER_FOLDER,)


def _count(kernel: Kernel, column: sa.Column[str], mine: sa.ColumnElement[bool], ids: Set[str]) -> int:
    with kernel.database.read() as connection:
        return sum(
            connection.scalar(
                sa.select(sa.func.count()).select_from(column.table).where(mine, column.in_(chunk))
            )
            or 0
            for chunk in chunked(sorted(ids))
        )
