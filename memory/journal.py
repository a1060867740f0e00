"""The journal: what users told Lethe, sealed, one row an entry. All else is derived from it.

An entry belongs to a source; the versions of a source are its entries in the order of
``recorded_us``. A version number is that rank, computed when asked for: no counter survives.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
import zstandard

from memory.canonical import canonical_json
from memory.database import chunked
from memory.tables import changes, entries, tenants
from memory.values import Attributes, Content, EntryId, EntryKind, JsonValue, Part, SourceId, TenantId
from memory.vault import Opener, Vault


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry without its content."""

    id: EntryId
    source_id: SourceId
    kind: EntryKind
    recorded_us: int
    external_key: str | None
    content_key: str
    stream_id: SourceId | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """An entry's attributes and how its body is to be read."""

    kind: EntryKind
    media_type: str
    filename: str | None
    attributes: Attributes


_ROW = (
    entries.c.id,
    entries.c.source_id,
    entries.c.kind,
    entries.c.recorded_us,
    entries.c.external_key,
    entries.c.content_key,
    entries.c.stream_id,
)


def external_key(vault: Vault, tenant_id: TenantId, external_id: str) -> str:
    """Return the keyed name under which an external id is looked up."""
    return vault.name(tenant_id, "external", external_id.encode())


def content_key(vault: Vault, tenant_id: TenantId, content: Content) -> str:
    """Return a keyed digest of everything the user said: equal exactly when nothing changed."""
    return vault.name(tenant_id, "content", canonical_json(_header_json(content)) + b"\0" + content.body)


def append(
    connection: sa.Connection,
    opener: Opener,
    tenant_id: TenantId,
    entry: EntryRow,
    content: Content,
) -> None:
    """Write one sealed entry."""
    # Metadata may hold integers beyond 64 bits, which orjson does not write.
    header = json.dumps(_header_json(content), ensure_ascii=False).encode()
    body = zstandard.compress(content.body)
    connection.execute(
        entries.insert().values(
            id=entry.id,
            tenant_id=tenant_id,
            source_id=entry.source_id,
            kind=entry.kind,
            recorded_us=entry.recorded_us,
            external_key=entry.external_key,
            content_key=entry.content_key,
            stream_id=entry.stream_id,
            header=opener.seal(entry.id, f"header:{entry.id}", header),
            body=opener.seal(entry.id, f"body:{entry.id}", body),
        )
    )


def list_named(connection: sa.Connection, tenant_id: TenantId, key: str) -> list[EntryRow]:
    """Return the entries that carry an external id, given its keyed name, oldest first."""
    rows = connection.execute(
        sa.select(*_ROW).where(entries.c.tenant_id == tenant_id, entries.c.external_key == key)
    )
    return sorted((_entry_row(row) for row in rows), key=lambda entry: (entry.recorded_us, entry.id))


def list_entry_ids(connection: sa.Connection, tenant_id: TenantId) -> list[EntryId]:
    """Return every journal entry's id, in order of id."""
    found = connection.scalars(sa.select(entries.c.id).where(entries.c.tenant_id == tenant_id))
    return sorted(EntryId(i) for i in found)


def list_rows(connection: sa.Connection, tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> list[EntryRow]:
    """Return the rows of these entries, without their content."""
    found: list[EntryRow] = []
    for chunk in chunked(entry_ids):
        rows = connection.execute(
            sa.select(*_ROW).where(entries.c.tenant_id == tenant_id, entries.c.id.in_(chunk))
        )
        found += [_entry_row(row) for row in rows]
    return found


def iter_headers(
    connection: sa.Connection, vault: Vault, tenant_id: TenantId, entry_ids: Sequence[EntryId] | None = None
) -> Iterator[tuple[EntryRow, Header]]:
    """Yield entries with their opened headers; all of the tenant's when no ids are given."""
    if entry_ids is None:
        entry_ids = list_entry_ids(connection, tenant_id)
    for chunk in chunked(entry_ids):
        opener = vault.opener(tenant_id, chunk)
        rows = connection.execute(
            sa.select(*_ROW, entries.c.header).where(
                entries.c.id.in_(chunk), entries.c.tenant_id == tenant_id
            )
        )
        for row in rows:
            yield _entry_row(row), _open_header(opener, row)


def get_content(connection: sa.Connection, opener: Opener, entry_id: EntryId) -> Content | None:
    """Return an entry's content as it came in, or ``None`` when the entry is gone."""
    row = connection.execute(sa.select(entries).where(entries.c.id == entry_id)).one_or_none()
    if row is None:
        return None
    header = _open_header(opener, row)
    body = zstandard.decompress(opener.open(entry_id, f"body:{entry_id}", row.body))
    return Content(header.kind, header.media_type, body, header.attributes, header.filename)


def list_versions(
    connection: sa.Connection, tenant_id: TenantId, source_ids: Collection[str]
) -> list[EntryRow]:
    """Return the entries of these sources, oldest version first."""
    found: list[EntryRow] = []
    for chunk in chunked(sorted(source_ids)):
        rows = connection.execute(
            sa.select(*_ROW).where(entries.c.tenant_id == tenant_id, entries.c.source_id.in_(chunk))
        )
        found += [_entry_row(row) for row in rows]
    return sorted(found, key=lambda entry: (entry.source_id, entry.recorded_us, entry.id))


def record_changes(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Sequence[EntryId], kind: str
) -> int:
    """Give each entry the tenant's next revision, so that searchers can follow; return the last one."""
    count = len(entry_ids)
    last = connection.scalar(
        tenants.update()
        .where(tenants.c.id == tenant_id)
        .values(revision=tenants.c.revision + count)
        .returning(tenants.c.revision)
    )
    assert last is not None, f"tenant {tenant_id} does not exist"
    rows = [
        {"tenant_id": tenant_id, "revision": last - count + 1 + i, "entry_id": entry_id, "kind": kind}
        for i, entry_id in enumerate(entry_ids)
    ]
    if rows:
        connection.execute(changes.insert(), rows)
    return int(last)


def delete_entries(connection: sa.Connection, tenant_id: TenantId, entry_ids: Collection[EntryId]) -> int:
    """Delete entries and their change marks; return how many entries went."""
    deleted = 0
    for chunk in chunked(sorted(entry_ids)):
        mine = entries.c.id.in_(chunk) & (entries.c.tenant_id == tenant_id)
        deleted += connection.execute(entries.delete().where(mine)).rowcount
        connection.execute(
            changes.delete().where(changes.c.tenant_id == tenant_id, changes.c.entry_id.in_(chunk))
        )
    return deleted


def _entry_row(row: Any) -> EntryRow:
    return EntryRow(
        EntryId(row.id),
        SourceId(row.source_id),
        row.kind,
        row.recorded_us,
        row.external_key,
        row.content_key,
        None if row.stream_id is None else SourceId(row.stream_id),
    )


def _header_json(content: Content) -> dict[str, JsonValue]:
    about: dict[str, JsonValue] = {
        "kind": content.kind,
        "media_type": content.media_type,
        "filename": content.filename,
    }
    return about | attributes_json(content.attributes)


def attributes_json(attributes: Attributes) -> dict[str, JsonValue]:
    """Return attributes as JSON that ``read_attributes`` takes."""
    occurred_at, part = attributes.occurred_at, attributes.part
    # Only what has a field names it, so that all else keeps the keys of its content.
    placed: dict[str, JsonValue] = {} if part is None else {"part": [*astuple(part)[:4], list(part.speakers)]}
    if attributes.is_rest:
        placed["rest"] = True
    return placed | {
        "title": attributes.title,
        "external_id": attributes.external_id,
        "subjects": list(attributes.subjects),
        "metadata": dict(attributes.metadata),
        "user_id": attributes.user_id,
        "agent_id": attributes.agent_id,
        "run_id": attributes.run_id,
        "occurred_at": None if occurred_at is None else occurred_at.isoformat(),
    }


def _open_header(opener: Opener, row: Any) -> Header:
    value = orjson.loads(opener.open(row.id, f"header:{row.id}", row.header))
    return Header(value["kind"], value["media_type"], value["filename"], read_attributes(value))


def _read_part(value: Sequence[Any]) -> Part:
    stream_id, number, start_ms, end_ms, speakers = value
    return Part(SourceId(stream_id), number, start_ms, end_ms, tuple(speakers))


def read_attributes(value: Mapping[str, Any]) -> Attributes:
    """Return attributes from their JSON; what else stands in it is passed over."""
    occurred_at, part = value["occurred_at"], value.get("part")
    return Attributes(
        title=value["title"],
        external_id=value["external_id"],
        subjects=tuple(value["subjects"]),
        metadata=value["metadata"],
        user_id=value["user_id"],
        agent_id=value["agent_id"],
        run_id=value["run_id"],
        occurred_at=None if occurred_at is None else datetime.fromisoformat(occurred_at),
        part=None if part is None else _read_part(part),
        is_rest=value.get("rest", False),
    )
