"""Wiring: settings in, a ``Lethe`` out. The only place that reads settings and chooses classes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import structlog

import migrations
from embedding.models import ModelStore
from embedding.remote import RemoteEncoder
from memory.clock import Clock, NewId, SystemClock, random_id
from memory.database import Database, connect
from memory.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from memory.fence import Fence, InProcessFence
from memory.jobs import Jobs
from memory.kernel import Kernel
from memory.ledger import Recipe
from memory.ports import Encoder, Parser, Reader, Store
from memory.postgres import AdvisoryFence, PostgresDatabase
from memory.values import TenantId
from memory.vault import KEY_BYTES, SealedVault
from memory.vault import TABLES as KEY_TABLES
from reader.alignment import Alignment
from reader.checked import CheckedReader
from reader.entailment import Entailment
from reader.extractive import ExtractiveReader
from reader.openai import OpenAIWriter
from reader.prompt import MARK_DIGITS
from reader.relay import RelayReader
from reader.remote import RemoteReader
from reader.switch import SwitchingReader
from retrieval.engine_residue import Retention
from service.access import Access, write_private
from service.answer import Answerer
from service.collection_store import CollectionStore
from service.engine import EngineConnection
from service.forgetting import Forgetting
from service.index import Indexes
from service.index_store import IndexStore
from service.ingest import Recipes
from service.lethe import Lethe, Waker
from service.milvus import Collections
from service.reader_server import READER_SERVER, ReaderServer
from service.recall import Recaller
from service.settings import Settings
from service.shelf_store import ShelfStore
from service.shelves import Shelves
from service.stores import CONTENT_TABLES, ArtifactStore, ControlFiles, JournalStore, KeyStore
from service.tracing import set_up
from service.work import Work
from sources.guard import GuardedParser
from unlearning.certificate import SigningKey
from unlearning.forget import Purge, Settle

EXTRACTIVE = "extractive"
_DIGEST = re.compile("[0-9a-f]{64}")
Made = Callable[[Recipe], None]
OPENAI = "openai"
LEAST_KEY_CHARACTERS = 16
DEFAULT_TENANT = TenantId("default")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What readers share that keep memories of passages.

    ``mark`` fences these, in prompts and memories alike; ``made`` is told by what each reader makes its own.
    """

    mark: str
    made: Made


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
        if not migrations.is_known(plane, database.engine):
            shown = database.url.render_as_string()
            database.close()
            raise ConflictError(
                f"a newer release of Lethe has changed {shown}; install that one, or restore a backup"
            )
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


def load_engine_key(settings: Settings) -> str | None:
    """Return the key between engine and service, ``None`` where no file is named for it."""
    path = settings.engine_key_file
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the key cannot be read: {error}", where="LETHE_ENGINE_KEY_FILE") from error
    if len(key) < LEAST_KEY_CHARACTERS or not key.isprintable() or " " in key:
        raise InvalidInputError(
            f"{path} should hold one line of at least {LEAST_KEY_CHARACTERS} characters without spaces; "
            f"to make one: openssl rand -hex 32 > {path}",
            where="LETHE_ENGINE_KEY_FILE",
        )
    return key


def load_encoder(settings: Settings, store: ModelStore) -> Encoder:
    """Return the engine's encoder where there is an engine, else one of this process."""
    if settings.engine_url is not None:
        engine = EngineConnection(settings.engine_url, load_engine_key(settings))
        return RemoteEncoder(engine, engine.wait().space)
    return load_local_encoder(settings, store)


def load_local_encoder(settings: Settings, store: ModelStore) -> Encoder:
    """Return the text encoder, fetching its weights where they are missing."""
    # Deferred: a process whose engine is elsewhere needs no torch.
    from embedding.encoder import TextEncoder

    return TextEncoder(store.get(settings.embedder), name=settings.embedder, threads=settings.torch_threads)


def find_weights(folder: Path) -> tuple[Path, str]:
    """Return what a language model is loaded from, a GGUF file or a folder, and what names its weights.

    Files of the model store are links to blobs named by their digest. Of other files, which may be replaced
    under the same name, sizes and times of change count.
    """
    files = sorted(folder.glob("*.gguf"))
    blob = files[0].resolve() if files else folder
    if _DIGEST.fullmatch(blob.name):
        return files[0], blob.name
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return files[0] if files else folder, hashlib.sha256(repr(told).encode()).hexdigest()


def make_reader(
    settings: Settings, store: ModelStore, encoder: Encoder, keeping: Keeping | None = None
) -> tuple[Reader, SwitchingReader | None]:
    """Return the engine's reader where there is an engine, else one of this process with its loader."""
    if settings.engine_url is not None:
        engine = EngineConnection(settings.engine_url, load_engine_key(settings))
        return RemoteReader(engine, name=engine.wait().reader), None
    return make_local_reader(settings, store, encoder, keeping)


def make_local_reader(
    settings: Settings, store: ModelStore, encoder: Encoder, keeping: Keeping | None = None
) -> tuple[Reader, SwitchingReader | None]:
    """Return the reader, and the loader to be started when a language model is to take over.

    With ``keeping`` the language models of this process keep memories of passages.
    """
    check_readers(settings)
    extractive = ExtractiveReader(encoder)
    small: Reader = extractive
    loader: SwitchingReader | None = None
    if settings.reader != EXTRACTIVE:
        small = loader = SwitchingReader(
            extractive, partial(load_reader, settings.reader, settings, store, encoder, keeping)
        )
    large = settings.reader_large
    if large is None:
        return small, loader

    def load_relay() -> Reader:
        if loader is not None:
            loader.start()
        return RelayReader(small, load_reader(large, settings, store, encoder, keeping))

    relay = SwitchingReader(small, load_relay)
    return relay, relay


def check_readers(settings: Settings) -> None:
    """Raise ``InvalidInputError`` for readers that cannot be, each with the setting to mend."""
    if settings.reader_large in {EXTRACTIVE, settings.reader}:
        raise InvalidInputError(
            f"{settings.reader_large} cannot take over from {settings.reader}; name a larger model, or "
            f"{OPENAI}, or nothing",
            where="LETHE_READER_LARGE",
        )
    readers = {settings.reader, settings.reader_large}
    if settings.reader_draft is not None and settings.reader in {EXTRACTIVE, OPENAI}:
        raise InvalidInputError("only a language model of this process has one", where="LETHE_READER_DRAFT")
    if OPENAI in readers:
        open_reader_server(settings).close()
    if settings.entailment == "judge" and (OPENAI in readers or readers <= {EXTRACTIVE, None}):
        raise InvalidInputError("a judge is a reader's own model, in this process", where="LETHE_ENTAILMENT")
    if settings.entailment in ("spans", "pairs") and settings.entailment_folder is None:
        raise InvalidInputError("say where the classifier is", where="LETHE_ENTAILMENT_FOLDER")


def open_reader_server(settings: Settings) -> ReaderServer:
    """Return the way to the server that reads; nothing is sent yet."""
    if settings.reader_url is None:
        raise InvalidInputError(
            f"say where the server is that {OPENAI} stands for, like {READER_SERVER.example}",
            where=READER_SERVER.setting,
        )
    key = settings.reader_key.get_secret_value().strip() if settings.reader_key is not None else ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInputError(
            "it should hold the key alone, ASCII without spaces", where="LETHE_READER_KEY"
        )
    return ReaderServer(settings.reader_url, key or None)


def open_remote_writer(settings: Settings, server: ReaderServer) -> OpenAIWriter:
    """Return what writes on the server, once it has written a word; raises what stands against it."""
    model = server.find_model(settings.reader_model)
    writer = OpenAIWriter(server, model=model.id, context_tokens=model.context_tokens)
    writer.probe()
    return writer


def load_reader(
    name: str, settings: Settings, store: ModelStore, encoder: Encoder, keeping: Keeping | None = None
) -> Reader:
    """Return the reader of a name, ready to read: loaded, or reached, however long that takes."""
    if name == OPENAI:
        server = open_reader_server(settings)
        return CheckedReader(
            server.wait(partial(open_remote_writer, settings, server)),
            encoder=encoder,
            entailment=load_entailment(settings, encoder),
        )
    # Deferred: language models take seconds to import, and the extractive reader answers now.
    from reader.draft import DraftModel
    from reader.language_model import LanguageModelWriter, load_language_model

    def load(name: str) -> tuple[Any, Any, str]:
        path, digest = find_weights(store.get(name))
        converted = settings.models_cache / "converted"
        return *load_language_model(path, digest=digest, converted=converted), digest

    model, tokenizer, digest = load(name)
    # The draft is the reader's: who takes over from it is another model.
    draft = settings.reader_draft if name == settings.reader else None
    writer = LanguageModelWriter(
        model,
        tokenizer,
        name=name,
        digest=digest,
        mark=None if keeping is None else keeping.mark,
        most_readings=settings.reader_places,
        most_waiting=settings.reader_waiting,
        pass_tokens=settings.reader_pass_tokens,
        draft=None if draft is None else DraftModel(*load(draft)[:2]),
    )
    if keeping is not None:
        keeping.made(writer.recipe)
    if settings.entailment == "judge":
        from reader.judge import Judge

        entailment: Entailment | None = Judge(model, tokenizer, weigh=writer.weigh, **_least(settings))
    else:
        entailment = load_entailment(settings, encoder)
    return CheckedReader(writer, encoder=encoder, entailment=entailment)


def load_entailment(settings: Settings, encoder: Encoder) -> Entailment | None:
    """Return what may reject claims besides the rules, or ``None``; a judge comes with its reader."""
    folder = settings.entailment_folder
    if settings.entailment == "alignment":
        return Alignment(encoder, **_least(settings))
    # Deferred, as language models are.
    if settings.entailment == "spans" and folder is not None:
        from reader.span_classifier import load_span_classifier

        return load_span_classifier(folder, **_least(settings))
    if settings.entailment == "pairs" and folder is not None:
        from reader.pair_classifier import load_pair_classifier

        return load_pair_classifier(folder, **_least(settings))
    return None


class _Least(TypedDict, total=False):
    least: float


def _least(settings: Settings) -> _Least:
    return {} if settings.entailment_least is None else {"least": settings.entailment_least}


def list_local_readers(settings: Settings) -> list[str]:
    """Return the language models that read in this process."""
    if settings.engine_url is not None:
        return []
    named = (settings.reader, settings.reader_large)
    return [name for name in named if name is not None and name not in {EXTRACTIVE, OPENAI}]


def retaining(shelves: Shelves, count: int) -> Made:
    """Return what is told the recipes of ``count`` readers: after the last, what none of them makes goes."""
    known: list[Recipe] = []

    def tell(recipe: Recipe) -> None:
        known.append(recipe)
        if len(known) == count:
            shelves.retain(known)

    return tell


def _make_parser(settings: Settings) -> Parser:
    return GuardedParser(
        seconds=settings.parse_seconds,
        memory_bytes=settings.parse_memory_bytes,
        processes=settings.parse_processes,
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
        ram_bytes=settings.kv_ram_bytes,
        disk_bytes=settings.kv_disk_bytes,
        off=explain_no_memories(settings),
    )


def explain_no_memories(settings: Settings) -> str | None:
    """Say why nothing that a reader computes of passages can be kept; ``None`` where it can."""
    if settings.engine_url is not None:
        return "the reader is in an engine, which keeps none"
    if OPENAI in {settings.reader, settings.reader_large} and not list_local_readers(settings):
        return "the reader is another server: keys and values are its own"
    return None


def build_engine(settings: Settings) -> tuple[Encoder, Reader, SwitchingReader | None]:
    """Return what an engine holds: encoder, reader, and the loader to be started."""
    store = ModelStore(settings.models_cache)
    encoder = load_local_encoder(settings, store)
    return (encoder, *make_local_reader(settings, store, encoder))


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
    parser: Parser | None = None,
    kernel: Kernel | None = None,
) -> Lethe:
    """Wire a service. Encoder, reader, parser and kernel may be given, as tests do."""
    kernel = kernel or build_kernel(settings)
    store = ModelStore(settings.models_cache)
    encoder = encoder or load_encoder(settings, store)
    vault = kernel.vault
    assert isinstance(vault, SealedVault)
    collections = find_collections(settings)
    indexes = Indexes(
        kernel, encoder, Recipes.of(encoder), device=find_device(settings), collections=collections
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
    forgetting = Forgetting(
        kernel,
        indexes,
        derived=derived,
        truth=truth,
        purges=purges,
        engines=engines,
        signing_key=SigningKey.load(vault.secret("certificates")),
        version=get_version(),
    )
    recaller = Recaller(kernel, indexes, encoder, hierarchy=settings.hierarchy)
    return Lethe(
        kernel=kernel,
        access=Access(kernel, vault.secret("api-keys"), DEFAULT_TENANT),
        indexes=indexes,
        shelves=shelves,
        recaller=recaller,
        answerer=Answerer(kernel, recaller, reader, shelves),
        forgetting=forgetting,
        work=Work(kernel, indexes, forgetting, parser or _make_parser(settings), waker.wake),
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
