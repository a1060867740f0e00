"""The registered store over a tenant's collection in Milvus: what it holds, erases and says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from memory.kernel import find_denied
from memory.values import EntryId, JsonValue, TenantId
from service.index import Indexes
from service.milvus import Collections
from service.published import find_published
from service.state import entry_place, name_rows

if TYPE_CHECKING:
    from retrieval.milvus_vectors import MilvusVectors

PROBED_ROWS = 16
"""So many rows of an entry are asked for where it is not known any more how many it had."""


class CollectionStore:
    """The rows that a collection holds beside the files."""

    name = "milvus"
    tables: frozenset[str] = frozenset()

    def __init__(self, indexes: Indexes, collections: Collections) -> None:
        self.indexes = indexes
        self.collections = collections

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Have the collection hold what the published files hold, compared name by name."""
        held = self.holds(tenant_id, ids)
        self.indexes.match_collection(tenant_id)
        return held

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Ask the engine how many rows it holds under the names of these entries' rows."""
        name = self.indexes.name_collection(tenant_id)
        if name is None or name not in self.collections.list_names(tenant_id):
            return 0
        state = self.indexes.get(tenant_id).state
        with self.indexes.kernel.database.read() as connection:
            entries = find_denied(connection, tenant_id, {EntryId(i) for i in ids})
        known = np.array(sorted(state.ordinals[i] for i in entries if i in state.ordinals), np.int64)
        unknown = [entry_place(i) for i in entries if i not in state.ordinals]
        names = [
            state.row_name[state.rows_of(known)],
            name_rows(unknown, np.full(len(unknown), PROBED_ROWS)),
        ]
        return len(self._open(name).find(np.concatenate(names)))

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield how many rows there are, and the digest of their names."""
        published = find_published(self.indexes.kernel, tenant_id)
        if published is not None and published.collection is not None:
            names = self._open(published.collection).keys()
            yield {"rows": len(names), "sha256": hashlib.sha256(names.astype("<i8").tobytes()).hexdigest()}

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """No file here: Milvus keeps its own."""
        return False

    def _open(self, name: str) -> MilvusVectors:
        return self.collections.open(name, self.indexes.encoder.space.dimension)
