"""Each tenant's live generation: opened from the ledger, following commits, rewritten when something goes.

On disk: one digest-named vector segment, named by a manifest row and read by all processes, and the word
index of each running process. Both are caches of the ledger; a torn, stale or foreign file is remade or
deleted.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
import sqlalchemy as sa
import structlog

from memory.database import chunked
from memory.errors import CorruptionError
from memory.faults import point
from memory.journal import EntryRow, iter_headers
from memory.kernel import Kernel, find_denied, get_position, list_changes
from memory.ledger import artifact_name, iter_payloads, list_artifacts
from memory.parsed import load_parsed
from memory.ports import Encoder, Vectors
from memory.tables import denied, forgets, manifests
from memory.values import ArtifactName, Attributes, EntryId, JsonValue, TenantId
from retrieval.segments import read_segment, write_segment
from service.generation import Generation, Indexable
from service.ingest import Recipes, name_artifacts
from service.payloads import load_nodes, load_vectors
from service.presence import Presence

INDEX_FOLDER = "index"
SEGMENT_KIND = "vectors"
WORDS_FOLDER = "words"
LOAD_BATCH = 256
MERGE_SECONDS = 3600.0
UNSAVED_ROWS = 4096
"""So many rows are read from the ledger at start without hurry."""

log = structlog.get_logger()


class Indexes:
    """Generations by tenant. ``get`` is what searches use."""

    def __init__(self, kernel: Kernel, encoder: Encoder, recipes: Recipes) -> None:
        self.kernel = kernel
        self.presence = Presence(kernel)
        self.encoder = encoder
        self.recipes = recipes
        self._live: dict[TenantId, Generation] = {}
        self._locks: dict[TenantId, threading.RLock] = {}
        self._guard = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where all index files lie."""
        return self.kernel.data / INDEX_FOLDER

    def _lock(self, tenant_id: TenantId) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(tenant_id, threading.RLock())

    def folding(self, tenant_id: TenantId) -> AbstractContextManager[None]:
        """Return the lock, of all processes, under which a tenant's topics are folded."""
        return self.kernel.fence.exclusive(TenantId(f"fold {tenant_id}"), timeout_seconds=MERGE_SECONDS)

    def _merging(self, tenant_id: TenantId) -> AbstractContextManager[None]:
        """Return the lock, of all processes, under which a tenant's segment is written."""
        return self.kernel.fence.exclusive(TenantId(f"merge {tenant_id}"), timeout_seconds=MERGE_SECONDS)

    def get(self, tenant_id: TenantId) -> Generation:
        """Return the live generation, up to date with every commit and fence that came before this call."""
        live = self._live.get(tenant_id)
        if live is not None and not self.presence.has_lapsed:
            with self.kernel.database.read() as connection:
                position = get_position(connection, tenant_id)
            if position.revision <= live.revision and position.epoch <= live.hidden_epoch:
                return live
        with self._lock(tenant_id):
            if self.presence.has_lapsed:
                self._let_go()
            live = self._live.get(tenant_id)
            if live is None:
                live = self._live[tenant_id] = self._open(tenant_id)
            return self._follow(tenant_id, live)

    def _let_go(self) -> None:
        """Drop everything open: other processes took this one for ended and count on nothing it holds."""
        log.warning("was away for too long; opening all indexes anew")
        for live in list(self._live.values()):
            live.close()
        self._live.clear()
        self.presence.leave()

    def keep_up(self) -> None:
        """Follow what other processes committed, and open anew where one of them forgot something."""
        for tenant_id in list(self._live):
            live = self.get(tenant_id)
            if live.opened_epoch < live.hidden_epoch:
                self.reopen(tenant_id)

    def _follow(self, tenant_id: TenantId, live: Generation) -> Generation:
        with self.kernel.database.read() as connection:
            position = get_position(connection, tenant_id)
            forgotten = _list_denied_since(connection, tenant_id, live.hidden_epoch)
            changed = [
                entry_id
                for _, entry_id, kind in list_changes(connection, tenant_id, live.revision)
                if kind == "indexed"
            ]
        fresh = list(dict.fromkeys(changed))
        loaded = (self._load(tenant_id, batch, {}) for batch in chunked(fresh, LOAD_BATCH))
        read = list(loaded)  # all, before any is added
        try:
            live.append(read, position.revision)
        except BaseException:
            # It may be half in: what is opened next begins anew. Its files go with the next rewriting.
            del self._live[tenant_id]
            raise
        if position.epoch > live.hidden_epoch:
            live.hide(forgotten, position.epoch)
            self.presence.hold(tenant_id, live.opened_epoch)
        return live

    def _open(self, tenant_id: TenantId) -> Generation:
        """Build a generation of everything that is derived and not denied, in canonical order."""
        epoch = self.presence.enter(tenant_id)
        with self.kernel.database.read() as connection:
            revision = get_position(connection, tenant_id).revision
            under = {
                EntryId(entry_id)
                for _, entry_id in list_artifacts(connection, tenant_id, self.recipes.nodes.name)
            }
            wanted = sorted(under - find_denied(connection, tenant_id, under))
        name = f"{self.presence.process}-{self.kernel.new_id()}"
        folder = self.folder / tenant_id / WORDS_FOLDER / name
        generation = Generation(folder, self.encoder.space.dimension, epoch)
        stored = self._read_segment(tenant_id)
        loaded = (self._load(tenant_id, batch, stored) for batch in chunked(wanted, LOAD_BATCH))
        generation.append(loaded, revision)
        state = generation.state
        generation.saved_rows = sum(
            card.passages + len(card.nodes) for card in state.cards if card.row.id in stored
        )
        return generation

    def _load(
        self, tenant_id: TenantId, entry_ids: Sequence[EntryId], stored: dict[EntryId, Vectors]
    ) -> list[Indexable]:
        """Read what is derived of entries; those denied or not derived by today's recipes are left out."""
        names = {
            entry_id: name_artifacts(self.kernel, self.recipes, tenant_id, entry_id) for entry_id in entry_ids
        }
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, entry_ids)
            open_ids = [entry_id for entry_id in entry_ids if entry_id not in hidden]
            wanted = [
                name
                for entry_id in open_ids
                for name in (
                    names[entry_id].parse,
                    names[entry_id].nodes,
                    *(() if entry_id in stored else (names[entry_id].vectors,)),
                )
            ]
            payloads = dict(iter_payloads(connection, self.kernel.vault, tenant_id, wanted))
            headers = {
                row.id: (row, header.attributes)
                for row, header in iter_headers(connection, self.kernel.vault, tenant_id, open_ids)
            }
        loaded: list[Indexable] = []
        for entry_id in open_ids:
            mine = names[entry_id]
            if entry_id not in headers or mine.nodes not in payloads or mine.parse not in payloads:
                continue
            vectors = stored.get(entry_id)
            if vectors is None:
                if mine.vectors not in payloads:
                    continue
                vectors = load_vectors(payloads[mine.vectors], self.encoder.space.dimension)
            row, attributes = headers[entry_id]
            loaded.append(_indexable(row, attributes, payloads[mine.parse], vectors, payloads[mine.nodes]))
        return loaded

    def _read_segment(self, tenant_id: TenantId) -> dict[EntryId, Vectors]:
        """Return the vectors of the manifest's segment by entry; nothing when it is missing or damaged."""
        with self.kernel.database.read() as connection:
            name = connection.scalar(
                sa.select(manifests.c.folder).where(
                    manifests.c.tenant_id == tenant_id, manifests.c.kind == SEGMENT_KIND
                )
            )
        if name is None:
            return {}
        path = self.folder / tenant_id / name
        try:
            segment = read_segment(path)
        except (CorruptionError, FileNotFoundError) as error:
            log.warning("vector segment is remade from the ledger", error=type(error).__name__)
            point("segment.damaged")
            path.unlink(missing_ok=True)  # a file that has its name is taken for whole when it is written
            return {}
        if segment.space != self._space_name():
            return {}
        found: dict[EntryId, Vectors] = {}
        start = 0
        for owner, rows in groupby(segment.ids, lambda name: name.partition(":")[0]):
            end = start + sum(1 for _ in rows)
            found[EntryId(owner)] = np.asarray(segment.vectors[start:end], np.float32)
            start = end
        return found

    def name_index(self, tenant_id: TenantId) -> ArtifactName:
        """Return the index's name in the ledger: one artifact, whose inputs are all the vectors in it."""
        return artifact_name(self.kernel.vault, tenant_id, self.recipes.index, [])

    def _space_name(self) -> str:
        return f"{self.encoder.space.digest}:{self.encoder.space.numeric_class}"

    def rewrite(self, tenant_id: TenantId) -> None:
        """Write segment and word index anew from what is not denied, publish them, delete the old files."""
        with self._lock(tenant_id), self._merging(tenant_id):
            generation = self.reopen(tenant_id)
            self._write_segment(tenant_id, generation)
            self._delete_foreign_files(tenant_id)

    def reopen(self, tenant_id: TenantId) -> Generation:
        """Open the next generation from what is not denied, and let go of the one before."""
        with self._lock(tenant_id):
            old = self._live.get(tenant_id)
            generation = self._live[tenant_id] = self._open(tenant_id)
            if old is not None:
                old.close()
            self.presence.hold(tenant_id, generation.opened_epoch)
            return generation

    def _write_segment(self, tenant_id: TenantId, generation: Generation) -> None:
        state = generation.state
        ids: list[str] = []
        rows: list[int] = []
        for card in sorted(state.cards, key=lambda card: card.row.id):
            ids += [f"{card.row.id}:{index:06d}" for index in range(card.passages)]
            rows += range(card.first_row, card.first_row + card.passages)
        folder = self.folder / tenant_id
        folder.mkdir(parents=True, exist_ok=True)
        vectors = generation.vectors.rows(np.array(rows, np.int64))
        name = write_segment(folder, space=self._space_name(), ids=ids, vectors=vectors)
        artifact = self.name_index(tenant_id)
        with self.kernel.database.write() as connection:
            mine = (manifests.c.tenant_id == tenant_id) & (manifests.c.kind == SEGMENT_KIND)
            connection.execute(manifests.delete().where(mine))
            connection.execute(
                manifests.insert().values(
                    tenant_id=tenant_id, kind=SEGMENT_KIND, artifact=artifact, folder=name
                )
            )
        generation.saved_rows = len(state.row_entry)

    def _delete_foreign_files(self, tenant_id: TenantId) -> None:
        """Delete every index file that neither the manifest nor the live generation names."""
        folder = self.folder / tenant_id
        if not folder.exists():
            return
        with self.kernel.database.read() as connection:
            named = set(
                connection.scalars(sa.select(manifests.c.folder).where(manifests.c.tenant_id == tenant_id))
            )
        live = self._live.get(tenant_id)
        for path in folder.iterdir():
            if path.is_file() and path.name not in named:
                point("index.unlink")
                path.unlink()
        others = self.presence.list_living() - {self.presence.process}
        for path in (folder / WORDS_FOLDER).glob("*"):
            if path.name.partition("-")[0] not in others and (live is None or path != live.folder):
                point("index.rmtree")
                shutil.rmtree(path)

    def save(self, tenant_id: TenantId) -> None:
        """Compact: write the live generation's vectors into one segment, in canonical order."""
        with self._lock(tenant_id), self._merging(tenant_id):
            live = self.get(tenant_id)
            if live.opened_epoch < live.hidden_epoch:
                return  # it holds what is being forgotten; that request writes the segment without it
            self._write_segment(tenant_id, live)
            self._delete_foreign_files(tenant_id)

    def is_worth_saving(self, tenant_id: TenantId) -> bool:
        """Say whether so much came since the segment was written that it should be written again.

        A growing share, so that a bulk load writes each row a few times at most.
        """
        live = self.get(tenant_id)
        unsaved = len(live.state.row_entry) - live.saved_rows
        return unsaved > max(UNSAVED_ROWS, live.saved_rows // 2)

    def open_all(self) -> None:
        """Open every tenant's generation, and delete files left by a process that ended hard."""
        for tenant_id in self.kernel.list_tenants():
            self._delete_foreign_files(tenant_id)
            self.get(tenant_id)

    def count_rows(self) -> int:
        """Return how many rows are in memory, of all tenants."""
        return sum(len(live.state.row_entry) for live in list(self._live.values()))

    def close(self) -> None:
        """Close every generation; word indexes go, segments stay."""
        for generation in self._live.values():
            generation.close()
        self._live.clear()
        self.presence.leave()


class IndexStore:
    """The registered store over the live generation and the index files."""

    name = "index"
    tables = frozenset({"manifests"})

    def __init__(self, indexes: Indexes) -> None:
        self.indexes = indexes

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Rewrite the index from the survivors; return how many rows went."""
        held = self.holds(tenant_id, ids)
        self.indexes.rewrite(tenant_id)
        return held

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many rows the live generation, its word index and the segment still hold of these."""
        generation = self.indexes.get(tenant_id)
        state = generation.state
        words = sum(generation.words.count_rows(EntryId(i)) for i in ids)
        in_memory = sum(
            state.cards[state.ordinals[EntryId(i)]].passages for i in ids if EntryId(i) in state.ordinals
        )
        on_disk = sum(
            len(vectors)
            for entry_id, vectors in self.indexes._read_segment(tenant_id).items()
            if entry_id in ids
        )
        return in_memory + words + on_disk

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield each row with its vector's digest, and how many rows the word index counts."""
        generation = self.indexes.get(tenant_id)
        state = generation.state
        for ordinal, card in enumerate(state.cards):
            rows = np.flatnonzero(state.row_entry == ordinal)
            yield {
                "entry": card.row.id,
                "version": state.get_version(ordinal),
                "rows": len(rows),
                "sha256": digest_rows(generation.vectors.rows(rows)),
            }
        yield {"word_rows": generation.words.num_docs()}
        with self.indexes.kernel.database.read() as connection:
            for row in connection.execute(sa.select(manifests).where(manifests.c.tenant_id == tenant_id)):
                yield {"manifest": row.kind, "artifact": row.artifact, "folder": row.folder}

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """Every file in the index folder."""
        return path.parts[:1] == (INDEX_FOLDER,)


def _list_denied_since(connection: sa.Connection, tenant_id: TenantId, epoch: int) -> list[EntryId]:
    """Return the entries denied by forget requests after an epoch."""
    found = connection.scalars(
        sa.select(denied.c.entry_id)
        .join(forgets, forgets.c.id == denied.c.forget_id)
        .where(forgets.c.tenant_id == tenant_id, forgets.c.epoch > epoch)
    )
    return [EntryId(i) for i in found]


def _indexable(
    row: EntryRow, attributes: Attributes, parse: bytes, vectors: Vectors, nodes: bytes
) -> Indexable:
    return Indexable(row, attributes, load_parsed(parse), vectors, load_nodes(nodes))


def digest_rows(vectors: Vectors) -> str:
    """Return the sha256 of float32 rows."""
    return hashlib.sha256(np.ascontiguousarray(vectors, np.float32).tobytes()).hexdigest()
