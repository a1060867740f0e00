"""Which reader reads: chosen by settings, on another server too; and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing

from api.engine import create_engine
from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from memory.errors import BusyError, ForbiddenError, InvalidInputError
from memory.ports import Reader
from memory.values import Evidence, PassageId
from reader.extractive import ExtractiveReader
from reader.places import Places
from reader.relay import HAND_OVER_BELOW
from reader.switch import SwitchingReader
from service import doctor, reader_server
from service.models import build_engine, make_local_reader
from service.settings import Settings
from tests.engine.serving import connected, free_port, remote_reader, serving
from tests.openai_server import OpenAIServer, refusal, serving_openai
from tests.reader.tiny import tiny_model, tiny_tokenizer
from tests.service.harness import TENANT, House
from tests.tiny import build_tiny_encoder

EVIDENCE = [Evidence(PassageId("a"), "The harbour bridge opened in 1932. It is made of steel.")]
QUESTION = "When did the harbour bridge open?"
TRUE = "The harbour bridge opened in 1932."
SECRET = "sk-quicksilver"
WAIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_server, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def server(openai: OpenAIServer) -> OpenAIServer:
    openai.say(TRUE)
    return openai


@pytest.fixture
def make(tmp_path: Path, encoder: TextEncoder) -> Callable[..., tuple[Reader, SwitchingReader | None]]:
    def make_reader(**given: object) -> tuple[Reader, SwitchingReader | None]:
        settings = Settings(models_cache=tmp_path / "models", **given)  # type: ignore[arg-type]
        return make_local_reader(settings, ModelStore(settings.models_cache), encoder)

    return make_reader


def started(made: tuple[Reader, SwitchingReader | None]) -> Reader:
    """Return the reader, when what it loads is there."""
    reader, loader = made
    assert loader is not None
    loader.start()
    assert loader.wait(WAIT_SECONDS), loader.failure
    return reader


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that writes at random, as a setting names it."""
    folder = tmp_path_factory.mktemp("language-model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return f"hf:{folder}"


def test_a_server_reads(server: OpenAIServer, make) -> None:
    server.key = SECRET
    reader = started(make(reader="openai", reader_url=f"{server.url}/v1", reader_key=f"{SECRET}\n"))
    reading = reader.read(QUESTION, EVIDENCE)
    assert (reading.reader, reader.name) == ("openai:large", "openai:large")
    assert [claim.text for claim in reading.claims] == [TRUE]


def test_it_is_waited_for_and_the_extractive_reader_steps_in(make) -> None:
    """Before it is up, and when it is away later; nobody is kept waiting."""
    port = free_port()
    reader, loader = make(reader="openai", reader_url=f"http://127.0.0.1:{port}")
    loader.start()
    assert not loader.wait(0.3)
    assert (loader.failure, reader.read(QUESTION, EVIDENCE).reader) == (None, "extractive")
    server = OpenAIServer()
    server.say(TRUE)
    with serving_openai(server, port):
        assert loader.wait(WAIT_SECONDS)
        assert reader.read(QUESTION, EVIDENCE).reader == "openai:large"
        server.refusal = refusal(401, "invalid_api_key")
        assert reader.read(QUESTION, EVIDENCE).reader == "extractive"
    assert reader.read(QUESTION, EVIDENCE).reader == "extractive"
    with serving_openai(server, port):
        server.refusal = None
        assert reader.read(QUESTION, EVIDENCE).reader == "openai:large"


def test_two_local_readers_have_one_queue(
    make: Callable[..., tuple[Reader, SwitchingReader | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many threads wait in it, however many readers there are."""
    told: dict[str, Places] = {}

    def load(name: str, *, places: Places, **_: object) -> Reader:
        told[name] = places
        return ExtractiveReader()

    monkeypatch.setattr("service.models.load_reader", load)
    started(make(reader="small", reader_large="large", reader_places=1, reader_waiting=0))
    deadline = time.monotonic() + WAIT_SECONDS
    while len(told) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with told["small"].take(), pytest.raises(BusyError), told["large"].take():
        pass


def test_mistakes_are_told_and_answers_are_extractive_meanwhile(server: OpenAIServer, make) -> None:
    server.key = SECRET
    for given, family, words in (
        ({"reader_key": "another"}, ForbiddenError, "LETHE_READER_KEY"),
        ({"reader_key": SECRET, "reader_model": "huge"}, InvalidInputError, "LETHE_READER_MODEL: .*large"),
        ({"reader_url": f"{server.url}/other"}, InvalidInputError, "LETHE_READER_URL"),
    ):
        reader, loader = make(**{"reader": "openai", "reader_url": server.url, **given})
        loader.start()
        assert not loader.wait(WAIT_SECONDS)
        with pytest.raises(family, match=words):
            raise loader.failure
        assert reader.read(QUESTION, EVIDENCE).reader == "extractive"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reader": "openai"}, "LETHE_READER_URL: say where the server is"),
        ({"reader_large": "openai"}, "LETHE_READER_URL: say where the server is"),
        ({"reader": "openai", "reader_url": "large:8000"}, "LETHE_READER_URL: .* is not like http://127"),
        (
            {"reader": "openai", "reader_url": f"http://me:{SECRET}@large"},
            "LETHE_READER_URL: it should hold no password",
        ),
        (
            {"reader": "openai", "reader_url": "http://large", "reader_key": f"{SECRET} {SECRET}"},
            "LETHE_READER_KEY: it should hold the key alone",
        ),
        ({"reader": "extractive", "reader_draft": "tiny"}, "LETHE_READER_DRAFT: only a language model"),
        ({"reader_large": "extractive"}, "LETHE_READER_LARGE: extractive cannot take over"),
        (
            {"reader": "openai", "reader_large": "openai", "reader_url": "http://large"},
            "LETHE_READER_LARGE: openai cannot take over from openai",
        ),
    ],
)
def test_settings_that_cannot_be_are_told_at_once(make, given: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as raised:
        make(**given)
    assert SECRET not in str(raised.value)


def test_the_environment_names_them_and_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("", "openai"), ("_URL", "http://large:8000"), ("_MODEL", "m"), ("_KEY", SECRET)):
        monkeypatch.setenv(f"LETHE_READER{name}", value)
    settings = Settings()
    assert (settings.reader, settings.reader_url, settings.reader_model) == (
        "openai",
        "http://large:8000",
        "m",
    )
    assert settings.reader_key is not None and settings.reader_key.get_secret_value() == SECRET
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_relay_hands_over_what_the_first_is_not_sure_of(server: OpenAIServer, make) -> None:
    reader = started(make(reader="extractive", reader_large="openai", reader_url=server.url))
    assert reader.name == "extractive, then openai:large"
    unsure = "Who designed the harbour bridge of steel in the north?"
    assert reader.read(QUESTION, EVIDENCE).reader == "extractive"
    assert 0.4 < make(reader="extractive")[0].read(unsure, EVIDENCE).confidence < HAND_OVER_BELOW
    assert reader.read(unsure, EVIDENCE).reader == "openai:large"


def test_without_the_large_one_the_small_one_reads(make, local_model: str) -> None:
    """It is loaded meanwhile, and not held up."""
    port = free_port()
    reader, loader = make(reader=local_model, reader_large="openai", reader_url=f"http://127.0.0.1:{port}")
    loader.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while reader.name != local_model:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not loader.wait(0)
    assert reader.read(QUESTION, EVIDENCE).reader == local_model
    with serving_openai(OpenAIServer(), port):
        assert loader.wait(WAIT_SECONDS)
    assert reader.name == f"{local_model}, then openai:large"


def test_a_draft_of_the_same_tokenizer_guesses_for_the_reader(make, local_model: str, tmp_path: Path) -> None:
    """One of another is told, and answers are extractive."""
    given = {"reader": local_model, "reader_places": 2, "reader_waiting": 1, "reader_pass_tokens": 64}
    reader = started(make(**given, reader_draft=local_model))
    assert reader.read(QUESTION, EVIDENCE).reader == local_model

    other = tmp_path / "other"
    tiny_model().save_pretrained(other)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["harbour"])
    tokenizer.save_pretrained(other)
    reader, loader = make(**given, reader_draft=f"hf:{other}")
    loader.start()
    assert not loader.wait(WAIT_SECONDS)
    assert "another tokenizer" in str(loader.failure)
    assert reader.read(QUESTION, EVIDENCE).reader == "extractive"


def test_an_engine_reads_through_a_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer
) -> None:
    """The engine's callers see whose reading it is; they know no key."""
    settings = Settings(
        models_cache=tmp_path / "models",
        embedder=f"hf:{build_tiny_encoder(tmp_path_factory.mktemp('embedder'))}",
        reader="openai",
        reader_url=server.url,
    )
    encoder, reader, loader = build_engine(settings)
    assert loader is not None
    with serving(create_engine(encoder, reader, loader)) as url, connected(url) as connection:
        assert loader.wait(WAIT_SECONDS)
        assert connection.wait(0).reader == "openai:large"
        remote = remote_reader(connection)
        reading = remote.read(QUESTION, EVIDENCE)
        assert reading.reader == remote.name == "openai:large"
        assert [claim.text for claim in reading.claims] == [TRUE]
        (found,) = [
            one
            for one in doctor.examine(settings.model_copy(update={"data": tmp_path, "engine_url": url}))
            if one.check == "reader"
        ]
        assert found.finding.detail.startswith("the engine's: openai:large; another server, sent text")


def test_answers_and_stats_name_the_server(
    tmp_path: Path, encoder: TextEncoder, server: OpenAIServer, make
) -> None:
    reader = started(make(reader="openai", reader_url=server.url))
    house = House(tmp_path / "data", encoder, reader)
    try:
        house.remember(EVIDENCE[0].text)
        answered = house.lethe.answer(TENANT, QUESTION)
        assert (answered.answer, answered.reader) == (TRUE, "openai:large")
        *_, whole = house.lethe.iter_answer(TENANT, QUESTION)
        assert (whole.answer, whole.reader) == (TRUE, "openai:large")
        assert house.lethe.stats(TENANT)["reader"] == "openai:large"
    finally:
        house.close()


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({"reader": "extractive"}, "ok", "extractive"),
        ({}, "ok", "openai:large; another server, sent text: key/value memories are off with it"),
        ({"reader": "extractive", "reader_large": "openai"}, "ok", "extractive, then openai:large; another"),
        ({"reader_key": "another"}, "broken", "does not take the key"),
        ({"reader_model": "huge"}, "broken", "it has: large"),
        ({"reader_url": None}, "broken", "say where the server is"),
        (
            {"reader_url": "http://127.0.0.1:1"},
            "warning",
            "mend LETHE_READER_URL; till then extractive reads",
        ),
        ({"engine_url": "http://127.0.0.1:1"}, "broken", "no engine answers"),
    ],
)
def test_the_doctor_says_who_reads(
    tmp_path: Path, server: OpenAIServer, given: dict[str, str | None], state: str, words: str
) -> None:
    server.key = SECRET
    told: dict[str, str | None] = {
        "reader": "openai",
        "reader_url": server.url,
        "reader_key": SECRET,
        **given,
    }
    visit = doctor.Visit(Settings(data=tmp_path, **told))  # type: ignore[arg-type]
    found = doctor._look(doctor.look_at_reader, visit)
    assert found.state == state
    assert words in f"{found.detail}; {found.advice}"


def test_neither_key_nor_content_is_logged(
    server: OpenAIServer, make, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the server says when it fails."""
    server.key = SECRET
    with structlog.testing.capture_logs() as logged:
        reader = started(make(reader="openai", reader_url=server.url, reader_key=SECRET))
        server.refusal = refusal(500, "internal", f"{SECRET} cannot read: {EVIDENCE[0].text}")
        assert reader.read(QUESTION, EVIDENCE).reader == "extractive"
    lines = f"{logged} {caplog.text}"
    assert "cannot serve now: it replied 500" in lines
    assert SECRET not in lines and "harbour" not in lines
