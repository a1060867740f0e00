"""Which models there are: settings in, encoder and reader out, of this process or of an engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from embedding.models import HUB_PREFIX, ModelStore
from embedding.remote import RemoteEncoder
from embedding.screen_text import PACKAGE, RapidScreenText, is_installed
from embedding.speech import WhisperSpeech
from memory.errors import InvalidInputError
from memory.ledger import Recipe
from memory.ports import Encoder, Reader, ScreenText, Speech
from reader.alignment import Alignment
from reader.checked import READ_PASSAGES, CheckedReader
from reader.entailment import Entailment
from reader.extractive import ExtractiveReader
from reader.openai import OpenAIWriter
from reader.places import Places
from reader.relay import RelayReader
from reader.remote import RemoteReader
from reader.switch import SwitchingReader
from service.engine import EngineConnection
from service.reader_server import READER_SERVER, ReaderServer
from service.settings import Settings
from service.shelves import Shelves

EXTRACTIVE = "extractive"
OPENAI = "openai"
NO_SPEECH = "none"
NO_SCREEN_TEXT = "none"
SPEECH_WEIGHTS = "model.bin"
LEAST_KEY_CHARACTERS = 16
LEAST_PROMPT_TOKENS = 3_072
PASSAGE_TOKENS = 400
"""A prompt may have so many for each passage that it shows, fences and its share of all else included."""
DEVICE_BYTES = 1 << 30
"""A CUDA device keeps so much unless another room is given: as much as memory and disk do."""
Made = Callable[[Recipe], None]


@dataclass(frozen=True, slots=True)
class Keeping:
    """What readers share that keep memories of passages.

    ``mark`` fences these, in prompts and memories alike; ``made`` is told by what each reader makes its own.
    """

    mark: str
    made: Made


_DIGEST = re.compile("[0-9a-f]{64}")


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


def make_speech(settings: Settings, store: ModelStore) -> Speech | None:
    """Return what hears recordings, ``None`` where nothing is to; its weights are fetched when it first does.

    Raises ``InvalidInputError`` for a model that hears nothing.
    """
    name = settings.speech
    if name == NO_SPEECH:
        return None
    if name.startswith(HUB_PREFIX):
        folder = Path(name.removeprefix(HUB_PREFIX)).expanduser()
        if not (folder / SPEECH_WEIGHTS).is_file():
            raise InvalidInputError(
                f"{folder} should be a folder with a Whisper model of CTranslate2's format, {SPEECH_WEIGHTS} "
                "among its files",
                where="LETHE_SPEECH",
            )
        digest = find_weights(folder)[1]
    else:
        model = store.get_model(name)
        if model.kind != "speech":
            raise InvalidInputError(f"{name} hears nothing: its kind is {model.kind}", where="LETHE_SPEECH")
        digest = next(file.sha256 for file in model.files if file.name == SPEECH_WEIGHTS)
    return WhisperSpeech(partial(store.get, name), name=name, digest=digest, threads=settings.torch_threads)


def make_screen_text(settings: Settings) -> ScreenText | None:
    """Return what reads text in pictures, ``None`` where nothing is to; it is loaded when it first does.

    Raises ``InvalidInputError`` where its package is not installed.
    """
    if settings.screen_text == NO_SCREEN_TEXT:
        return None
    if not is_installed():
        raise InvalidInputError(
            f"{PACKAGE} is not installed, which has no wheel for Python 3.13 and later: run Lethe on Python "
            f"3.12, or set it to {NO_SCREEN_TEXT}",
            where="LETHE_SCREEN_TEXT",
        )
    return RapidScreenText()


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
    # One queue for both readers: as many threads wait in it, however many read.
    places = Places(settings.reader_places, waiting=settings.reader_waiting)
    load = partial(
        load_reader, settings=settings, store=store, encoder=encoder, keeping=keeping, places=places
    )
    small: Reader = extractive
    loader: SwitchingReader | None = None
    if settings.reader != EXTRACTIVE:
        small = loader = SwitchingReader(extractive, partial(load, settings.reader))
    large = settings.reader_large
    if large is None:
        return small, loader

    def load_relay() -> Reader:
        if loader is not None:
            loader.start()
        return RelayReader(small, load(large))

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
    remembered_otherwise = (
        settings.reader_whole,
        settings.reader_kept,
        settings.reader_blended,
        settings.reader_temperature,
        settings.reader_scale,
    ) != (0, 1.0, 0.0, 1.0, 1.0)
    if remembered_otherwise and not list_local_readers(settings):
        raise InvalidInputError(
            "only a language model of this machine remembers passages: leave these settings out",
            where="LETHE_READER_WHOLE, LETHE_READER_KEPT, LETHE_READER_BLENDED, LETHE_READER_TEMPERATURE and "
            "LETHE_READER_SCALE",
        )
    if settings.reader_blended and settings.reader_kept < 1.0:
        raise InvalidInputError(
            "of what is kept in part nothing more can be read again: leave one of the two out",
            where="LETHE_READER_BLENDED or LETHE_READER_KEPT",
        )
    sharpened = (settings.reader_temperature, settings.reader_scale) != (1.0, 1.0)
    if sharpened and settings.reader_passages > READ_PASSAGES:
        raise InvalidInputError(
            f"above {READ_PASSAGES} passages attention is routed, which looks at memories as they are: leave "
            "LETHE_READER_TEMPERATURE and LETHE_READER_SCALE at 1",
            where="LETHE_READER_PASSAGES",
        )
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
    name: str,
    settings: Settings,
    store: ModelStore,
    encoder: Encoder,
    keeping: Keeping | None = None,
    places: Places | None = None,
) -> Reader:
    """Return the reader of a name, ready to read: loaded, or reached, however long that takes.

    A language model of this process writes in ``places``.
    """
    if name == OPENAI:
        server = open_reader_server(settings)
        return CheckedReader(
            server.wait(partial(open_remote_writer, settings, server)),
            encoder=encoder,
            entailment=load_entailment(settings, encoder),
            passages=settings.reader_passages,
        )
    # Deferred: language models take seconds to import, and the extractive reader answers now.
    from reader.draft import DraftModel
    from reader.language_model import LanguageModelWriter
    from reader.loading import load_language_model

    def load(name: str) -> tuple[Any, Any, str]:
        path, digest = find_weights(store.get(name))
        converted = settings.models_cache / "converted"
        return *load_language_model(path, digest=digest, converted=converted), digest

    model, tokenizer, digest = load(name)
    # The draft is the reader's: who takes over from it is another model.
    draft = settings.reader_draft if name == settings.reader else None
    shown = settings.reader_passages
    writer = LanguageModelWriter(
        model,
        tokenizer,
        name=name,
        digest=digest,
        mark=None if keeping is None else keeping.mark,
        most_prompt_tokens=max(LEAST_PROMPT_TOKENS, shown * PASSAGE_TOKENS),
        routed=shown > READ_PASSAGES,
        anchors_folder=settings.models_cache / "anchors",
        places=places,
        pass_tokens=settings.reader_pass_tokens,
        draft=None if draft is None else DraftModel(*load(draft)[:2]),
        whole=settings.reader_whole,
        kept=settings.reader_kept,
        blended=settings.reader_blended,
        temperature=settings.reader_temperature,
        scale=settings.reader_scale,
    )
    if keeping is not None:
        keeping.made(writer.recipe)
    if settings.entailment == "judge":
        from reader.judge import Judge

        entailment: Entailment | None = Judge(model, tokenizer, weigh=writer.weigh, **_least(settings))
    else:
        entailment = load_entailment(settings, encoder)
    return CheckedReader(writer, encoder=encoder, entailment=entailment, passages=shown)


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


def explain_no_memories(settings: Settings) -> str | None:
    """Say why nothing that a reader computes of passages can be kept; ``None`` where it can."""
    if settings.engine_url is not None:
        return "the reader is in an engine, which keeps none"
    if OPENAI in {settings.reader, settings.reader_large} and not list_local_readers(settings):
        return "the reader is another server: keys and values are its own"
    return None


def count_device_bytes(settings: Settings) -> int:
    """Return how many bytes of its device's memory a reader of this process may keep memories in.

    By default none on a CPU: there they lie in the device's memory anyway.
    """
    if settings.kv_device_bytes is not None:
        return settings.kv_device_bytes
    if not list_local_readers(settings):
        return 0
    # Deferred: torch takes seconds to import.
    from retrieval.torch_vectors import has_cuda

    return DEVICE_BYTES if has_cuda() else 0


def build_engine(settings: Settings) -> tuple[Encoder, Reader, SwitchingReader | None]:
    """Return what an engine holds: encoder, reader, and the loader to be started."""
    store = ModelStore(settings.models_cache)
    encoder = load_local_encoder(settings, store)
    return (encoder, *make_local_reader(settings, store, encoder))
