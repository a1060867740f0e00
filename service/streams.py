"""Streams: recordings and transcripts that arrive in segments, each a journal entry of its own.

So each segment is sealed, indexed and forgotten by itself, as soon as it comes. A row of the control plane
knows which numbers were received, whatever became of them; all that was said of a stream is sealed in an
entry of its own, which nothing is derived from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from memory.clock import to_datetime
from memory.errors import BusyError, ConflictError, ForgottenError, InvalidInputError, NotFoundError
from memory.journal import EntryRow, append, content_key, iter_headers, list_named, record_changes
from memory.kernel import Kernel, find_denied
from memory.tables import denied, entries, jobs, streams
from memory.values import (
    CUES_MEDIA_TYPE,
    STREAM_MEDIA_TYPE,
    Attributes,
    Content,
    EntryId,
    Parsed,
    Part,
    SourceId,
    TenantId,
)
from service.cards import Card
from service.cursor import make_cursor, read_cursor
from service.recall import HEADING_SEPARATOR, Recaller, make_passage_id
from service.remember import INGEST, fresh_keys, view_job
from service.sparing import Cutter, list_speakers
from service.state import State
from service.views import Moment, Page, Received, StreamView
from sources.captions import dump_json_cues, read_json_cues
from sources.parse import is_media, is_timed

StreamKind = Literal["video", "audio", "text"]

AHEAD = 64
"""A segment may come so many numbers before its turn."""
MOST_WAITING = 12
"""So many segments of a stream may wait to be read; who sends more is told to wait."""
MAX_SEGMENT_MS = 3_600_000
RETRY_SECONDS = 2
SEGMENTS = 16
"""Opened and parsed at a time; who asks for few passages of a long stream waits for few."""
_OPEN = ("queued", "running")


@dataclass(frozen=True, slots=True)
class _Row:
    id: SourceId
    kind: str
    next_number: int
    ahead: tuple[int, ...]
    created_us: int
    closed_us: int | None


class Streams:
    """The use cases of streams."""

    def __init__(
        self, kernel: Kernel, recaller: Recaller, cutter: Cutter, wake: Callable[[str], None]
    ) -> None:
        self.kernel = kernel
        self.recaller = recaller
        self.cutter = cutter
        self.wake = wake

    def open(self, tenant_id: TenantId, kind: StreamKind, attributes: Attributes) -> tuple[StreamView, bool]:
        """Open a stream; return it and whether it is new.

        A stream of the same external id that is open is gone on with. ``ConflictError`` when it is of another
        kind or closed.
        """
        content = Content("stream", STREAM_MEDIA_TYPE, orjson.dumps({"kind": kind}), attributes)
        with fresh_keys(self.kernel, tenant_id, [content]) as fresh:
            ((entry_id, _),) = fresh.items()
            found = self._open(tenant_id, kind, content, entry_id)
        return self.get(tenant_id, found or SourceId(entry_id)), found is None

    def _open(
        self, tenant_id: TenantId, kind: StreamKind, content: Content, entry_id: EntryId
    ) -> SourceId | None:
        """Write a stream down; return the one to go on with in its place."""
        kernel, named = self.kernel, content.attributes.external_id
        key = None if named is None else kernel.vault.name(tenant_id, "stream", named.encode())
        opener = kernel.vault.opener(tenant_id, [entry_id])
        with kernel.database.write(alone=tenant_id) as connection:
            before = [] if key is None else list_named(connection, tenant_id, key)
            hidden = find_denied(connection, tenant_id, [row.id for row in before])
            for row in before:
                if row.id in hidden or row.stream_id is None:
                    continue
                known = _get_row(connection, tenant_id, row.stream_id)
                if known.closed_us is not None:
                    raise ConflictError("a stream of this external_id is closed; forget it, or name another")
                if known.kind != kind:
                    raise ConflictError(f"a stream of this external_id is open, of kind {known.kind}")
                return known.id
            now, stream_id = kernel.clock(), SourceId(entry_id)
            digest = content_key(kernel.vault, tenant_id, content)
            entry = EntryRow(entry_id, stream_id, "stream", now, key, digest, stream_id)
            append(connection, opener, tenant_id, entry, content)
            connection.execute(
                streams.insert().values(
                    id=stream_id, tenant_id=tenant_id, kind=kind, next_number=0, ahead=[], created_us=now
                )
            )
            job = kernel.jobs.add(connection, tenant_id, INGEST, [entry_id])[0]
            record_changes(connection, tenant_id, [entry_id], "journaled")
        self.wake(job.id)
        return None

    def append(self, tenant_id: TenantId, stream_id: SourceId, content: Content) -> Received:
        """Append a segment, whose part names its number and times.

        The same number with the same content changes nothing. ``ConflictError`` when a number comes with
        another content, or the stream is closed; ``InvalidInputError`` when it is too far ahead;
        ``BusyError`` when too many segments wait to be read. Subjects and metadata of the stream are the
        segment's, too, and its time of day follows from the stream's.
        """
        part = content.attributes.part
        assert part is not None and part.stream_id == stream_id
        if not 0 <= part.end_ms - part.start_ms <= MAX_SEGMENT_MS:
            raise InvalidInputError(
                f"a segment ends after it begins, and within {MAX_SEGMENT_MS // 60_000} minutes",
                where="end_ms",
            )
        if is_timed(content.media_type) and not is_media(content.media_type):
            content, part = self._read_captions(content, part)
        content = self._inherit(tenant_id, stream_id, content, part)
        with fresh_keys(self.kernel, tenant_id, [content]) as fresh:
            ((entry_id, _),) = fresh.items()
            received = self._append(tenant_id, stream_id, content, part, entry_id)
        if received.job is not None and received.job.status == "queued":
            self.wake(received.job.id)
        return received

    def _read_captions(self, content: Content, part: Part) -> tuple[Content, Part]:
        """Return captions as cues in the stream's time: when they are and who speaks is not just believed."""
        if content.media_type == CUES_MEDIA_TYPE:
            cues = read_json_cues(content.body)
        else:
            cut = self.cutter.cut(content, [])
            read = [] if cut is None else read_json_cues(cut.body)
            later = part.start_ms
            cues = [replace(c, start_ms=c.start_ms + later, end_ms=c.end_ms + later) for c in read]
        part = replace(
            part,
            start_ms=min((cue.start_ms for cue in cues), default=part.start_ms),
            end_ms=max((max(cue.start_ms, cue.end_ms) for cue in cues), default=part.end_ms),
            speakers=list_speakers(cues),
        )
        return replace(content, body=dump_json_cues(cues), media_type=CUES_MEDIA_TYPE), part

    def _inherit(self, tenant_id: TenantId, stream_id: SourceId, content: Content, part: Part) -> Content:
        told, own = self._get_attributes(tenant_id, stream_id), content.attributes
        begins = told.occurred_at
        return replace(
            content,
            attributes=replace(
                told,
                subjects=tuple(dict.fromkeys((*told.subjects, *own.subjects))),
                metadata={**told.metadata, **own.metadata},
                occurred_at=None if begins is None else begins + timedelta(milliseconds=part.start_ms),
                part=part,
            ),
        )

    def _append(
        self, tenant_id: TenantId, stream_id: SourceId, content: Content, part: Part, entry_id: EntryId
    ) -> Received:
        kernel, number = self.kernel, part.number
        name = kernel.vault.name(tenant_id, "segment", f"{stream_id}:{number}".encode())
        digest = content_key(kernel.vault, tenant_id, content)
        opener = kernel.vault.opener(tenant_id, [entry_id])
        with kernel.database.write(alone=tenant_id) as connection:
            row = _get_row(connection, tenant_id, stream_id)
            if find_denied(connection, tenant_id, [EntryId(stream_id)]):
                raise ForgottenError(f"stream {stream_id}")
            if number < row.next_number or number in row.ahead:
                return self._repeat(connection, tenant_id, row, number, name, digest)
            if row.closed_us is not None:
                raise ConflictError(f"the stream is closed; it ended before segment {number}")
            if number > row.next_number + AHEAD:
                raise InvalidInputError(
                    f"segment {row.next_number} is expected; a number may be {AHEAD} ahead at most",
                    where="number",
                )
            if _count_waiting(connection, stream_id) >= MOST_WAITING:
                raise BusyError(
                    f"{MOST_WAITING} segments of this stream wait to be read", retry_in_seconds=RETRY_SECONDS
                )
            received = {number, *row.ahead}
            following = row.next_number
            while following in received:
                received.remove(following)
                following += 1
            now = kernel.clock()
            # By its number, not its entry: what a forget leaves of it is the same source.
            source_id = SourceId(kernel.vault.name(tenant_id, "source", f"segment:{name}".encode())[:32])
            entry = EntryRow(entry_id, source_id, "segment", now, name, digest, stream_id)
            append(connection, opener, tenant_id, entry, content)
            job = kernel.jobs.add(connection, tenant_id, INGEST, [entry_id])[0]
            record_changes(connection, tenant_id, [entry_id], "journaled")
            connection.execute(
                streams.update()
                .where(streams.c.id == stream_id)
                .values(next_number=following, ahead=sorted(received))
            )
        return Received(stream_id, number, following, source_id, view_job(job))

    def _repeat(
        self, connection: sa.Connection, tenant_id: TenantId, row: _Row, number: int, name: str, digest: str
    ) -> Received:
        """Acknowledge once more a segment that was received; what was forgotten of it stays so."""
        known = list_named(connection, tenant_id, name)
        hidden = find_denied(connection, tenant_id, [entry.id for entry in known])
        left = [entry for entry in known if entry.id not in hidden]
        if not left:
            return Received(row.id, number, row.next_number, None, None, unchanged=True)
        if left[-1].content_key != digest and not self._is_rest(connection, tenant_id, left[-1].id):
            raise ConflictError(f"segment {number} was received with another content")
        job = self.kernel.jobs.find_by_target(connection, tenant_id, INGEST, left[-1].id)
        shown = None if job is None else view_job(job)
        return Received(row.id, number, row.next_number, left[-1].source_id, shown, unchanged=True)

    def _is_rest(self, connection: sa.Connection, tenant_id: TenantId, entry_id: EntryId) -> bool:
        """Say whether something of a segment was forgotten since: what came then stands nowhere."""
        found = iter_headers(connection, self.kernel.vault, tenant_id, [entry_id])
        return any(header.attributes.is_rest for _, header in found)

    def close(self, tenant_id: TenantId, stream_id: SourceId) -> StreamView:
        """Take no more segments; closing again changes nothing."""
        self._get_attributes(tenant_id, stream_id)
        with self.kernel.database.write(alone=tenant_id) as connection:
            connection.execute(
                streams.update()
                .where(streams.c.id == stream_id, streams.c.closed_us.is_(None))
                .values(closed_us=self.kernel.clock())
            )
        return self.get(tenant_id, stream_id)

    def get(self, tenant_id: TenantId, stream_id: SourceId) -> StreamView:
        """Return a stream and how far it has come."""
        attributes = self._get_attributes(tenant_id, stream_id)
        state = self._state(tenant_id)
        with self.kernel.database.read() as connection:
            row = _get_row(connection, tenant_id, stream_id)
            held = list_segments(connection, tenant_id, stream_id)
            waiting = _count_waiting(connection, stream_id)
        return _view(row, attributes, state, held, waiting)

    def list(self, tenant_id: TenantId, *, cursor: str | None, limit: int) -> Page[StreamView]:
        """Return a page of streams, newest first."""
        mine, after = streams.c.tenant_id == tenant_id, read_cursor(cursor)
        if after is not None:
            created_us, behind = after
            mine &= sa.or_(
                streams.c.created_us < created_us,
                sa.and_(streams.c.created_us == created_us, streams.c.id < behind),
            )
        # The row of a stream outlives it.
        told = sa.select(entries.c.id).where(entries.c.id == streams.c.id).exists()
        gone = sa.select(denied.c.entry_id).where(denied.c.entry_id == streams.c.id).exists()
        with self.kernel.database.read() as connection:
            found = connection.execute(
                sa.select(streams.c.id, streams.c.created_us)
                .where(mine, told, ~gone)
                .order_by(streams.c.created_us.desc(), streams.c.id.desc())
                .limit(limit + 1)
            ).all()
        views: list[StreamView] = []
        for row in found[:limit]:
            # Forgotten since it was selected: the page has one less.
            with suppress(ForgottenError, NotFoundError):
                views.append(self.get(tenant_id, SourceId(row.id)))
        last = found[limit - 1] if len(found) > limit else None
        return Page(tuple(views), None if last is None else make_cursor(last.created_us, last.id))

    def list_moments(
        self, tenant_id: TenantId, stream_id: SourceId, start_ms: int, end_ms: int, *, limit: int
    ) -> Sequence[Moment]:
        """Return what is said and shown in a stretch of time, in order; the caller holds the fence."""
        self._get_attributes(tenant_id, stream_id)
        state = self._state(tenant_id)
        with self.kernel.database.read() as connection:
            held = list_segments(connection, tenant_id, stream_id)
        cards = [state.cards[state.ordinals[i]] for i in held if i in state.ordinals]
        within = sorted(
            (
                (part.start_ms, card.row.id, card)
                for card in cards
                if (part := card.attributes.part) and part.start_ms < end_ms and part.end_ms >= start_ms
            ),
            key=lambda one: one[:2],
        )
        moments: list[Moment] = []
        for at in range(0, len(within), SEGMENTS):
            # Nothing in a segment is before its beginning: what is asked for may be whole.
            if len(moments) >= limit and within[at][0] > moments[-1].start_ms:
                break
            batch = {entry_id: card for _, entry_id, card in within[at : at + SEGMENTS]}
            for entry_id, parsed in self.recaller.load_parsed(tenant_id, list(batch)).items():
                moments += _iter_moments(batch[entry_id], parsed, start_ms, end_ms)
            moments = sorted(moments, key=lambda one: (one.start_ms, one.end_ms, one.passage_id))[:limit]
        return moments

    def _state(self, tenant_id: TenantId) -> State:
        return self.recaller.indexes.get(tenant_id).state

    def _get_attributes(self, tenant_id: TenantId, stream_id: SourceId) -> Attributes:
        """Return what was said of a stream; ``NotFoundError`` or ``ForgottenError`` where it is not there."""
        with self.kernel.database.read() as connection:
            _get_row(connection, tenant_id, stream_id)
            if find_denied(connection, tenant_id, [EntryId(stream_id)]):
                raise ForgottenError(f"stream {stream_id}")
            found = list(iter_headers(connection, self.kernel.vault, tenant_id, [EntryId(stream_id)]))
        if not found:
            raise ForgottenError(f"stream {stream_id}")
        return found[0][1].attributes


def is_whole(connection: sa.Connection, tenant_id: TenantId, stream_id: SourceId) -> bool:
    """Say whether a stream is closed and all that came of it is searchable, or was refused.

    ``NotFoundError`` or ``ForgottenError`` where it is not there.
    """
    row = _get_row(connection, tenant_id, stream_id)
    if find_denied(connection, tenant_id, [EntryId(stream_id)]):
        raise ForgottenError(f"stream {stream_id}")
    return row.closed_us is not None and not _count_waiting(connection, stream_id)


def _iter_moments(card: Card, parsed: Parsed, start_ms: int, end_ms: int) -> Iterator[Moment]:
    """Yield the passages of a segment that are in a stretch of time."""
    row, part = card.row, card.attributes.part
    assert part is not None
    for index, passage in enumerate(parsed.passages):
        place = passage.place
        if place is None or place.first >= end_ms or place.last < start_ms:
            continue
        yield Moment(
            make_passage_id(row.id, index),
            row.source_id,
            row.id,
            part.number,
            place.first,
            place.last,
            parsed.text[passage.start : passage.end],
            HEADING_SEPARATOR.join(passage.heading) or None,
            card.attributes.occurred_at,
        )


def _view(
    row: _Row, attributes: Attributes, state: State, held: Sequence[EntryId], waiting: int
) -> StreamView:
    cards = [state.cards[state.ordinals[i]] for i in held if i in state.ordinals]
    ends = [card.attributes.part.end_ms for card in cards if card.attributes.part is not None]
    return StreamView(
        id=row.id,
        kind=row.kind,
        attributes=attributes,
        created_at=to_datetime(row.created_us),
        closed_at=None if row.closed_us is None else to_datetime(row.closed_us),
        next_number=row.next_number,
        ahead=row.ahead,
        segments=len(held),
        waiting=waiting,
        end_ms=max(ends, default=0),
    )


def _get_row(connection: sa.Connection, tenant_id: TenantId, stream_id: str) -> _Row:
    found: Any = connection.execute(
        sa.select(streams).where(streams.c.id == stream_id, streams.c.tenant_id == tenant_id)
    ).one_or_none()
    if found is None:
        raise NotFoundError("stream", stream_id)
    ahead = tuple(int(number) for number in found.ahead)
    return _Row(SourceId(found.id), found.kind, found.next_number, ahead, found.created_us, found.closed_us)


def list_segments(connection: sa.Connection, tenant_id: TenantId, stream_id: SourceId) -> list[EntryId]:
    """Return the segments of a stream that are in the journal and not denied."""
    mine = (entries.c.stream_id == stream_id) & (entries.c.tenant_id == tenant_id)
    found = connection.scalars(sa.select(entries.c.id).where(mine, entries.c.kind == "segment"))
    held = [EntryId(i) for i in found]
    hidden = find_denied(connection, tenant_id, held)
    return [entry_id for entry_id in held if entry_id not in hidden]


def _count_waiting(connection: sa.Connection, stream_id: SourceId) -> int:
    """Return how many segments of a stream have a job that has not ended."""
    waiting = (
        sa.select(sa.func.count())
        .select_from(entries.join(jobs, jobs.c.target == entries.c.id))
        .where(entries.c.stream_id == stream_id, entries.c.kind == "segment")
        .where(jobs.c.kind == INGEST, jobs.c.status.in_(_OPEN))
    )
    return connection.scalar(waiting) or 0
