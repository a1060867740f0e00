"""Each tenant's live generation: opened from files, following commits, written anew when something goes.

On disk: immutable files that a manifest row names and all processes map, the words saved with them, and the
word index of each running process, which begins as links to those. All are caches of the ledger; a torn,
stale or foreign file is remade or deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import structlog

from embedding.codes import rotate
from memory.canonical import canonical_json
from memory.database import chunked
from memory.errors import CorruptionError, LetheError, UnavailableError
from memory.faults import point
from memory.kernel import Kernel, find_denied, get_position, list_changes
from memory.ledger import artifact_name, list_artifacts
from memory.ports import Encoder
from memory.tables import denied, forgets
from memory.values import ArtifactName, EntryId, JsonValue, TenantId
from retrieval.lexical import LexicalIndex, link_lexical
from retrieval.tiered import CODED_ROWS, TieredVectors
from retrieval.topics import Folded
from retrieval.vectors import Searcher
from service.catalog import Saved, list_catalog_names, read_catalog, write_catalog
from service.generation import Generation, Indexable
from service.ingest import Recipes
from service.loading import add_words, iter_indexable
from service.milvus import Collections, NamedSearcher
from service.presence import Presence
from service.published import (
    LIVE_FOLDER,
    Published,
    delete_unnamed,
    find_engine,
    find_published,
    note_engine,
    publish,
    remove,
)
from service.state import Numbers, State

INDEX_FOLDER = "index"
FORMAT = 2
"""Goes up with what is saved beside recipes' work: how words are cut and stemmed, titles, names of rows."""
MERGE_SECONDS = 3600.0
UNSAVED_ROWS = 4096
"""So many rows are read from the ledger at start without hurry."""
MOST_UNSAVED_ROWS = 32_768
"""So many, or a sixteenth of those saved, are compared whole without hurry."""

log = structlog.get_logger()


class Indexes:
    """Generations by tenant. ``get`` is what searches use.

    What is saved is searched through the codes in its files, or by rows on ``device``, or in ``collections``.
    """

    def __init__(
        self,
        kernel: Kernel,
        encoder: Encoder,
        recipes: Recipes,
        *,
        coded_rows: int = CODED_ROWS,
        device: str | None = None,
        collections: Collections | None = None,
    ) -> None:
        self.kernel = kernel
        self.presence = Presence(kernel)
        self.encoder = encoder
        self.recipes = recipes
        self.coded_rows = coded_rows
        self.device = device
        self.collections = collections
        self.folded: dict[TenantId, Folded] = {}
        """What this process knows of its last fold of topics."""
        self._live: dict[TenantId, Generation] = {}
        self._entered: set[TenantId] = set()
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

    def _merging(
        self, tenant_id: TenantId, *, timeout_seconds: float = MERGE_SECONDS
    ) -> AbstractContextManager[None]:
        """Return the lock, of all processes, under which a tenant's files are written and deleted."""
        return self.kernel.fence.exclusive(TenantId(f"merge {tenant_id}"), timeout_seconds=timeout_seconds)

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
                live = self.reopen(tenant_id)
            return self._follow(tenant_id, live)

    def _let_go(self) -> None:
        """Drop everything open: other processes took this one for ended and count on nothing it holds."""
        log.warning("was away for too long; opening all indexes anew")
        for live in list(self._live.values()):
            live.close()
        self._live.clear()
        self._entered.clear()
        self.presence.leave()

    def keep_up(self) -> None:
        """Follow what other processes committed, and open what they saved without what was forgotten.

        One tenant's trouble keeps no other's from being let go of; the first is raised in the end.
        """
        troubles: list[Exception] = []
        for tenant_id in list(self._entered):
            try:
                self._keep_up(tenant_id)
            except (LetheError, sa.exc.SQLAlchemyError, OSError, ValueError) as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def _keep_up(self, tenant_id: TenantId) -> None:
        self.get(tenant_id)
        with self._lock(tenant_id):
            live = self._live.get(tenant_id)
            if live is None:
                return
            published = find_published(self.kernel, tenant_id)
            was_saved_anew = published is not None and published.catalog != live.opened_from
            # What is forgotten but still in the saved files goes when they are written anew.
            if was_saved_anew or (live.opened_epoch < live.hidden_epoch and not live.hides_saved):
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
        read = list(self._load(tenant_id, fresh))  # all, before any is added
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

    def _load(self, tenant_id: TenantId, entry_ids: list[EntryId]) -> Iterator[list[Indexable]]:
        dimension = self.encoder.space.dimension
        return iter_indexable(self.kernel, self.recipes, dimension, tenant_id, entry_ids)

    def reopen(self, tenant_id: TenantId, *, anew: bool = False) -> Generation:
        """Open the next generation, and let go of the one before; ``anew``, from the ledger alone."""
        with self._lock(tenant_id):
            self._entered.add(tenant_id)
            old = self._live.get(tenant_id)
            words = self._new_words(tenant_id)
            try:
                generation = self._live[tenant_id] = self._open(tenant_id, words, anew=anew)
            except BaseException:
                if words.exists():  # nobody else would take it for foreign as long as this process lives
                    remove(words)
                raise
            if old is not None:
                shown = generation.state.ordinals
                generation.kept |= {i: value for i, value in list(old.kept.items()) if i in shown}
                old.close()
            for path in words.parent.glob(f"{self.presence.process}-*"):
                if path != generation.folder:  # of one that was dropped half-way
                    remove(path)
            self.presence.hold(tenant_id, generation.opened_epoch)
            return generation

    def _open(self, tenant_id: TenantId, folder: Path, *, anew: bool) -> Generation:
        """Open what is saved and add what is derived beside it; nothing that is denied is in any view."""
        epoch = self.presence.enter(tenant_id)
        published = find_published(self.kernel, tenant_id)
        opened_from = None if published is None else published.catalog
        found = None if anew else self._read_saved(tenant_id, folder)
        with self.kernel.database.read() as connection:
            revision = get_position(connection, tenant_id).revision
            under = {
                EntryId(entry_id)
                for _, entry_id in list_artifacts(connection, tenant_id, self.recipes.nodes.name)
            }
            held = set() if found is None else set(found[0].state.ordinals)
            hidden = find_denied(connection, tenant_id, under | held)
            going = _list_epochs(connection, tenant_id, held & hidden)
        if held - under - hidden:
            log.warning("saved index holds what the ledger does not know; it is remade from the ledger")
            found, held = None, set()
            remove(folder)
        saved, words = found or (self._empty(), LexicalIndex(folder))
        generation = Generation(words, saved, epoch, opened_from)
        if held & hidden:
            generation.opened_epoch = min(going.values(), default=epoch) - 1
            generation.hide(held & hidden, epoch)
        generation.append(self._load(tenant_id, sorted(under - hidden - held)), revision)
        return generation

    def _empty(self) -> Saved:
        vectors = TieredVectors(self.encoder.space.dimension, rotate=rotate, coded_rows=self.coded_rows)
        return Saved(State(), (), 0, vectors)

    def _new_words(self, tenant_id: TenantId) -> Path:
        """Return a folder of this process's own for the word index of the next generation."""
        name = f"{self.presence.process}-{self.kernel.new_id()}"
        return self.folder / tenant_id / LIVE_FOLDER / name

    def _read_saved(self, tenant_id: TenantId, words: Path) -> tuple[Saved, LexicalIndex] | None:
        """Return what is saved, its words in a folder of this process's own.

        ``None``, and no folder, when files are missing or damaged, or when they are of another model.
        """
        folder = self.folder / tenant_id
        published = find_published(self.kernel, tenant_id)
        while published is not None:
            try:
                saved = self._read_catalog(tenant_id, published.catalog)
                if saved is None:
                    return None
                saved.vectors.searcher = self._find_searcher(tenant_id, saved, published)
                link_lexical(folder / published.words, words)
                index = LexicalIndex(words)
                if index.num_docs() == saved.word_rows:
                    return saved, index
                trouble = "rows are missing in the word index"
            except (CorruptionError, OSError, ValueError) as error:
                trouble = type(error).__name__
            if words.exists():
                remove(words)
            before, published = published, find_published(self.kernel, tenant_id)
            if published == before:  # else another process published anew and deleted these
                log.warning("saved index is remade from the ledger", error=trouble)
                point("segment.damaged")
                return None
        return None

    def _read_catalog(self, tenant_id: TenantId, name: str) -> Saved | None:
        folder = self.folder / tenant_id
        return read_catalog(folder, name, self._about(), rotate=rotate, coded_rows=self.coded_rows)

    def _find_searcher(self, tenant_id: TenantId, saved: Saved, published: Published) -> Searcher | None:
        """Return what searches a catalog's rows; ``None`` for its codes, or where they are too few."""
        dimension, count = saved.vectors.dimension, saved.state.saved
        if not saved.vectors.has_codes:
            return None
        if self.device is not None:
            # Deferred: a process without a device needs no torch for its vectors.
            from retrieval.torch_vectors import fill

            try:
                return fill(saved.vectors.rows, count, dimension, self.device)
            except UnavailableError as error:
                log.warning("the codes are searched instead", error=str(error))
        name = self.name_collection(tenant_id)
        if self.collections and self.collections.keeps and name is not None and name == published.collection:
            # Nothing is asked of the engine yet: what needs no search goes on without it.
            return NamedSearcher(self.collections, name, dimension, saved.state.names, count)
        return None

    def name_collection(self, tenant_id: TenantId) -> str | None:
        """Return the name of the tenant's collection in Milvus, where that is used; it need not be there."""
        return None if self.collections is None else self.collections.name(tenant_id, self._about())

    def name_index(self, tenant_id: TenantId) -> ArtifactName:
        """Return the index's name in the ledger: one artifact, whose inputs are all the vectors in it."""
        return artifact_name(self.kernel.vault, tenant_id, self.recipes.index, [])

    def _about(self) -> str:
        """Return what saved files must have been made by to be of use: recipes and encoder."""
        space = self.encoder.space
        recipes = [self.recipes.parse, self.recipes.vectors, self.recipes.nodes, self.recipes.index]
        versions: list[JsonValue] = [f"{recipe.name} {recipe.version}" for recipe in recipes]
        # What hears changes texts of recordings under no other version.
        versions.append(self.recipes.timed.digest.hex())
        return canonical_json([FORMAT, space.digest, space.numeric_class, versions]).decode()

    def rewrite(self, tenant_id: TenantId, *, anew: bool = False) -> None:
        """Write everything without what is denied, publish it, open that, delete the old files.

        ``anew``, from the ledger alone: what was derived again may differ from what is saved.
        """
        with self._merging(tenant_id):
            live = self.reopen(tenant_id, anew=True) if anew else self.get(tenant_id)
            self._replace(tenant_id, live, anew=anew)

    def save(self, tenant_id: TenantId) -> None:
        """Compact: write what came since into the files."""
        with self._merging(tenant_id):
            live = self.get(tenant_id)
            if live.opened_epoch < live.hidden_epoch:
                return  # it holds what is being forgotten; that request writes the files without it
            self._replace(tenant_id, live)

    def _replace(self, tenant_id: TenantId, live: Generation, *, anew: bool = False) -> None:
        """Write what a generation shows, and open that. Searches and ingest go on meanwhile.

        What comes in between is read from the ledger when the files are opened. A collection holds all of it
        before it is published, and only then loses what is gone: no process searches a part.
        """
        folder = self.folder / tenant_id
        folder.mkdir(parents=True, exist_ok=True)
        before = find_published(self.kernel, tenant_id)
        engine = find_engine(self.kernel, tenant_id)
        if self.collections is None and engine is not None:
            raise UnavailableError(
                f"vectors are in Milvus, too, in {engine}, and what goes must go there: set "
                "LETHE_VECTORS=milvus and LETHE_MILVUS_ADDRESS for this process as for the others, or the "
                "address with LETHE_VECTORS=files to have the collection dropped"
            )
        # What was derived anew may differ under the same name: all of it is written again.
        known = np.empty(0, np.int64) if anew else self._list_known(tenant_id, before)
        words = f"words-{self.kernel.new_id()}"
        with live.held() as state:
            shows_all = bool((state.valid_until > 0).all())
            if shows_all:
                live.words.link_to(folder / words)
                word_rows = live.words.num_docs()
        if not shows_all:
            word_rows = self._write_words(tenant_id, state, folder / words)
        catalog = write_catalog(
            folder,
            self._about(),
            state,
            live.list_titles(),
            word_rows,
            live.vectors,
            rotate=rotate,
            coded_rows=self.coded_rows,
        )
        saved = None if self.collections is None else self._read_catalog(tenant_id, catalog)
        collection = None if saved is None else self._bring(tenant_id, saved, known)
        with self._lock(tenant_id):
            published = Published(catalog, words, collection)
            publish(self.kernel, tenant_id, self.name_index(tenant_id), published)
            self.reopen(tenant_id)
            self._delete_unnamed(tenant_id)
        if saved is not None:
            self._trim(tenant_id, saved, known)

    def _list_known(self, tenant_id: TenantId, published: Published | None) -> Numbers:
        """Return the names of the rows that the tenant's collection holds already."""
        name = self.name_collection(tenant_id)
        if published is not None and name is not None and published.collection == name:
            # Of a damaged one nothing is known: the collection is compared whole.
            with suppress(CorruptionError, FileNotFoundError):
                return list_catalog_names(self.folder / tenant_id, published.catalog)
        return np.empty(0, np.int64)

    def _bring(self, tenant_id: TenantId, saved: Saved, known: Numbers) -> str | None:
        """Have the tenant's collection hold a catalog; return its name, ``None`` where it is not searched."""
        name = self.name_collection(tenant_id)
        assert self.collections is not None and name is not None
        if not self.collections.keeps or not saved.vectors.has_codes:
            return None
        if find_engine(self.kernel, tenant_id) != name:
            note_engine(self.kernel, tenant_id, self.name_index(tenant_id), name)
        self.collections.bring(tenant_id, name, saved, known)
        return name

    def _trim(self, tenant_id: TenantId, saved: Saved, known: Numbers) -> None:
        """Take out of Milvus what is not in a catalog, which is published now.

        Where it is too small to be searched there, others may still search what it was before: its rows stay
        until ``settle``.
        """
        assert self.collections is not None
        if find_engine(self.kernel, tenant_id) is None:
            return
        name = self.name_collection(tenant_id) if self.collections.keeps else None
        there = self.collections.list_names(tenant_id)
        if name is not None and name in there:
            self.collections.trim(name, saved, known)
        if set(there) - {name}:
            self.collections.drop(tenant_id, keep=name)
            self._note_gone(tenant_id)

    def match_collection(self, tenant_id: TenantId) -> None:
        """Have a collection hold what the published files hold, compared name by name."""
        name = self.name_collection(tenant_id)
        assert self.collections is not None
        with self._merging(tenant_id):
            published = find_published(self.kernel, tenant_id)
            saved = None if published is None else self._read_catalog(tenant_id, published.catalog)
            if saved is not None and name is not None and name in self.collections.list_names(tenant_id):
                self.collections.match(name, saved)

    def settle(self, tenant_id: TenantId) -> dict[str, JsonValue]:
        """Have Milvus rewrite what holds removed rows, or drop what is not searched any more.

        Return what a certificate may say then. No process may search what was published before.
        """
        assert self.collections is not None
        with self._merging(tenant_id):
            published = find_published(self.kernel, tenant_id)
            name = None if published is None else published.collection
            said = self.collections.settle(tenant_id, name, self.encoder.space.dimension)
            self._note_gone(tenant_id)
            return said

    def _note_gone(self, tenant_id: TenantId) -> None:
        """Write down that the tenant's vectors are in no collection, when there is none."""
        assert self.collections is not None
        if not self.collections.list_names(tenant_id):
            note_engine(self.kernel, tenant_id, self.name_index(tenant_id), None)

    def is_to_move(self, tenant_id: TenantId) -> bool:
        """Say whether writing the files again would bring saved vectors into Milvus, or out of it."""
        published = find_published(self.kernel, tenant_id)
        if self.collections is None or published is None:
            return False
        if not self.collections.keeps:
            return find_engine(self.kernel, tenant_id) is not None
        is_wanted = self.get(tenant_id).vectors.has_codes
        return published.collection != (self.name_collection(tenant_id) if is_wanted else None)

    def name_searching(self, tenant_id: TenantId) -> str:
        """Say what searches the tenant's saved vectors now."""
        vectors = self.get(tenant_id).vectors
        if not vectors.has_codes:
            return "memory"
        if vectors.searcher is None:
            return "files"
        return "milvus" if self.device is None else self.device

    def _write_words(self, tenant_id: TenantId, state: State, folder: Path) -> int:
        """Write the words of what a view shows anew, return how many rows they are of.

        What is hidden would stay in the statistics and the files of the live index.
        """
        words = LexicalIndex(folder)
        alive = np.flatnonzero(state.valid_until > 0).tolist()
        add_words(self.kernel, self.recipes, tenant_id, state, alive, words)
        rows = words.num_docs()
        words.close()
        return rows

    def _delete_unnamed(self, tenant_id: TenantId) -> None:
        """Delete every index file that no manifest, live generation or other process names."""

        def list_kept() -> dict[str, bool]:
            keep = dict.fromkeys(self.presence.list_living() - {self.presence.process}, True)
            live = self._live.get(tenant_id)
            if live is not None:
                keep[live.folder.name] = True
            return keep

        delete_unnamed(self.folder / tenant_id, find_published(self.kernel, tenant_id), list_kept)

    def is_worth_saving(self, tenant_id: TenantId) -> bool:
        """Say whether so much came since the files were written that they should be written again.

        A growing share, so that a bulk load writes each row a few times at most, up to what searches can well
        compare whole.
        """
        state = self.get(tenant_id).state
        unsaved = len(state.row_entry) - state.saved
        share = min(state.saved // 2, max(MOST_UNSAVED_ROWS, state.saved // 16))
        return unsaved > max(UNSAVED_ROWS, share)

    def open_all(self) -> None:
        """Open every tenant's generation, and delete files left by a process that ended hard."""
        for tenant_id in self.kernel.list_tenants():
            # While another process writes files, it looks after those that nobody names, too.
            with (
                suppress(UnavailableError),
                self._merging(tenant_id, timeout_seconds=0.1),
                self._lock(tenant_id),
            ):
                self._delete_unnamed(tenant_id)
            self.get(tenant_id)

    def count_new_rows(self) -> int:
        """Return how many rows' vectors are in memory whole, of all tenants."""
        return sum(live.vectors.new_rows for live in list(self._live.values()))

    def close(self) -> None:
        """Close every generation; word indexes of this process go, what is saved stays."""
        for generation in self._live.values():
            generation.close()
        self._live.clear()
        self._entered.clear()
        self.presence.leave()


def _list_denied_since(connection: sa.Connection, tenant_id: TenantId, epoch: int) -> list[EntryId]:
    """Return the entries denied by forget requests after an epoch."""
    found = connection.scalars(
        sa.select(denied.c.entry_id)
        .join(forgets, forgets.c.id == denied.c.forget_id)
        .where(forgets.c.tenant_id == tenant_id, forgets.c.epoch > epoch)
    )
    return [EntryId(i) for i in found]


def _list_epochs(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Set[EntryId]
) -> dict[EntryId, int]:
    """Return the epoch at which each of these denied entries was denied."""
    found: dict[EntryId, int] = {}
    for chunk in chunked(sorted(entry_ids)):
        rows = connection.execute(
            sa.select(denied.c.entry_id, forgets.c.epoch)
            .join(forgets, forgets.c.id == denied.c.forget_id)
            .where(denied.c.tenant_id == tenant_id, denied.c.entry_id.in_(chunk))
        )
        found.update({EntryId(row.entry_id): int(row.epoch) for row in rows})
    return found
