"""What stays of an entry of which a part is forgotten: some seconds of a recording, what one speaker says.

The part that stays is a new journal entry in the old one's place: same source, same time, a key of its own.
The old entry is forgotten whole, with everything that was made of it; what is left is read again as if it
had come so in the first place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import sqlalchemy as sa

from memory.errors import InvalidInputError
from memory.journal import EntryRow, append, content_key, get_content, iter_headers, record_changes
from memory.kernel import Kernel
from memory.values import CUES_MEDIA_TYPE, Content, EntryId, JobId, TenantId
from memory.vault import Opener
from service.remember import INGEST
from service.views import Scope
from sources.captions import Cue, dump_json_cues, read_json_cues, touches
from sources.media import Cut, Span
from sources.parse import is_timed

END_MS = 1 << 53
"""Later than any recording."""


class Cutter(Protocol):
    """Takes spans out of recordings, as ``GuardedParser`` does."""

    def cut(self, content: Content, spans: Sequence[Span]) -> Cut | None:
        """Return a recording without some spans, ``None`` when nothing is left."""


def spare(
    kernel: Kernel, cutter: Cutter, tenant_id: TenantId, scope: Scope, entry_ids: Collection[EntryId]
) -> dict[EntryId, Content]:
    """Return what stays of those entries of which the scope means a part; the others go whole.

    Raises ``InvalidInputError`` for an entry that has no times, or cannot be cut.
    """
    if not scope.takes_parts:
        return {}
    with kernel.database.read() as connection:
        found = list(iter_headers(connection, kernel.vault, tenant_id, sorted(entry_ids)))
    left: dict[EntryId, Content] = {}
    for row, header in found:
        part = header.attributes.part
        if not is_timed(header.media_type):
            if part is not None or row.kind == "stream":
                continue  # of a segment that tells no times all goes
            raise InvalidInputError(
                f"{row.source_id} is no recording and no transcript: there is no time in it to forget. "
                "Leave the range out to forget it whole"
            )
        covered = part is not None and _covers(scope, part.start_ms, part.end_ms)
        if not covered:
            opener = kernel.vault.opener(tenant_id, [row.id])
            with kernel.database.read() as connection:
                content = get_content(connection, opener, row.id)
            rest = None if content is None else _find_rest(cutter, content, scope)
            if rest is not None:
                left[row.id] = replace(rest, attributes=replace(rest.attributes, is_rest=True))
    return left


def _covers(scope: Scope, start_ms: int, end_ms: int) -> bool:
    """Say whether a scope means all of a segment."""
    since, until = _range(scope)
    return not scope.speakers and since <= start_ms and end_ms <= until


def _range(scope: Scope) -> Span:
    return scope.start_ms or 0, END_MS if scope.end_ms is None else scope.end_ms


def _find_rest(cutter: Cutter, content: Content, scope: Scope) -> Content | None:
    """Return what stays of a content; nothing of a segment that cannot be cut, as of one that is damaged."""
    try:
        return _cut(cutter, content, scope)
    except InvalidInputError:
        if content.attributes.part is None:
            raise
        return None


def _cut(cutter: Cutter, content: Content, scope: Scope) -> Content | None:
    """Return what stays of a content."""
    span, part = _range(scope), content.attributes.part
    if content.media_type == CUES_MEDIA_TYPE:
        cues = [
            cue
            for cue in read_json_cues(content.body)
            if (scope.speakers and cue.speaker not in scope.speakers)
            or not touches(cue.start_ms, cue.end_ms, [span])
        ]
        if not cues:
            return None
        told = None if part is None else replace(part, speakers=list_speakers(cues))
        attributes = replace(content.attributes, part=told)
        return replace(content, body=dump_json_cues(cues), attributes=attributes)
    # A segment's own clock begins with it.
    begins = 0 if part is None else part.start_ms
    cut = cutter.cut(content, [(max(0, span[0] - begins), span[1] - begins)])
    return None if cut is None else replace(content, body=cut.body, media_type=cut.media_type)


def list_speakers(cues: Iterable[Cue]) -> tuple[str, ...]:
    """Return who is named by cues, each once, in order."""
    return tuple(sorted({cue.speaker for cue in cues if cue.speaker}))


def append_rest(
    kernel: Kernel,
    connection: sa.Connection,
    tenant_id: TenantId,
    opener: Opener,
    rows: Sequence[EntryRow],
    fresh: Mapping[EntryId, tuple[EntryId, Content]],
) -> list[JobId]:
    """Write down what stays of entries that are being denied; ``fresh`` names each, by the old one's id."""
    jobs: list[JobId] = []
    for row in rows:
        if row.id in fresh:
            entry_id, content = fresh[row.id]
            key = content_key(kernel.vault, tenant_id, content)
            append(connection, opener, tenant_id, replace(row, id=entry_id, content_key=key), content)
            jobs.append(kernel.jobs.add(connection, tenant_id, INGEST, [entry_id])[0].id)
            record_changes(connection, tenant_id, [entry_id], "journaled")
    return jobs
