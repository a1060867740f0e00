"""Watches: queries that stand, held against what comes in. Each is a journal entry of its own.

So it is sealed, backed up and forgotten as all else is. All watches of a tenant bear one keyed name in the
journal, by which they are listed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import orjson
import sqlalchemy as sa

from memory.errors import ConflictError, ForgottenError, NotFoundError
from memory.filters import compile_filter
from memory.journal import EntryRow, append, content_key, get_content, list_named, record_changes
from memory.kernel import Kernel, find_denied
from memory.values import (
    WATCH_MEDIA_TYPE,
    Attributes,
    Content,
    EntryId,
    JsonValue,
    Parsed,
    SourceId,
    TenantId,
)
from service.cursor import make_cursor, read_cursor
from service.generation import Generation
from service.matching import Match, Prepared, Watch, list_newest, match_entry
from service.recall import Recaller, Texts
from service.remember import INGEST, fresh_keys
from service.streams import is_whole
from service.views import Page, RecallHit

THRESHOLD = 0.5
"""Measured with all-MiniLM-L6-v2: docs/decisions/0015-watches.md."""
MOST_WATCHES = 500
"""Of one tenant: each is held against every segment that is told of."""


class Watches:
    """The use cases of watches, and which of them a passage matches."""

    def __init__(self, kernel: Kernel, recaller: Recaller, wake: Callable[[str], None]) -> None:
        self.kernel = kernel
        self.recaller = recaller
        self.wake = wake
        self._lock = threading.Lock()

    def create(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        name: str | None = None,
        filter: Mapping[str, JsonValue] | None = None,
        stream_id: SourceId | None = None,
        threshold: float = THRESHOLD,
        subjects: Sequence[str] = (),
    ) -> Watch:
        """Have a query stand; ``ConflictError`` when too many do.

        One of a stream is forgotten with the stream.
        """
        kernel = self.kernel
        if filter is not None:
            compile_filter(dict(filter))
        said = {"query": query, "name": name, "filter": filter, "threshold": threshold}
        attributes = Attributes(subjects=tuple(dict.fromkeys(subjects)))
        content = Content("watch", WATCH_MEDIA_TYPE, orjson.dumps(said), attributes)
        with fresh_keys(kernel, tenant_id, [content]) as fresh:
            ((entry_id, _),) = fresh.items()
            opener = kernel.vault.opener(tenant_id, [entry_id])
            with kernel.database.write(alone=tenant_id) as connection:
                if stream_id is not None:
                    is_whole(connection, tenant_id, stream_id)  # raises where it is not there
                if len(self._list_rows(connection, tenant_id)) >= MOST_WATCHES:
                    raise ConflictError(f"{MOST_WATCHES} watches stand already; delete one that nobody needs")
                entry = EntryRow(
                    entry_id,
                    SourceId(entry_id),
                    "watch",
                    kernel.clock(),
                    self._name(tenant_id),
                    content_key(kernel.vault, tenant_id, content),
                    stream_id,
                )
                append(connection, opener, tenant_id, entry, content)
                job = kernel.jobs.add(connection, tenant_id, INGEST, [entry_id])[0]
                record_changes(connection, tenant_id, [entry_id], "journaled")
        self.wake(job.id)
        return _watch(entry, content)

    def get(self, tenant_id: TenantId, watch_id: SourceId) -> Watch:
        """Return a watch; ``NotFoundError`` or ``ForgottenError`` where it is not there."""
        with self.kernel.database.read() as connection:
            if find_denied(connection, tenant_id, [EntryId(watch_id)]):
                raise ForgottenError(f"watch {watch_id}")
            rows = [row for row in self._list_rows(connection, tenant_id) if row.source_id == watch_id]
        for watch in self._read(tenant_id, rows):
            return watch
        raise NotFoundError("watch", watch_id)

    def list_page(self, tenant_id: TenantId, *, cursor: str | None, limit: int) -> Page[Watch]:
        """Return a page of watches, newest first."""
        after = read_cursor(cursor)
        with self.kernel.database.read() as connection:
            rows = self._list_rows(connection, tenant_id)[::-1]
        left = [row for row in rows if after is None or (row.recorded_us, row.id) < after]
        last = left[limit - 1] if len(left) > limit else None
        watches = self._read(tenant_id, left[:limit])
        return Page(tuple(watches), None if last is None else make_cursor(last.recorded_us, last.id))

    def list_matches(self, tenant_id: TenantId, watch_id: SourceId, *, limit: int) -> Sequence[RecallHit]:
        """Return the newest passages that match a watch, newest first; the caller holds the fence."""
        watch = self.get(tenant_id, watch_id)
        generation = self.recaller.indexes.get(tenant_id)
        ((_, prepared),) = self._prepare(tenant_id, generation, [watch]).items()
        texts = Texts(lambda ids: self.recaller.load_parsed(tenant_id, ids))
        return list_newest(self.kernel, generation, tenant_id, prepared, texts, limit=limit)

    def match(
        self, tenant_id: TenantId, generation: Generation, parsed: Mapping[EntryId, Parsed]
    ) -> dict[EntryId, list[Match]]:
        """Return which watches the passages of these entries match, of those that the generation shows."""
        with self.kernel.database.read() as connection:
            rows = self._list_rows(connection, tenant_id)
        if not rows:
            return {entry_id: [] for entry_id in parsed}
        prepared = self._find_prepared(tenant_id, generation, rows)
        state = generation.state
        return {
            entry_id: match_entry(prepared, generation, state.cards[state.ordinals[entry_id]], entry)
            for entry_id, entry in parsed.items()
            if entry_id in state.ordinals
        }

    def _find_prepared(
        self, tenant_id: TenantId, generation: Generation, rows: Sequence[EntryRow]
    ) -> list[Prepared]:
        """Return these watches ready to be compared; they are kept as long as the index shows them."""
        with self._lock:  # many listeners hear of the same segment: one encodes for all
            known: dict[EntryId, Prepared] = {
                row.id: generation.kept[row.id] for row in rows if row.id in generation.kept
            }
            missing = [row for row in rows if row.id not in known]
            fresh = self._prepare(tenant_id, generation, self._read(tenant_id, missing)) if missing else {}
            generation.kept |= {i: one for i, one in fresh.items() if i in generation.state.ordinals}
            known |= fresh
        return list(known.values())

    def _prepare(
        self, tenant_id: TenantId, generation: Generation, watches: Sequence[Watch]
    ) -> dict[EntryId, Prepared]:
        vectors = self.recaller.encoder.encode([watch.query for watch in watches], role="query")
        return {
            EntryId(watch.id): Prepared(
                watch,
                vector,
                generation.words.list_words(watch.query),
                None if watch.filter is None else compile_filter(dict(watch.filter)),
            )
            for watch, vector in zip(watches, vectors, strict=True)
        }

    def _name(self, tenant_id: TenantId) -> str:
        return self.kernel.vault.name(tenant_id, "watches", b"")

    def _list_rows(self, connection: sa.Connection, tenant_id: TenantId) -> list[EntryRow]:
        """Return the watches that no forget has denied, oldest first."""
        rows = list_named(connection, tenant_id, self._name(tenant_id))
        hidden = find_denied(connection, tenant_id, [row.id for row in rows])
        return [row for row in rows if row.id not in hidden]

    def _read(self, tenant_id: TenantId, rows: Sequence[EntryRow]) -> list[Watch]:
        """Return what these watches say; those forgotten meanwhile are left out."""
        found: list[Watch] = []
        opener = self.kernel.vault.opener(tenant_id, [row.id for row in rows])
        with self.kernel.database.read() as connection:
            for row in rows:
                with suppress(ForgottenError):
                    content = get_content(connection, opener, row.id)
                    if content is not None:
                        found.append(_watch(row, content))
        return found


def _watch(row: EntryRow, content: Content) -> Watch:
    said = orjson.loads(content.body)
    return Watch(
        row.source_id,
        said["query"],
        said["name"],
        said["filter"],
        row.stream_id,
        said["threshold"],
        content.attributes.subjects,
        row.recorded_us,
    )
