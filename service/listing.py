"""Sources, one or a list: what is indexed, and where asked what is acknowledged but not indexed yet.

Knows nothing of pages of HTTP or of how a cursor is written: a page starts behind a (recorded_us, entry id).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from memory.clock import to_datetime, to_micros
from memory.errors import ForgottenError, NotFoundError
from memory.filters import compile_filter
from memory.journal import EntryRow, iter_headers, list_rows, list_versions
from memory.kernel import Kernel, find_denied
from memory.tables import denied, jobs
from memory.values import Attributes, EntryId, JsonValue, SourceId, TenantId
from service.cards import Card
from service.recall import Recaller
from service.remember import INGEST, view_job
from service.state import State
from service.views import JobView, SourceView

Key = tuple[int, str]
"""Where a listing stands: when an entry was recorded, and its id."""


def list_sources(
    kernel: Kernel,
    tenant_id: TenantId,
    state: State,
    *,
    kind: str,
    user_id: str | None,
    filter: JsonValue,
    pending: bool,
    after: Key | None,
    limit: int,
) -> tuple[list[SourceView], Key | None]:
    """Return up to ``limit`` sources of one kind, newest first, and the key of the last when there are more.

    With ``pending`` a source is shown in the newest version that was acknowledged, and as long as that is not
    indexed without passages and with its job; else in the newest version that is indexed.
    """
    selects = _compile(user_id, filter)
    with kernel.database.read() as connection:
        indexed = [state.cards[at].row for at in np.flatnonzero(state.list_visible(None)).tolist()]
        waiting = _list_waiting(connection, tenant_id, state) if pending else []
        hidden = find_denied(connection, tenant_id, [row.id for row in (*indexed, *waiting)])
        newest: dict[SourceId, EntryRow] = {}
        for row in (*indexed, *waiting):
            if row.kind == kind and row.id not in hidden:
                best = newest.setdefault(row.source_id, row)
                if _key(row) > _key(best):
                    newest[row.source_id] = row
        found: list[EntryRow] = []
        views: list[SourceView] = []
        for row in sorted(newest.values(), key=_key, reverse=True):
            if after is not None and _key(row) >= after:
                continue
            view = _view(kernel, connection, tenant_id, state, row, selects)
            if view is not None:
                found.append(row)
                views.append(view)
            if len(views) > limit:
                return views[:limit], _key(found[limit - 1])
    return views, None


def _key(row: EntryRow) -> Key:
    return row.recorded_us, row.id


def _compile(user_id: str | None, filter: JsonValue) -> Callable[[EntryRow, Attributes], bool]:
    condition = None if filter is None else compile_filter(filter)

    def selects(row: EntryRow, attributes: Attributes) -> bool:
        if user_id is not None and attributes.user_id != user_id:
            return False
        return condition is None or condition.matches(attributes, recorded_at=to_datetime(row.recorded_us))

    return selects


def _list_waiting(connection: sa.Connection, tenant_id: TenantId, state: State) -> Sequence[EntryRow]:
    """Return the entries whose work is not done, in any order."""
    unfinished = sa.select(jobs.c.target).where(
        jobs.c.kind == INGEST,
        jobs.c.status.in_(("queued", "running", "failed")),
        jobs.c.tenant_id == tenant_id,
    )
    ids = {EntryId(target) for target in connection.scalars(unfinished)} - state.ordinals.keys()
    return list_rows(connection, tenant_id, sorted(ids))


def _view(
    kernel: Kernel,
    connection: sa.Connection,
    tenant_id: TenantId,
    state: State,
    row: EntryRow,
    selects: Callable[[EntryRow, Attributes], bool],
) -> SourceView | None:
    """Return a source in the version of this row, or ``None`` where it is not asked for or just went."""
    ordinal = state.ordinals.get(row.id)
    if ordinal is not None:
        card: Card = state.cards[ordinal]
        if not selects(row, card.attributes):
            return None
        return _source_view(
            row, card.attributes, state.get_version(ordinal), title=card.title, passages=card.passages
        )
    with suppress(ForgottenError):  # a content that was refused meanwhile is taken back with its key
        for _, header in iter_headers(connection, kernel.vault, tenant_id, [row.id]):
            if not selects(row, header.attributes):
                return None
            versions = list_versions(connection, tenant_id, [row.source_id])
            hidden = find_denied(connection, tenant_id, [version.id for version in versions])
            rank = [version.id for version in versions if version.id not in hidden].index(row.id) + 1
            job = kernel.jobs.find_by_target(connection, tenant_id, INGEST, row.id)
            title = header.attributes.title
            waits = None if job is None else view_job(job)
            return _source_view(row, header.attributes, rank, title=title, passages=None, job=waits)
    return None


def _source_view(
    row: EntryRow,
    attributes: Attributes,
    version: int,
    *,
    title: str | None,
    passages: int | None,
    job: JobView | None = None,
) -> SourceView:
    return SourceView(
        source_id=row.source_id,
        kind=row.kind,
        external_id=attributes.external_id,
        version=version,
        title=title,
        subjects=attributes.subjects,
        metadata=attributes.metadata,
        user_id=attributes.user_id,
        agent_id=attributes.agent_id,
        run_id=attributes.run_id,
        occurred_at=attributes.occurred_at,
        recorded_at=to_datetime(row.recorded_us),
        passages=passages,
        job=job,
    )


def view_source(
    kernel: Kernel, recaller: Recaller, tenant_id: TenantId, source_id: SourceId, *, as_of: datetime | None
) -> SourceView:
    """Return a source's newest version, or the one that held at a time, with its text."""
    found, rank = find_version(kernel, tenant_id, source_id, as_of=as_of)
    with kernel.database.read() as connection:
        ((row, header),) = iter_headers(connection, kernel.vault, tenant_id, [found.id])
    parsed = recaller.load_parsed(tenant_id, [row.id]).get(row.id)
    view = _source_view(
        row,
        header.attributes,
        rank,
        title=header.attributes.title or (parsed.title if parsed else None),
        passages=len(parsed.passages) if parsed else None,
    )
    return replace(view, text=parsed.text if parsed else None)


def find_version(
    kernel: Kernel, tenant_id: TenantId, source_id: SourceId, *, as_of: datetime | None = None
) -> tuple[EntryRow, int]:
    """Return a source's newest version that is not denied, or the one that held at a time, and its rank.

    Raises ``ForgottenError`` when all that there was is denied, else ``NotFoundError``.
    """
    with kernel.database.read() as connection:
        versions = list_versions(connection, tenant_id, [source_id])
        hidden = find_denied(connection, tenant_id, [version.id for version in versions])
        tombstone = None if versions else _find_tombstone(connection, tenant_id, source_id)
    if tombstone or (versions and all(version.id in hidden for version in versions)):
        raise ForgottenError(f"document {source_id}")
    visible = [version for version in versions if version.id not in hidden]
    at = None if as_of is None else to_micros(as_of)
    held = [version for version in visible if at is None or version.recorded_us <= at]
    if not held:
        raise NotFoundError("document", source_id)
    return held[-1], visible.index(held[-1]) + 1


def _find_tombstone(connection: sa.Connection, tenant_id: TenantId, source_id: str) -> str | None:
    return connection.scalar(
        sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id, denied.c.source_id == source_id)
    )
