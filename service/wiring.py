"""Wiring: settings in, a ``Lethe`` out. Here classes are chosen; those of models in ``service.models``."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import structlog

import migrations
from embedding.models import ModelStore
from memory.clock import Clock, NewId, SystemClock, random_id
from memory.database import Database, connect
from memory.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from memory.fence import Fence, InProcessFence
from memory.jobs import Jobs
from memory.kernel import Kernel
from memory.ports import Encoder, Reader, Store
from memory.postgres import AdvisoryFence, PostgresDatabase
from memory.values import TenantId
from memory.vault import KEY_BYTES, SealedVault
from memory.vault import TABLES as KEY_TABLES
from reader.prompt import MARK_DIGITS
from reader.switch import SwitchingReader
from retrieval.engine_residue import Retention
from service.access import Access, write_private
from service.answer import Answerer
from service.collection_store import CollectionStore
from service.excerpts import Excerpts
from service.forgetting import Forgetting
from service.index import Indexes
from service.index_store import IndexStore
from service.ingest import Recipes
from service.lethe import Lethe, Waker
from service.media import MediaParser
from service.milvus import Collections
from service.models import (
    Keeping,
    count_device_bytes,
    explain_no_memories,
    list_local_readers,
    load_encoder,
    make_reader,
    make_screen_text,
    make_speech,
    retaining,
)
from service.recall import Recaller
from service.settings import Settings
from service.shelf_store import ShelfStore
from service.shelves import Shelves
from service.stores import CONTENT_TABLES, ArtifactStore, ControlFiles, JournalStore, KeyStore
from service.stream_events import StreamEvents
from service.streams import Streams
from service.tracing import set_up
from service.watches import Watches
from service.work import Work
from sources.guard import GuardedParser
from sources.parse import SourceParser
from unlearning.certificate import SigningKey
from unlearning.forget import Purge, Settle

DEFAULT_TENANT = TenantId("default")


def get_version() -> str:
    """Return Lethe's version."""
    try:
        return version("lethe")
    except PackageNotFoundError:
        return "0+unknown"


def upgrade_database(settings: Settings) -> dict[str, str | None]:
    """Bring both databases to the newest revision; return the revisions.

    ``ConflictError`` for a database that a newer release has changed, which is left as it is.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    revisions: dict[str, str | None] = {}
    planes: tuple[tuple[migrations.Plane, str], ...] = (
        ("data", settings.resolved_database_url),
        ("keys", settings.resolved_keys_url),
    )
    for plane, url in planes:
        database = connect(url)
        with database.write():
            pass  # Alembic does not say in our words that it cannot be reached or written
        current, newest = migrations.get_revisions(plane, database.engine)
        if current != newest:
            if not migrations.is_known(plane, current):
                shown = database.url.render_as_string()
                database.close()
                raise ConflictError(
                    f"a newer release of Lethe has changed {shown}; install that one, or restore a backup"
                )
            migrations.upgrade(plane, database.engine)
        revisions[plane] = newest
        database.close()
    return revisions


def load_root_key(path: Path) -> bytes:
    """Return the root key, made at first use; ``CorruptionError`` when the file is no key."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, os.urandom(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise CorruptionError(f"{path} should hold {KEY_BYTES} bytes; restore it from where it is kept")
    return key


def lock_data_folder(data: Path) -> int:
    """Take the folder for this process alone; ``ConflictError`` when another process serves it.

    The lock is the process's and goes with it, however it ends.
    """
    descriptor = os.open(data / "serving.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            f"another process serves {data}; stop it, or give this one its own --data folder"
        ) from error
    return descriptor


def build_kernel(settings: Settings, *, clock: Clock | None = None, new_id: NewId = random_id) -> Kernel:
    """Open the databases (migrated), the vault, the queue and the fence."""
    upgrade_database(settings)
    clock = clock or SystemClock()
    database = connect(settings.resolved_database_url)
    fence: Fence = AdvisoryFence(database.url) if isinstance(database, PostgresDatabase) else InProcessFence()
    root_key = load_root_key(settings.root_key_file or settings.data / "root.key")
    vault = SealedVault(connect(settings.resolved_keys_url), root_key)
    return Kernel(settings.data, database, vault, fence, Jobs(database, clock, new_id), clock, new_id)


def open_databases(settings: Settings) -> tuple[Database, SealedVault]:
    """Open data and keys as they are, for commands that must make nothing anew.

    ``NotFoundError`` when one of them is missing, ``ConflictError`` when it is of another revision.
    """
    return open_data(settings), open_vault(settings)


def open_data(settings: Settings) -> Database:
    """Open the data database that is there; ``NotFoundError`` without it."""
    return _open_there("data", settings.resolved_database_url)


def open_vault(settings: Settings) -> SealedVault:
    """Open the key store that is there; ``NotFoundError`` without its database or root key."""
    root_key_file = settings.root_key_file or settings.data / "root.key"
    if not root_key_file.exists():
        raise NotFoundError("root key", str(root_key_file))
    database = _open_there("keys", settings.resolved_keys_url)
    return SealedVault(database, load_root_key(root_key_file))


def _open_there(plane: migrations.Plane, url: str) -> Database:
    database = connect(url)
    shown = database.url.render_as_string()  # without its password
    if not database.is_shared and not Path(database.url.database or "").exists():
        raise NotFoundError(f"{plane} database", shown)
    found, newest = migrations.get_revisions(plane, database.engine)
    if found is None:
        database.close()
        raise NotFoundError(f"{plane} database", f"{shown}: it has no tables")
    if found != newest:
        database.close()
        raise ConflictError(
            f"the {plane} database is at revision {found}, this Lethe is of revision {newest}; stop the "
            "service and run: lethe db upgrade"
        )
    return database


def _make_guarded(settings: Settings, processes: int) -> GuardedParser:
    return GuardedParser(
        seconds=settings.parse_seconds, memory_bytes=settings.parse_memory_bytes, processes=processes
    )


def find_device(settings: Settings) -> str | None:
    """Return the device that searches saved vectors; ``InvalidInputError`` when it is not there."""
    if settings.vectors != "cuda":
        return None
    # Deferred: torch takes seconds to import.
    from retrieval.torch_vectors import has_cuda

    if not has_cuda():
        raise InvalidInputError(
            "torch sees no CUDA device here: look at nvidia-smi and at torch's build, or choose files",
            where="LETHE_VECTORS",
        )
    return "cuda"


def find_collections(settings: Settings) -> Collections | None:
    """Return what keeps saved vectors in Milvus, or takes them out; ``None`` where no address is named."""
    if settings.milvus_address is None:
        if settings.vectors == "milvus":
            raise InvalidInputError(
                "say where Milvus listens, for one http://127.0.0.1:19530", where="LETHE_MILVUS_ADDRESS"
            )
        return None
    if find_spec("pymilvus") is None:
        raise InvalidInputError(
            "its client is not installed: pip install 'lethe[milvus]'", where="LETHE_MILVUS_ADDRESS"
        )
    return Collections(
        settings.milvus_address,
        settings.milvus_token,
        settings.milvus_prefix,
        settings.milvus_index,
        Retention(settings.milvus_garbage_seconds, settings.milvus_log_seconds or None),
        keeps=settings.vectors == "milvus",
    )


def make_shelves(settings: Settings, kernel: Kernel, indexes: Indexes) -> Shelves:
    """Return where this process's reader keeps what it computed; nothing is kept for one elsewhere."""
    return Shelves(
        kernel,
        indexes,
        device_bytes=count_device_bytes(settings),
        ram_bytes=settings.kv_ram_bytes,
        disk_bytes=settings.kv_disk_bytes,
        off=explain_no_memories(settings),
    )


def _purge_keys(database: Database) -> Mapping[str, str]:
    """Remove destroyed keys' bytes, and say what a log that cannot be emptied still has of them."""
    how = database.purge(KEY_TABLES)
    if not database.is_shared:
        return how
    return {**how, "log": "kept until recycled, destroyed keys included, wrapped under the root key"}


def build(
    settings: Settings,
    waker: Waker,
    *,
    encoder: Encoder | None = None,
    reader: Reader | None = None,
    parser: SourceParser | None = None,
    kernel: Kernel | None = None,
) -> Lethe:
    """Wire a service. Encoder, reader, parser and kernel may be given, as tests do."""
    kernel = kernel or build_kernel(settings)
    store = ModelStore(settings.models_cache)
    encoder = encoder or load_encoder(settings, store)
    vault = kernel.vault
    assert isinstance(vault, SealedVault)
    # A parser that is given hears with what it has.
    speech = make_speech(settings, store) if parser is None else None
    screen_text = make_screen_text(settings) if parser is None else None
    collections = find_collections(settings)
    indexes = Indexes(
        kernel,
        encoder,
        Recipes.of(encoder, speech, screen_text),
        device=find_device(settings),
        collections=collections,
    )
    # Sealed artifacts go with the journal, after the scan: until then they tell what to look for.
    shelves = make_shelves(settings, kernel, indexes)
    loader: SwitchingReader | None = None
    if reader is None:
        made = retaining(shelves, len(list_local_readers(settings)))
        keeping = Keeping(vault.secret("reader-mark").hex()[:MARK_DIGITS], made)
        reader, loader = make_reader(settings, store, encoder, keeping)
    derived: tuple[Store, ...] = (IndexStore(indexes), ShelfStore(shelves))
    engines: dict[str, Settle] = {}
    if collections is not None:
        derived += (CollectionStore(indexes, collections),)
        engines[CollectionStore.name] = indexes.settle
    truth = (ArtifactStore(kernel), JournalStore(kernel), KeyStore(vault))
    purges: dict[str, Purge] = {
        "data": partial(kernel.database.purge, CONTENT_TABLES),
        "keys": partial(_purge_keys, vault.database),
    }
    guarded = parser or _make_guarded(settings, settings.parse_processes)
    # A process each, begun when it is needed: who looks waits for no file that is read, a forget for nobody.
    viewer, cutter = (parser or _make_guarded(settings, 1) for _ in range(2))
    forgetting = Forgetting(
        kernel,
        indexes,
        derived=derived,
        truth=truth,
        purges=purges,
        engines=engines,
        signing_key=SigningKey.load(vault.secret("certificates")),
        version=get_version(),
        cutter=cutter,
        wake=waker.wake,
    )
    reading = MediaParser(guarded, speech, screen_text) if parser is None else parser
    recaller = Recaller(kernel, indexes, encoder, hierarchy=settings.hierarchy)
    watches = Watches(kernel, recaller, waker.wake)
    return Lethe(
        kernel=kernel,
        access=Access(kernel, vault.secret("api-keys"), DEFAULT_TENANT),
        indexes=indexes,
        shelves=shelves,
        recaller=recaller,
        streams=Streams(kernel, recaller, cutter, waker.wake),
        stream_events=StreamEvents(kernel, recaller, watches),
        watches=watches,
        answerer=Answerer(kernel, recaller, reader, shelves, passages=settings.reader_passages),
        excerpts=Excerpts(kernel, viewer),
        forgetting=forgetting,
        close_cutter=cutter.close,
        work=Work(kernel, indexes, forgetting, reading, waker.wake),
        waker=waker,
        stores=(*derived, *truth, ControlFiles()),
        load_reader=loader,
        default_tenant=DEFAULT_TENANT,
        admin_key_file=settings.data / "admin.key",
        stop_seconds=settings.stop_seconds,
    )


def configure_traces(settings: Settings) -> None:
    """Send traces where the settings say; nowhere by default."""
    if settings.otel_endpoint is not None:
        set_up(settings.otel_endpoint, version=get_version())


def configure_logs(level: str) -> None:
    """Log JSON lines to standard error; no line ever holds content."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
