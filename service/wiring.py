"""Wiring: settings in, a ``Lethe`` out. The only place that reads settings and chooses classes."""

from __future__ import annotations

import fcntl
import os
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

import migrations
from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from memory.clock import Clock, NewId, SystemClock, random_id
from memory.database import connect
from memory.errors import ConflictError, CorruptionError
from memory.fence import Fence, InProcessFence
from memory.jobs import Jobs
from memory.kernel import Kernel
from memory.ports import Encoder, Reader
from memory.postgres import AdvisoryFence, PostgresDatabase
from memory.values import TenantId
from memory.vault import KEY_BYTES, SealedVault
from memory.vault import TABLES as KEY_TABLES
from reader.extractive import ExtractiveReader
from reader.switch import SwitchingReader
from service.access import Access, write_private
from service.answer import Answerer
from service.forgetting import Forgetting
from service.index import Indexes, IndexStore
from service.ingest import Recipes
from service.lethe import Lethe, Waker
from service.recall import Recaller
from service.settings import Settings
from service.stores import CONTENT_TABLES, ArtifactStore, ControlFiles, JournalStore, KeyStore
from service.work import Work
from sources.parse import SourceParser
from unlearning.certificate import SigningKey
from unlearning.forget import Purge

EXTRACTIVE = "extractive"
DEFAULT_TENANT = TenantId("default")


def get_version() -> str:
    """Return Lethe's version."""
    try:
        return version("lethe")
    except PackageNotFoundError:
        return "0+unknown"


def upgrade_database(settings: Settings) -> dict[str, str | None]:
    """Bring both databases to the newest revision; return the revisions."""
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
        migrations.upgrade(plane, database.engine)
        revisions[plane] = migrations.get_revisions(plane, database.engine)[0]
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


def load_encoder(settings: Settings, store: ModelStore) -> Encoder:
    """Return the text encoder, fetching its weights where they are missing."""
    return TextEncoder(store.get(settings.embedder), name=settings.embedder, threads=settings.torch_threads)


def find_weights(folder: Path) -> tuple[Path, str]:
    """Return what a language model is loaded from, a GGUF file or the whole folder, and its digest.

    Files of the model store are links to blobs named by their digest.
    """
    files = sorted(folder.glob("*.gguf"))
    return (files[0], files[0].resolve().name) if files else (folder, folder.name)


def make_reader(
    settings: Settings, store: ModelStore, encoder: Encoder
) -> tuple[Reader, SwitchingReader | None]:
    """Return the reader, and the loader to be started when a language model is to take over."""
    extractive = ExtractiveReader(encoder)
    if settings.reader == EXTRACTIVE:
        return extractive, None

    def load() -> Reader:
        # Deferred: language models take seconds to import, and the extractive reader answers now.
        from reader.language_model import LanguageModelReader, load_language_model

        folder = store.get(settings.reader)
        path, digest = find_weights(folder)
        model, tokenizer = load_language_model(
            path, digest=digest, converted=settings.models_cache / "converted"
        )
        return LanguageModelReader(model, tokenizer, name=settings.reader, encoder=encoder)

    switching = SwitchingReader(extractive, load)
    return switching, switching


def build(
    settings: Settings,
    waker: Waker,
    *,
    encoder: Encoder | None = None,
    reader: Reader | None = None,
    kernel: Kernel | None = None,
) -> Lethe:
    """Wire a service. Encoder, reader and kernel may be given, as tests do."""
    kernel = kernel or build_kernel(settings)
    store = ModelStore(settings.models_cache)
    encoder = encoder or load_encoder(settings, store)
    loader: SwitchingReader | None = None
    if reader is None:
        reader, loader = make_reader(settings, store, encoder)
    vault = kernel.vault
    assert isinstance(vault, SealedVault)
    indexes = Indexes(kernel, encoder, Recipes.of(encoder))
    # Sealed artifacts go with the journal, after the scan: until then they tell what to look for.
    derived = (IndexStore(indexes),)
    truth = (ArtifactStore(kernel), JournalStore(kernel), KeyStore(vault))
    purges: dict[str, Purge] = {
        "data": partial(kernel.database.purge, CONTENT_TABLES),
        "keys": partial(vault.database.purge, KEY_TABLES),
    }
    forgetting = Forgetting(
        kernel,
        indexes,
        derived=derived,
        truth=truth,
        purges=purges,
        signing_key=SigningKey.load(vault.secret("certificates")),
        version=get_version(),
    )
    recaller = Recaller(kernel, indexes, encoder, hierarchy=settings.hierarchy)
    return Lethe(
        kernel=kernel,
        access=Access(kernel, vault.secret("api-keys")),
        indexes=indexes,
        recaller=recaller,
        answerer=Answerer(kernel, recaller, reader),
        forgetting=forgetting,
        work=Work(kernel, indexes, forgetting, SourceParser(), waker.wake),
        waker=waker,
        stores=(*derived, *truth, ControlFiles()),
        load_reader=loader,
        default_tenant=DEFAULT_TENANT,
        admin_key_file=settings.data / "admin.key",
    )


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
