"""Remembering: sealed journal entries and their jobs, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import sqlalchemy as sa

from memory.errors import ConflictError, NotFoundError
from memory.jobs import Job
from memory.journal import (
    EntryRow,
    append,
    content_key,
    external_key,
    iter_headers,
    list_named,
    list_versions,
    record_changes,
)
from memory.kernel import Kernel, find_denied, find_entries
from memory.values import Content, EntryId, SourceId, TenantId
from service.views import JobView, Remembered

INGEST = "ingest"


def view_job(job: Job) -> JobView:
    """Return a job as its owner sees it."""
    return JobView(job.id, job.kind, job.status, job.progress, job.error)  # type: ignore[arg-type]


def remember(
    kernel: Kernel,
    tenant_id: TenantId,
    contents: Sequence[Content],
    source_id: SourceId | None = None,
) -> list[Remembered]:
    """Append contents to the journal, each with its job; what is there already word for word changes nothing.

    ``source_id`` names the source that a single content is the next version of; it keeps its external id
    when the content brings none. Keys are made before the journal's transaction: a crash between
    leaves keys that open nothing, never an entry without one.
    """
    with fresh_keys(kernel, tenant_id, contents) as fresh:
        return _append_all(kernel, tenant_id, fresh, source_id)


@contextmanager
def fresh_keys(
    kernel: Kernel, tenant_id: TenantId, contents: Sequence[Content]
) -> Iterator[dict[EntryId, Content]]:
    """Give each content an id with a key to seal it under; keys that no entry uses in the end go again."""
    fresh = {EntryId(kernel.new_id()): content for content in contents}
    kernel.vault.create_keys(
        tenant_id, {entry_id: content.attributes.subjects for entry_id, content in fresh.items()}
    )
    try:
        yield fresh
    finally:
        # Looked up rather than known: a connection that was lost does not say whether it committed.
        with kernel.database.read() as connection:
            unused = fresh.keys() - find_entries(connection, tenant_id, list(fresh))
        if unused:
            kernel.vault.destroy_keys(tenant_id, unused)


def _append_all(
    kernel: Kernel,
    tenant_id: TenantId,
    contents: Mapping[EntryId, Content],
    source_id: SourceId | None,
) -> list[Remembered]:
    """Append in one transaction."""
    opener = kernel.vault.opener(tenant_id, contents)
    done: list[Remembered] = []
    added: list[EntryId] = []
    with kernel.database.write(alone=tenant_id) as connection:
        now = kernel.clock()
        for entry_id, given in contents.items():
            content = (
                given if source_id is None else _inherit_name(kernel, connection, tenant_id, given, source_id)
            )
            source, versions = _find_source(kernel, connection, tenant_id, content, entry_id, source_id)
            key = content_key(kernel.vault, tenant_id, content)
            if versions and versions[-1].content_key == key:
                done.append(_unchanged(kernel, connection, tenant_id, versions))
                continue
            # Only a source's own past may shift its time, so that nothing else shows in it.
            recorded_us = max(now, versions[-1].recorded_us + 1) if versions else now
            name = _external_key(kernel, tenant_id, content)
            entry = EntryRow(entry_id, source, content.kind, recorded_us, name, key)
            append(connection, opener, tenant_id, entry, content)
            added.append(entry_id)
            job = kernel.jobs.add(connection, tenant_id, INGEST, [entry_id])[0]
            done.append(Remembered(source, len(versions) + 1, view_job(job)))
        record_changes(connection, tenant_id, added, "journaled")
    return done


def make_source_id(
    kernel: Kernel, tenant_id: TenantId, external_id: str | None, entry_id: EntryId
) -> SourceId:
    """Return a source's id: a keyed name of its external id, else of its first entry.

    So a source that is remembered again after a part of its past was forgotten is the same as one
    whose past never was.
    """
    value = f"entry:{entry_id}" if external_id is None else f"external:{external_id}"
    return SourceId(kernel.vault.name(tenant_id, "source", value.encode())[:32])


def _external_key(kernel: Kernel, tenant_id: TenantId, content: Content) -> str | None:
    name = content.attributes.external_id
    return None if name is None else external_key(kernel.vault, tenant_id, name)


def _list_visible(
    kernel: Kernel, connection: sa.Connection, tenant_id: TenantId, source_id: str
) -> list[EntryRow]:
    """Return the versions of a source that no forget has denied, oldest first."""
    versions = list_versions(connection, tenant_id, [source_id])
    hidden = find_denied(connection, tenant_id, [version.id for version in versions])
    return [version for version in versions if version.id not in hidden]


def _find_source(
    kernel: Kernel,
    connection: sa.Connection,
    tenant_id: TenantId,
    content: Content,
    entry_id: EntryId,
    source_id: SourceId | None,
) -> tuple[SourceId, list[EntryRow]]:
    """Return the source a content belongs to and its visible versions, none for a new one."""
    name = content.attributes.external_id
    key = _external_key(kernel, tenant_id, content)
    named = [] if key is None else list_named(connection, tenant_id, key)
    hidden = find_denied(connection, tenant_id, [entry.id for entry in named])
    owners = [entry.source_id for entry in named if entry.id not in hidden]
    if source_id is not None:
        if owners and owners[-1] != source_id:
            raise ConflictError("another document has this external_id")
        return source_id, _list_visible(kernel, connection, tenant_id, source_id)
    found = owners[-1] if owners else make_source_id(kernel, tenant_id, name, entry_id)
    # A source may outlive the version that gave it its name, so it is looked up by its id, too.
    return found, [] if name is None else _list_visible(kernel, connection, tenant_id, found)


def _inherit_name(
    kernel: Kernel, connection: sa.Connection, tenant_id: TenantId, content: Content, source_id: SourceId
) -> Content:
    """Give the next version its predecessor's external id unless it brings one."""
    versions = _list_visible(kernel, connection, tenant_id, source_id)
    if not versions:
        raise NotFoundError("document", source_id)
    if versions[-1].kind not in ("document", "memory"):
        raise ConflictError(f"it is a {versions[-1].kind}, which has no next version")
    if content.attributes.external_id is not None:
        return content
    ((_, header),) = iter_headers(connection, kernel.vault, tenant_id, [versions[-1].id])
    attributes = replace(content.attributes, external_id=header.attributes.external_id)
    return replace(content, attributes=attributes)


def _unchanged(
    kernel: Kernel, connection: sa.Connection, tenant_id: TenantId, versions: Sequence[EntryRow]
) -> Remembered:
    """Return the acknowledgement of what is there already; work that failed is queued once more."""
    newest = versions[-1]
    job = kernel.jobs.find_by_target(connection, tenant_id, INGEST, newest.id)
    if job is None or job.status in ("failed", "dead", "cancelled"):
        job = kernel.jobs.add(connection, tenant_id, INGEST, [newest.id])[0]
    return Remembered(newest.source_id, len(versions), view_job(job), unchanged=True)
