"""The registered store over the shelves: what is kept of passages on the device, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import PurePosixPath

from memory.values import JsonValue, TenantId
from service.shelf_files import SealedFiles
from service.shelves import Shelves


class ShelfStore:
    """Key/value memories. Other processes drop theirs before they say that they hold nothing older."""

    name = "kv"
    tables: frozenset[str] = frozenset()

    def __init__(self, shelves: Shelves) -> None:
        self.shelves = shelves

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Drop what was made of these entries, or bears these names, from device, memory and disk."""
        return self.shelves.erase(tenant_id, ids)

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many items device, memory and disk hold of these."""
        return self.shelves.count(tenant_id, ids)

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """No content: a cache that reads fill, so that what is in it depends on who asked for what."""
        return iter(())

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """Files that are named like these; others in the same folder are foreign."""
        return SealedFiles.owns(path)
