"""What ``lethe doctor`` looks at: one small function per thing that can be wrong, all in ``CHECKS``.

A check looks, changes nothing, and says what to do. It may run beside a living service. What raises is
broken: a check catches only what it can say more about. Nothing here knows the other checks' results.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from embedding.models import ModelStore
from memory.clock import to_datetime
from memory.database import Database
from memory.errors import CorruptionError, LetheError, UnavailableError
from memory.tables import forgets, jobs, keys, manifests, tenants
from memory.values import TenantId
from reader.openai import NAME_PREFIX
from service.catalog import measure_catalog
from service.engine import EngineConnection
from service.index import INDEX_FOLDER
from service.index_store import IndexStore
from service.models import (
    EXTRACTIVE,
    NO_SPEECH,
    OPENAI,
    check_readers,
    explain_no_memories,
    load_engine_key,
    open_reader_server,
    open_remote_writer,
)
from service.published import CATALOG, COLLECTION, ENGINE
from service.settings import Settings
from service.shelf_files import SHELF_FOLDER
from service.shelf_store import ShelfStore
from service.stores import ArtifactStore, ControlFiles, JournalStore, KeyStore
from service.wiring import find_collections, find_device, open_data, open_vault
from unlearning.forget import find_unowned

State = Literal["ok", "warning", "broken"]
OWNERS = (JournalStore, ArtifactStore, KeyStore, ControlFiles, IndexStore, ShelfStore)
LEAST_FREE_BYTES = 256 << 20
SPARSE_FREE_BYTES = 2 << 30
LATE_CERTIFICATE_SECONDS = 900
STALE_LEASE_SECONDS = 60
CLOCK_SECONDS = 60
RELEASED_US = 1_760_000_000_000_000
"""October 2025: a clock before this version was written is wrong."""
REMOTE_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})
"""SQLite's locks and shared memory do not hold on these (sqlite.org/wal.html)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How a thing is, and what to do about it; nothing to do when it is well."""

    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """A finding with the name of its check."""

    check: str
    finding: Finding


@dataclass(frozen=True)
class Visit:
    """The settings looked at, and what is opened for several checks."""

    settings: Settings

    @cached_property
    def database(self) -> Database:
        """The data database, when it is there and of this revision."""
        return open_data(self.settings)


def look_at_folder(visit: Visit) -> Finding:
    """The data folder can be written."""
    data = visit.settings.data
    if not data.is_dir():
        return Finding("broken", f"{data} is no folder", "start with lethe serve, or name another: --data")
    kind = _file_system(data)
    try:
        # A file without a name: it never shows in the folder, and goes by itself.
        os.close(os.open(data, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR) or not os.access(data, os.W_OK | os.X_OK):
            return Finding(
                "broken", f"{data} cannot be written: {error.strerror}", "mend owner, mode or mount"
            )
    if kind in REMOTE_FILE_SYSTEMS and visit.settings.database_url is None:
        return Finding("warning", f"{data} is on {kind}", "keep SQLite on a local disk, or use PostgreSQL")
    return Finding("ok", f"{data} can be written ({kind})")


def look_at_space(visit: Visit) -> Finding:
    """There is room to write."""
    free = shutil.disk_usage(visit.settings.data).free
    said = f"{free / 1e9:.1f} GB free"
    if free < LEAST_FREE_BYTES:
        return Finding(
            "broken", said, "make room: without it nothing is remembered, and forgetting cannot end"
        )
    return Finding("warning" if free < SPARSE_FREE_BYTES else "ok", said)


def look_at_database(visit: Visit) -> Finding:
    """The data database answers, at the newest revision."""
    with visit.database.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(tenants))
        if visit.database.is_shared and connection.scalar(sa.text("SHOW fsync")) == "off":
            return Finding(
                "warning",
                "the server does not wait for its disk (fsync is off): a power cut may lose what was "
                "acknowledged, forget requests among it, or leave the database unreadable",
                "ALTER SYSTEM SET fsync = on, and restart the server",
            )
    return Finding("ok", f"at the newest revision, {count} tenants")


def look_at_keys(visit: Visit) -> Finding:
    """The key store answers, and the root key opens it."""
    settings = visit.settings
    vault = open_vault(settings)
    try:
        with vault.database.read() as connection:
            some = connection.scalar(sa.select(keys.c.tenant_id).where(keys.c.name.startswith("tenant:")))
        if some is not None:
            vault.name(TenantId(some), "doctor", b"")
        with visit.database.read() as connection:
            known = connection.scalar(sa.select(tenants.c.id).limit(1))
        if known is None and not vault.is_empty():
            return Finding("broken", "there are keys, but no journal", "bring it back: lethe restore FILE")
    except CorruptionError as error:
        return Finding("broken", str(error), "put the root key that belongs to keys.db in its place")
    finally:
        vault.close()
    path = settings.root_key_file or settings.data / "root.key"
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("broken", f"others may read {path} (mode {mode:o})", f"chmod 600 {path}")
    return Finding("ok", "the root key opens the key store and is private")


def look_at_broker(visit: Visit) -> Finding:
    """The broker answers; the embedded one comes with the service."""
    url = visit.settings.broker_url
    if url is None:
        return Finding("ok", "embedded: it starts with the service")
    # Celery's name for a socket, and redis-py's.
    client = Redis.from_url(
        url.replace("redis+socket://", "unix://", 1),
        socket_timeout=5,
        socket_connect_timeout=5,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except (RedisError, OSError) as error:
        detail = f"the broker does not answer: {type(error).__name__}"
        return Finding("broken", detail, "start it, or mend LETHE_BROKER_URL; jobs wait meanwhile")
    finally:
        client.close()
    return Finding("ok", "answers")


def look_at_models(visit: Visit) -> Finding:
    """The models' weights are here and whole."""
    settings = visit.settings
    store = ModelStore(settings.models_cache)
    missing = []
    asked = (settings.embedder, settings.reader, settings.reader_draft, settings.reader_large)
    for name in dict.fromkeys((*asked, settings.speech)):
        if name in {None, EXTRACTIVE, OPENAI, NO_SPEECH}:
            continue
        if store.find(name) is None:
            missing.append(name)
        elif not name.startswith("hf:"):
            try:
                store.verify(name)
            except LetheError as error:
                return Finding("broken", f"{name}: {error}", f"lethe models get {name}")
    if settings.embedder in missing:
        advice = f"lethe models get {settings.embedder}"
        return Finding("broken", f"{settings.embedder} is not here: nothing can be remembered", advice)
    if missing == [settings.speech]:
        return Finding("ok", f"here, but for {settings.speech}: fetched for the first recording")
    if missing:
        reads = missing[0] in {settings.reader, settings.reader_draft}
        without = "answers are extractive" if reads else "nothing is handed over to it"
        return Finding("warning", f"{missing[0]} is not here: {without}", f"lethe models get {missing[0]}")
    return Finding("ok", "here, and as their digests say")


def look_at_reader(visit: Visit) -> Finding:
    """Who reads; another process that does can be asked."""
    settings = visit.settings
    if settings.engine_url is not None:
        engine = EngineConnection(settings.engine_url, load_engine_key(settings))
        try:
            reader = engine.wait(0).reader
        except UnavailableError as error:
            return Finding("broken", str(error), "nothing is remembered or answered without it")
        finally:
            engine.close()
        return Finding("ok", f"the engine's: {reader}{_without_memories(reader)}")
    check_readers(settings)
    names = [name for name in (settings.reader, settings.reader_large) if name is not None]
    if OPENAI not in names:
        return Finding("ok", ", then ".join(names))
    server = open_reader_server(settings)
    try:
        served = open_remote_writer(settings, server).name
    except UnavailableError as error:
        instead = EXTRACTIVE if settings.reader == OPENAI else settings.reader
        return Finding("warning", str(error), f"till then {instead} reads alone")
    finally:
        server.close()
    said = ", then ".join(served if name == OPENAI else name for name in names)
    return Finding("ok", f"{said}{_without_memories(served)}")


def _without_memories(reader: str) -> str:
    served = NAME_PREFIX in reader
    return "; another server, sent text: key/value memories are off with it" if served else ""


def look_at_vectors(visit: Visit) -> Finding:
    """What searches saved vectors is there, and Milvus holds as many rows as the files."""
    settings = visit.settings
    find_device(settings)
    collections = find_collections(settings)
    with visit.database.read() as connection:
        rows = connection.execute(sa.select(manifests)).all()
    catalogs = {row.tenant_id: row.folder for row in rows if row.kind == CATALOG}
    named = {row.tenant_id: row.folder for row in rows if row.kind == COLLECTION}
    if collections is None:
        if there := {row.tenant_id for row in rows if row.kind == ENGINE}:
            advice = "set LETHE_MILVUS_ADDRESS; with LETHE_VECTORS=files the collections are dropped"
            said = f"vectors of {len(there)} tenants are in Milvus, no address is set: no forget ends"
            return Finding("broken", said, advice)
        return Finding("ok", f"searched by {settings.vectors}")
    version, _ = collections.ask()
    lacking = []
    for tenant_id, name in named.items():
        files = settings.data / INDEX_FOLDER / tenant_id
        wanted, dimension = measure_catalog(files, catalogs[tenant_id])
        held = len(collections.open(name, dimension))
        if held < wanted:
            lacking.append(f"{name} holds {held} of {wanted} rows")
    if lacking:
        advice = "lethe rebuild puts them back, as does the next writing of files; till then none is found"
        return Finding("broken", "; ".join(lacking), advice)
    return Finding("ok", f"Milvus {version} answers, {len(named)} collections are whole")


def look_at_shelf(visit: Visit) -> Finding:
    """What is kept of passages on disk is no more than it may be."""
    settings = visit.settings
    room = 0 if explain_no_memories(settings) else settings.kv_disk_bytes
    files = [path for path in (settings.data / SHELF_FOLDER).glob("*/*.kv") if path.is_file()]
    held = sum(path.stat().st_size for path in files)
    said = f"{len(files)} key/value memories in {held / 1e9:.1f} of {room / 1e9:.1f} GB"
    if 4 * held > 5 * room:
        return Finding("warning", said, "the next start of a process that serves deletes those least used")
    return Finding("ok", said)


def look_at_port(visit: Visit) -> Finding:
    """The port is free, or Lethe's own."""
    host, port = visit.settings.host, visit.settings.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            if _is_served(visit.settings.data):
                return Finding("ok", f"{host}:{port} is taken, and this data folder is being served")
            said = f"{host}:{port} cannot be had: {error.strerror}"
            return Finding("broken", said, "end what holds it, or choose another: --port")
    return Finding("ok", f"{host}:{port} is free")


def look_at_files(visit: Visit) -> Finding:
    """Every file in the data folder is Lethe's own: a forget erases and searches what it knows."""
    strange = find_unowned(visit.settings.data, OWNERS)
    if not strange:
        return Finding("ok", "every file has its owner")
    named = ", ".join(map(str, strange[:5])) + (f" and {len(strange) - 5} more" if strange[5:] else "")
    advice = "move them out: no forget erases what they may hold"
    return Finding("broken", f"not Lethe's: {named}", advice)


def look_at_leases(visit: Visit) -> Finding:
    """No job's worker is gone."""
    stale = (jobs.c.status == "running") & (
        jobs.c.lease_until_us < _now_us() - STALE_LEASE_SECONDS * 1_000_000
    )
    counts = _count(visit.database, jobs.c.kind, stale)
    if counts:
        advice = "start a worker: it takes them over within seconds"
        return Finding("warning", f"jobs whose worker is gone: {_said(counts)}", advice)
    return Finding("ok", "no job has lost its worker")


def look_at_jobs(visit: Visit) -> Finding:
    """No job failed for good."""
    counts = _count(visit.database, jobs.c.kind, jobs.c.status == "failed")
    if counts:
        return Finding("warning", f"failed: {_said(counts)}", "GET /v1/jobs says why, each with its error")
    return Finding("ok", "none failed")


def look_at_forgets(visit: Visit) -> Finding:
    """Every forget request is certified in time."""
    late_us = _now_us() - LATE_CERTIFICATE_SECONDS * 1_000_000
    late = (forgets.c.state != "certified") & (forgets.c.fenced_us < late_us)
    counts = _count(visit.database, forgets.c.state, late | (forgets.c.state == "failed"))
    if counts:
        advice = "what they mean stays hidden; GET /v1/forget/ID says what remains. A restart tries again"
        return Finding("broken", f"not certified: {_said(counts)}", advice)
    return Finding("ok", "all certified, or under way")


def look_at_clock(visit: Visit) -> Finding:
    """The clock is not behind what was written: versions are ordered by time."""
    now = _now_us()
    if now < RELEASED_US:
        return Finding(
            "broken", f"the clock says {to_datetime(now):%Y-%m-%d}", "set it, and keep it set (NTP)"
        )
    with visit.database.read() as connection:
        newest = connection.scalar(sa.select(sa.func.max(jobs.c.created_us))) or 0
    if newest > now + CLOCK_SECONDS * 1_000_000:
        said = f"the clock is {(newest - now) / 1e6:.0f} s behind the newest job"
        return Finding("broken", said, "set it, and keep it set (NTP): versions are ordered by time")
    return Finding("ok", "not behind what was written")


CHECKS: Mapping[str, Callable[[Visit], Finding]] = {
    "data folder": look_at_folder,
    "disk space": look_at_space,
    "database": look_at_database,
    "keys": look_at_keys,
    "broker": look_at_broker,
    "models": look_at_models,
    "reader": look_at_reader,
    "vectors": look_at_vectors,
    "shelf": look_at_shelf,
    "port": look_at_port,
    "files": look_at_files,
    "leases": look_at_leases,
    "jobs": look_at_jobs,
    "forgets": look_at_forgets,
    "clock": look_at_clock,
}


def examine(settings: Settings) -> list[Examined]:
    """Do every check, whatever the others find."""
    visit = Visit(settings)
    found = [Examined(name, _look(look, visit)) for name, look in CHECKS.items()]
    if "database" in visit.__dict__:
        visit.database.close()
    return found


def _look(look: Callable[[Visit], Finding], visit: Visit) -> Finding:
    try:
        return look(visit)
    except LetheError as error:
        return Finding("broken", str(error))
    except sa.exc.SQLAlchemyError as error:
        # The driver's own words may quote the URL with its password.
        return Finding("broken", f"the database does not answer: {type(error).__name__}", "start or mend it")
    except OSError as error:
        return Finding("broken", f"{error.filename or 'the data folder'}: {error.strerror}")


def _count(database: Database, column: sa.Column[str], which: sa.ColumnElement[bool]) -> dict[str, int]:
    with database.read() as connection:
        rows = connection.execute(sa.select(column, sa.func.count()).where(which).group_by(column))
        return {row[0]: row[1] for row in rows}


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _now_us() -> int:
    return time.time_ns() // 1_000


def _file_system(path: Path) -> str:
    """Return the kind of file system a path is on, as Linux names it."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return "an unknown file system"
    best, kind = 0, "an unknown file system"
    whole = str(path.resolve())
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = whole == point or whole.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), after.split()[0]
    return kind


def _is_served(data: Path) -> bool:
    """Say whether a process holds the data folder's lock."""
    path = data / "serving.lock"
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
