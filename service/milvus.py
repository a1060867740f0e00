"""Tenants' saved vectors in Milvus: collections that follow the files, which stay the truth.

What a collection finds is scored again from the files, and what it lacks or has too much is put right from
them. Rows are known there by their names, which do not change when a row moves, so that processes on an older
catalog and on a newer one search the same collection. Nothing here knows SQL, jobs or certificates.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import structlog

from memory.errors import UnavailableError
from memory.values import JsonValue, TenantId
from retrieval.engine_residue import Retention, state_absence, state_residue
from retrieval.vectors import Allowed, Keys, Scores
from service.catalog import Saved
from service.state import Names, Numbers

if TYPE_CHECKING:
    from retrieval.milvus_vectors import MilvusVectors

COMPACT_SECONDS = 600.0
INDEX_PARAMS = {"FLAT": {}, "HNSW": {"M": 32, "efConstruction": 200}}
SEARCH_PARAMS = {"FLAT": {}, "HNSW": {"ef": 256}}
_PUT_ROWS = 8192

log = structlog.get_logger()


@dataclass(frozen=True)
class Collections:
    """The collections of one installation, which are those whose names begin with ``prefix``.

    ``keeps``: whether vectors are to be there at all; else what is there is dropped as files are written.
    """

    address: str
    token: str = field(default="", repr=False)
    prefix: str = "lethe"
    index: str = "FLAT"
    retention: Retention = field(default_factory=Retention)
    keeps: bool = True
    _opened: dict[str, MilvusVectors] = field(default_factory=dict, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def name(self, tenant_id: TenantId, about: str) -> str:
        """Return a collection's name; ``about`` says what makes vectors what they are (``write_catalog``)."""
        digest = hashlib.sha256(f"{self.index} {about}".encode()).hexdigest()
        return f"{self._begin(tenant_id)}{digest[:16]}"

    def _begin(self, tenant_id: TenantId) -> str:
        # Milvus takes letters, digits and underscores; a tenant's id has no capitals.
        return f"{self.prefix}_{tenant_id.replace('-', 'X')}_"

    def ask(self) -> tuple[str, list[str]]:
        """Return the engine's version, and the names of all collections that it has, whoever's."""
        # Deferred, as below: only those who use Milvus have its client.
        from retrieval.milvus_vectors import list_collections

        return list_collections(self.address, self.token)

    def list_names(self, tenant_id: TenantId) -> list[str]:
        """Return the names of the tenant's collections, of whatever model."""
        return self._pick(tenant_id, self.ask()[1])

    def _pick(self, tenant_id: TenantId, names: list[str]) -> list[str]:
        mine = re.compile(re.escape(self._begin(tenant_id)) + "[0-9a-f]{16}")
        return [name for name in names if mine.fullmatch(name)]

    def open(self, name: str, dimension: int, *, must_exist: bool = True) -> MilvusVectors:
        """Return a collection; it is connected to when it is first needed."""
        from retrieval.milvus_vectors import MilvusVectors

        known = self._opened.get(name)
        if known is not None:
            return known
        opened = MilvusVectors(
            dimension,
            address=self.address,
            collection=name,
            token=self.token,
            index_type=self.index,
            index_params=INDEX_PARAMS[self.index],
            search_params=SEARCH_PARAMS[self.index],
            must_exist=must_exist,
        )
        with self._guard:
            return self._opened.setdefault(name, opened)

    def bring(self, tenant_id: TenantId, name: str, saved: Saved, known: Numbers) -> None:
        """Have a collection hold every row of a catalog, before others open that.

        ``known`` are the names of rows that it holds as they are now.
        """
        if name not in self.list_names(tenant_id):
            with self._guard:
                self._opened.pop(name, None)  # another process dropped it
        collection = self.open(name, saved.vectors.dimension, must_exist=False)
        names = np.unique(saved.state.row_name)
        self._put(collection, saved, np.setdiff1d(names, known))
        if len(collection) < len(np.union1d(names, known)):
            log.warning("a collection has not what it should; it is filled from the files", collection=name)
            self._put(collection, saved, np.setdiff1d(names, collection.keys()))

    def trim(self, name: str, saved: Saved, known: Numbers) -> None:
        """Have a collection hold no rows but those of a catalog that is published, which is in it.

        ``known`` are names that it may hold from before.
        """
        collection = self.open(name, saved.vectors.dimension)
        names = np.unique(saved.state.row_name)
        gone = np.setdiff1d(known, names)
        collection.remove(gone)
        if len(collection) != len(names):
            self.match(name, saved)
        if len(left := collection.find(gone)):
            raise UnavailableError(f"Milvus: {name} still holds {len(left)} rows that were removed")

    def match(self, name: str, saved: Saved) -> None:
        """Compare all names, and have a collection hold the rows of a catalog, no more and no fewer."""
        collection = self.open(name, saved.vectors.dimension)
        names = np.unique(saved.state.row_name)
        held = collection.keys()
        missing, strange = np.setdiff1d(names, held), np.setdiff1d(held, names)
        if len(missing) or len(strange):
            log.info("a collection is put right", missing=len(missing), strange=len(strange))
            self._put(collection, saved, missing)
            collection.remove(strange)
            if not np.array_equal(collection.keys(), names):
                raise UnavailableError(f"Milvus: {name} does not hold what was written to it")

    def drop(self, tenant_id: TenantId, *, keep: str | None = None) -> str:
        """Drop the tenant's collections but one, and return the engine's version."""
        from retrieval.milvus_vectors import drop_collection

        version, names = self.ask()
        for name in self._pick(tenant_id, names):
            if name != keep:
                drop_collection(self.address, name, self.token)
                with self._guard:
                    self._opened.pop(name, None)
        return version

    def settle(self, tenant_id: TenantId, name: str | None, dimension: int) -> dict[str, JsonValue]:
        """Have the engine rewrite what holds removed rows; return what a certificate may say then.

        ``name`` is the collection in use; without one all of the tenant's are dropped.
        """
        version = self.drop(tenant_id, keep=name)
        if name is None:
            return state_absence(version, self.retention)
        compacted = self.open(name, dimension).compact(timeout_seconds=COMPACT_SECONDS)
        return state_residue(compacted, self.retention)

    def _put(self, collection: MilvusVectors, saved: Saved, names: Numbers) -> None:
        rows = saved.state.names.to_keys(names)
        for start in range(0, len(names), _PUT_ROWS):
            part = slice(start, start + _PUT_ROWS)
            collection.put(names[part], saved.vectors.rows(rows[part]))


@dataclass(frozen=True)
class NamedSearcher:
    """Searches a catalog's rows, known by their places, in a collection that knows them by their names.

    Rows of a newer catalog are passed over: of this one's none are missing that are not denied.
    """

    collections: Collections
    name: str
    dimension: int
    names: Names
    count: int

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        """Return (places, inner products), best first; ``allowed`` is a bitmap over places."""
        admitted = self.count if allowed is None else int(np.count_nonzero(allowed))
        if admitted == 0:
            return np.empty(0, np.int64), np.empty(0)

        def admits(names: Keys) -> npt.NDArray[np.bool_]:
            places = self.names.to_keys(names)
            known = places >= 0
            if allowed is not None:
                known[known] = allowed[places[known]]
            return known

        def list_admitted() -> Keys:
            return self.names.to_names(np.arange(self.count) if allowed is None else np.flatnonzero(allowed))

        found, scores = self.collections.open(self.name, self.dimension).search_where(
            query, limit=limit, admits=admits, list_admitted=list_admitted, share=admitted / self.count
        )
        return self.names.to_keys(found), scores
