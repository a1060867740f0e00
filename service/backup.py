"""Backup and restore of the journal: what users told Lethe, sealed as it lies, and what was forgotten since.

A backup is one file: ``MAGIC``, a zstd stream of JSON lines, and the SHA-256 of all that. The first
line says what it is, the last one how much it held; the rows between keep their columns' names, bytes
in base64. It holds no key and nothing derived, so that alone it can be read by nobody, and with the
keys only for what was not forgotten since.

A restore replays forgetting before anything is served: an entry whose key is gone stays away.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import orjson
import sqlalchemy as sa
import zstandard

from memory.clock import Clock, to_datetime
from memory.database import Database
from memory.errors import (
    ConflictError,
    CorruptionError,
    ForgottenError,
    InvalidInputError,
)
from memory.kernel import Kernel
from memory.tables import api_keys, certificates, denied, entries, forgets, keys, streams, tenants
from memory.values import EntryId, JsonValue, TenantId
from memory.vault import SealedVault
from service.work import REBUILD

MAGIC = b"LETHE-BACKUP\x00\r\n\n"
"""Also tells when a transfer took the file for text."""
FORMAT = 1
DIGEST_BYTES = 32
LONGEST_LINE = 1 << 30
READ_BYTES = 1 << 20
ROWS = 64
"""Rows read, opened and written at a time."""

CONTROL = (tenants, denied, forgets, certificates, api_keys, streams)
TABLES = {str(table.name): table for table in (*CONTROL, entries)}

Row = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Backup:
    """A whole backup file, checked against its own digest."""

    path: Path
    made_us: int
    lethe_version: str
    fingerprints: Mapping[TenantId, str]

    def iter_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield (table, row) in the order written; ``CorruptionError`` when the end is not as promised."""
        counts = dict.fromkeys(TABLES, 0)
        lines = _iter_lines(self.path)
        next(lines)
        for line in lines:
            if "end" in line:
                # One made before a table was there does not name it.
                if dict.fromkeys(TABLES, 0) | line["end"] != counts:
                    raise CorruptionError(f"{self.path} does not hold what it says at its end")
                return
            table = TABLES.get(line["table"])
            if table is None:
                raise InvalidInputError(_newer(self.path, self.lethe_version, f"a table {line['table']}"))
            counts[line["table"]] += 1
            yield line["table"], _unpack(table, line["row"])
        raise CorruptionError(f"{self.path} has no end")


@dataclass(frozen=True)
class Survey:
    """What a backup would bring back. ``newer`` counts keys of entries that came after it."""

    entries: int
    survivors: Mapping[TenantId, frozenset[EntryId]]
    forgotten: Mapping[TenantId, Mapping[EntryId, str | None]]
    newer: int

    @property
    def restored(self) -> int:
        """How many entries come back."""
        return sum(map(len, self.survivors.values()))


def write_backup(
    database: Database, vault: SealedVault, path: Path, *, clock: Clock, version: str
) -> dict[str, int]:
    """Write what one snapshot of the database holds to a new file; return rows by table.

    What is fenced already is left out: its erasure is under way. The service may run meanwhile.
    ``ConflictError`` when the file is there.
    """
    if path.exists():
        raise ConflictError(f"{path} is there already; a backup never replaces one: give another name")
    temporary = path.with_name(path.name + ".part")
    try:
        with _writing(temporary) as file, database.read() as connection:
            counts = _write(connection, vault, file, clock(), version)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return counts


def _write(
    connection: sa.Connection, vault: SealedVault, file: _Digested, made_us: int, version: str
) -> dict[str, int]:
    owners = connection.scalars(sa.select(entries.c.tenant_id).distinct().order_by(entries.c.tenant_id)).all()
    file.write(MAGIC)
    counts = dict.fromkeys(TABLES, 0)
    with zstandard.ZstdCompressor().stream_writer(cast(BinaryIO, file), closefd=False) as stream:

        def put(line: Mapping[str, Any]) -> None:
            stream.write(orjson.dumps(line) + b"\n")

        put(
            {
                "what": "a backup of Lethe's journal",
                "format": FORMAT,
                "lethe": version,
                "made_us": made_us,
                "made_at": to_datetime(made_us).isoformat(),
                "fingerprints": {owner: _fingerprint(vault, TenantId(owner)) for owner in owners},
            }
        )
        for name, table in TABLES.items():
            query = sa.select(table).order_by(*table.primary_key.columns)
            if table is entries:
                query = query.where(_not_denied())
            rows = connection.execute(query.execution_options(yield_per=ROWS))
            for row in rows.mappings():
                put({"table": name, "row": _pack(row)})
                counts[name] += 1
        put({"end": counts})
    file.finish()
    return counts


def _not_denied() -> sa.ColumnElement[bool]:
    same = (denied.c.tenant_id == entries.c.tenant_id) & (denied.c.entry_id == entries.c.id)
    return ~sa.exists().where(same)


def open_backup(path: Path) -> Backup:
    """Check a file from end to end and return it as a backup.

    ``InvalidInputError`` for another kind of file, or one of a newer Lethe; ``CorruptionError`` for a
    backup that is torn or altered.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InvalidInputError(f"{path} is not a backup of Lethe")
    _check_digest(path)
    header = next(_iter_lines(path))
    if header.get("format") != FORMAT:
        raise InvalidInputError(_newer(path, str(header.get("lethe")), f"format {header.get('format')}"))
    prints = {TenantId(owner): found for owner, found in header["fingerprints"].items()}
    return Backup(path, header["made_us"], header["lethe"], prints)


def survey(backup: Backup, vault: SealedVault) -> Survey:
    """Open every sealed row with the keys there are, and say what would come back; nothing is changed.

    ``ConflictError`` when the keys are another installation's; ``CorruptionError`` when a row does not
    open though its key is there.
    """
    for tenant_id, known in backup.fingerprints.items():
        if not _has_key(vault, tenant_id) or _fingerprint(vault, tenant_id) != known:
            raise ConflictError(
                f"the key store here is not the one of this backup (tenant {tenant_id!r}): put the keys.db "
                "and root.key of that installation in place. Without them a backup cannot be read, by design"
            )
    survivors: dict[TenantId, set[EntryId]] = {}
    forgotten: dict[TenantId, dict[EntryId, str | None]] = {}
    for tenant_id, rows in _iter_entries(backup):
        opener = vault.opener(tenant_id, [row["id"] for row in rows])
        for row in rows:
            try:
                for part in ("header", "body"):
                    opener.open(row["id"], f"{part}:{row['id']}", row[part])
            except ForgottenError:
                # As in a tombstone of the fence: an id made from an external id would tell the name.
                source_id = row["source_id"] if row.get("external_key") is None else None
                forgotten.setdefault(tenant_id, {})[row["id"]] = source_id
            else:
                survivors.setdefault(tenant_id, set()).add(row["id"])
    everything = sum(map(len, survivors.values())) + sum(map(len, forgotten.values()))
    newer = sum(
        len(set(vault.list_entry_ids(tenant_id)) - survivors.get(tenant_id, set()))
        for tenant_id in backup.fingerprints
    )
    kept = {tenant_id: frozenset(ids) for tenant_id, ids in survivors.items()}
    return Survey(everything, kept, forgotten, newer)


def restore(kernel: Kernel, backup: Backup, found: Survey, *, with_api_keys: bool = False) -> dict[str, int]:
    """Write a surveyed backup into a database whose journal is empty, in one transaction.

    Rows that the control plane has already stay as they are: they are newer. What was forgotten since
    gets its tombstone, and everything derived is made again by a job. Return rows written, by table.
    ``ConflictError`` when the journal holds entries, or the log of certificates is another one.
    """
    written = dict.fromkeys(TABLES, 0)
    with kernel.database.write() as connection:
        if connection.scalar(sa.select(entries.c.id).limit(1)) is not None:
            raise ConflictError("the journal here is not empty; restore into an empty folder or database")
        for name, rows in groupby(backup.iter_rows(), lambda line: line[0]):
            table = TABLES[name]
            for batch in _batches((row for _, row in rows)):
                wanted = _select(connection, table, batch, found, with_api_keys=with_api_keys)
                for row in wanted:
                    connection.execute(table.insert().values(row))
                written[name] += len(wanted)
        request = kernel.new_id()
        for tenant_id, lost in found.forgotten.items():
            written["denied"] += _bury(connection, tenant_id, lost, request)
        for tenant_id in found.survivors:
            kernel.jobs.add_once(connection, tenant_id, REBUILD)
    return written


def _select(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Row],
    found: Survey,
    *,
    with_api_keys: bool,
) -> list[Row]:
    """Return which of these rows are to be written."""
    if table is api_keys and not with_api_keys:
        return []
    if table is entries:
        named = denied.c.entry_id.in_([row["id"] for row in rows])
        gone = set(connection.scalars(sa.select(denied.c.entry_id).where(named)))
        return [
            row
            for row in rows
            if row["id"] not in gone and row["id"] in found.survivors.get(row["tenant_id"], ())
        ]
    fresh = [row for row in rows if not _is_there(connection, table, row)]
    if table is tenants:
        for row in rows:
            _raise_marks(connection, row)
    if table is certificates:
        _check_same_log(connection, fresh)
    return fresh


def _is_there(connection: sa.Connection, table: sa.Table, row: Row) -> bool:
    same = sa.and_(*(column == row[column.name] for column in table.primary_key.columns))
    return connection.execute(sa.select(*table.primary_key.columns).where(same)).first() is not None


def _raise_marks(connection: sa.Connection, row: Row) -> None:
    """Take the higher epoch and revision of a tenant that is there: neither ever goes back."""
    for column in (tenants.c.epoch, tenants.c.revision):
        lower = (tenants.c.id == row["id"]) & (column < row[column.name])
        connection.execute(tenants.update().where(lower).values({column: row[column.name]}))


def _check_same_log(connection: sa.Connection, fresh: Iterable[Row]) -> None:
    taken = set(connection.scalars(sa.select(certificates.c.position)))
    if any(row["position"] in taken for row in fresh):
        raise ConflictError(
            "the log of certificates here is not the one of this backup; restore into an empty database"
        )


def _bury(
    connection: sa.Connection, tenant_id: TenantId, lost: Mapping[EntryId, str | None], request: str
) -> int:
    """Deny what was forgotten after the backup, and raise the epoch, as its fence did."""
    known = set(connection.scalars(sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id)))
    rows = [
        {"tenant_id": tenant_id, "entry_id": entry_id, "forget_id": request, "source_id": source_id}
        for entry_id, source_id in sorted(lost.items())
        if entry_id not in known
    ]
    if rows:
        connection.execute(denied.insert(), rows)
        mine = tenants.c.id == tenant_id
        connection.execute(tenants.update().where(mine).values(epoch=tenants.c.epoch + 1))
    return len(rows)


def _iter_entries(backup: Backup) -> Iterator[tuple[TenantId, Sequence[Row]]]:
    """Yield a backup's entries by tenant, some at a time."""
    rows = (row for name, row in backup.iter_rows() if name == entries.name)
    for batch in _batches(rows):
        ordered = sorted(batch, key=lambda row: str(row["tenant_id"]))
        for tenant_id, mine in groupby(ordered, lambda row: TenantId(row["tenant_id"])):
            yield tenant_id, list(mine)


def _batches(values: Iterable[Value]) -> Iterator[list[Value]]:
    remaining = iter(values)
    while batch := list(islice(remaining, ROWS)):
        yield batch


def _has_key(vault: SealedVault, tenant_id: TenantId) -> bool:
    with vault.database.read() as connection:
        row = sa.select(keys.c.name).where(keys.c.name == f"tenant:{tenant_id}")
        return connection.scalar(row) is not None


def _fingerprint(vault: SealedVault, tenant_id: TenantId) -> str:
    return vault.name(tenant_id, "backup", b"key store")


# The file


@dataclass
class _Digested:
    """A file that hashes what is written to it."""

    file: BinaryIO
    sha256: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self.sha256.update(data)
        return self.file.write(data)

    def finish(self) -> None:
        """Write the digest, and put everything on the disk."""
        self.file.write(self.sha256.digest())
        self.file.flush()
        os.fsync(self.file.fileno())


@dataclass
class _Part:
    """So many bytes of a file, from where it stands."""

    file: BinaryIO
    left: int

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data


@contextmanager
def _writing(path: Path) -> Iterator[_Digested]:
    """Open a new file that only its owner may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield _Digested(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_digest(path: Path) -> None:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        content = _Part(file, max(0, path.stat().st_size - DIGEST_BYTES))
        while part := content.read(READ_BYTES):
            sha256.update(part)
        if file.read() != sha256.digest():
            raise CorruptionError(f"{path} is torn or was altered: its checksum is wrong; take another copy")


def _iter_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        packed = _Part(file, path.stat().st_size - len(MAGIC) - DIGEST_BYTES)
        reader = io.BufferedReader(
            zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, packed)), READ_BYTES
        )
        try:
            while line := reader.readline(LONGEST_LINE):
                yield orjson.loads(line)
        except (zstandard.ZstdError, orjson.JSONDecodeError) as error:
            raise CorruptionError(f"{path} is not written as a backup is: {error}") from error


def _pack(row: Mapping[Any, Any]) -> dict[str, JsonValue]:
    return {
        str(name): base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in row.items()
    }


def _unpack(table: sa.Table, packed: dict[str, Any]) -> Row:
    row: Row = {}
    for name, value in packed.items():
        column = table.c.get(name)
        if column is None:
            raise InvalidInputError(f"a newer Lethe made this backup: {table.name}.{name} is not known here")
        if value is None:
            continue  # left out, it is NULL in every kind of column; given, JSON's own null
        row[name] = base64.b64decode(value) if isinstance(column.type, sa.LargeBinary) else value
    return row


def _newer(path: Path, version: str, what: str) -> str:
    return f"{path} was made by a newer Lethe ({version}): {what} is not known here"
