"""What happens in a stream, told in order: segments that became searchable, matches of watches, the end.

Told from the database alone, so any process goes on where another left off. Where a listener stands is a
revision of its tenant's changes; matches are computed anew whenever they are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from memory.errors import InvalidInputError
from memory.kernel import Kernel, find_denied, get_position
from memory.tables import changes, entries
from memory.values import EntryId, JsonValue, Parsed, SourceId, TenantId
from service.cards import Card
from service.matching import Match
from service.recall import Recaller, make_passage_id
from service.streams import is_whole
from service.watches import Watches

BATCH = 64
"""So many segments are told of at once."""
_LAST = "~"
_CLOSED = "~closed"
"""Both stand behind the id of any watch, so behind all there is to tell of a revision."""
_ID = re.compile(r"(\d{1,18})(?:\.(closed|([0-9a-f]{1,64})\.(\d{1,9})))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Where a listener stands: what was told last, in the order of telling.

    A segment first, under its revision, then the passages of it that match, by watch.
    """

    revision: int = -1
    watch_id: str = ""
    index: int = -1

    @classmethod
    def parse(cls, id: str) -> Mark:
        """Read an event's id; ``InvalidInputError`` for what is none."""
        found = _ID.fullmatch(id)
        if found is None:
            raise InvalidInputError("not the id of an event of a stream", where="Last-Event-ID")
        if found[2] is None:
            return cls(int(found[1]))
        if found[2] == "closed":
            return cls(int(found[1]), _CLOSED)
        return cls(int(found[1]), found[3], int(found[4]))

    @property
    def id(self) -> str:
        """The event's id."""
        if not self.watch_id:
            return f"{self.revision}"
        if self.watch_id == _CLOSED:
            return f"{self.revision}.closed"
        return f"{self.revision}.{self.watch_id}.{self.index}"

    @property
    def is_closed(self) -> bool:
        """Whether the end of the stream was told."""
        return self.watch_id == _CLOSED


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something to tell; nothing of it may leave once any of ``lineage`` is denied."""

    mark: Mark
    kind: Literal["segment", "match", "closed"]
    data: dict[str, JsonValue]
    lineage: tuple[EntryId, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to tell behind ``Mark`` and where to look on from; ``more`` is there already."""

    events: tuple[StreamEvent, ...] = ()
    after: Mark = field(default_factory=Mark)
    more: bool = False
    closed: bool = False


class StreamEvents:
    """Tells what happens in streams."""

    def __init__(self, kernel: Kernel, recaller: Recaller, watches: Watches) -> None:
        self.kernel = kernel
        self.recaller = recaller
        self.watches = watches

    def look(self, tenant_id: TenantId, stream_id: SourceId, after: Mark) -> Look:
        """Return what is to be told behind a mark; each event is to be checked again when it is handed over.

        ``NotFoundError`` or ``ForgottenError`` where the stream is not there.
        """
        with self.kernel.database.read() as connection:
            whole = is_whole(connection, tenant_id, stream_id)
            revision = get_position(connection, tenant_id).revision
            found = self._list_indexed(connection, tenant_id, stream_id, after)
        more = len(found) == BATCH
        told = [event for event in self._iter_events(tenant_id, stream_id, found) if event.mark > after]
        if more:
            return Look(tuple(told), Mark(found[-1][0], _LAST), more=True)
        if whole:
            end: dict[str, JsonValue] = {"stream_id": stream_id}
            told.append(StreamEvent(Mark(revision, _CLOSED), "closed", end, (EntryId(stream_id),)))
        return Look(tuple(told), Mark(revision, _LAST), closed=whole)

    def is_free(self, tenant_id: TenantId, event: StreamEvent) -> bool:
        """Say whether nothing that an event tells of was denied meanwhile; the caller holds the fence."""
        with self.kernel.database.read() as connection:
            return not find_denied(connection, tenant_id, event.lineage)

    def _list_indexed(
        self, connection: sa.Connection, tenant_id: TenantId, stream_id: SourceId, after: Mark
    ) -> Sequence[tuple[int, EntryId]]:
        """Return the revisions at which segments became searchable, in order."""
        # Of the mark's own revision something may be left to tell.
        first = after.revision + 1 if after.watch_id in (_LAST, _CLOSED) else after.revision
        rows = connection.execute(
            sa.select(changes.c.revision, changes.c.entry_id)
            .join(entries, entries.c.id == changes.c.entry_id)
            .where(changes.c.tenant_id == tenant_id, changes.c.revision >= first)
            .where(changes.c.kind == "indexed", entries.c.stream_id == stream_id)
            .where(entries.c.kind == "segment")
            .order_by(changes.c.revision)
            .limit(BATCH)
        )
        return [(row.revision, EntryId(row.entry_id)) for row in rows]

    def _iter_events(
        self, tenant_id: TenantId, stream_id: SourceId, found: Sequence[tuple[int, EntryId]]
    ) -> Iterator[StreamEvent]:
        """Yield each segment that is still there, and behind it what matches in it."""
        if not found:
            return
        generation = self.recaller.indexes.get(tenant_id)
        state, ids = generation.state, [entry_id for _, entry_id in found]
        parsed = self.recaller.load_parsed(tenant_id, ids)
        matches = self.watches.match(tenant_id, generation, parsed)
        for revision, entry_id in found:
            if entry_id not in state.ordinals or entry_id not in parsed:
                continue
            card = state.cards[state.ordinals[entry_id]]
            lineage = (entry_id, EntryId(stream_id))
            yield StreamEvent(Mark(revision), "segment", _segment(card), lineage)
            for match in matches[entry_id]:
                yield StreamEvent(
                    Mark(revision, match.watch_id, match.index),
                    "match",
                    _match(card, parsed[entry_id], match),
                    (*lineage, EntryId(match.watch_id)),
                )


def _segment(card: Card) -> dict[str, JsonValue]:
    part = card.attributes.part
    assert part is not None
    return {
        "number": part.number,
        "start_ms": part.start_ms,
        "end_ms": part.end_ms,
        "source_id": card.row.source_id,
        "passages": card.passages,
    }


def _match(card: Card, parsed: Parsed, match: Match) -> dict[str, JsonValue]:
    part, place = card.attributes.part, parsed.passages[match.index].place
    assert part is not None
    start_ms, end_ms = (part.start_ms, part.end_ms) if place is None else (place.first, place.last)
    return {
        "watch_id": match.watch_id,
        "passage_id": make_passage_id(card.row.id, match.index),
        "source_id": card.row.source_id,
        "number": part.number,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "score": round(match.score, 6),
    }
