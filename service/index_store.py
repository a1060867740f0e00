"""The registered store over the live index and its files: what it holds, erases and says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from pathlib import PurePosixPath

import numpy as np
import sqlalchemy as sa

from memory.errors import CorruptionError
from memory.ports import Vectors
from memory.tables import manifests
from memory.values import EntryId, JsonValue, TenantId
from service.catalog import list_catalog_ids
from service.index import INDEX_FOLDER, Indexes
from service.published import WORDS, find_published


class IndexStore:
    """The live generation and the index files."""

    name = "index"
    tables = frozenset({"manifests"})

    def __init__(self, indexes: Indexes) -> None:
        self.indexes = indexes

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Write the index without what is denied; return how many rows went."""
        held = self.holds(tenant_id, ids)
        self.indexes.rewrite(tenant_id)
        return held

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many rows live generation, word index and saved files still hold of these."""
        generation = self.indexes.get(tenant_id)
        state = generation.state
        words = sum(generation.words.count_rows(EntryId(i)) for i in ids)
        here = [state.ordinals[EntryId(i)] for i in ids if EntryId(i) in state.ordinals]
        return int(state.passages[here].sum()) + words + self._count_saved(tenant_id, ids)

    def _count_saved(self, tenant_id: TenantId, ids: Set[str]) -> int:
        published = find_published(self.indexes.kernel, tenant_id)
        if published is None:
            return 0
        try:
            saved = list_catalog_ids(self.indexes.folder / tenant_id, published.catalog)
        except (CorruptionError, FileNotFoundError):
            return 0  # nothing that could be read is there; the scan looks at the files themselves
        return len(saved & ids)

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield each entry's rows with their vectors' digest, and how many rows the word index counts."""
        generation = self.indexes.get(tenant_id)
        state = generation.state
        for ordinal, card in enumerate(state.cards):
            rows = np.arange(card.first_row, card.first_row + card.passages + len(card.nodes))
            yield {
                "entry": card.row.id,
                "version": state.get_version(ordinal),
                "rows": len(rows),
                "sha256": digest_rows(generation.vectors.rows(rows)),
            }
        yield {"word_rows": generation.words.num_docs()}
        with self.indexes.kernel.database.read() as connection:
            for row in connection.execute(sa.select(manifests).where(manifests.c.tenant_id == tenant_id)):
                # The words' folder has a random name: their files differ each time they are written.
                name = None if row.kind == WORDS else row.folder
                yield {"manifest": row.kind, "artifact": row.artifact, "folder": name}

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """Every file in the index folder."""
        return path.parts[:1] == (INDEX_FOLDER,)


def digest_rows(vectors: Vectors) -> str:
    """Return the sha256 of float32 rows."""
    return hashlib.sha256(np.ascontiguousarray(vectors, np.float32).tobytes()).hexdigest()
