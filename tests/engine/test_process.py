"""The real ``lethe engine``: killed in mid-request, started again, and what the command line refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from api import cli
from api.cli_engine import engine as engine_command
from api.engine import create_engine
from embedding.encoder import TextEncoder
from embedding.remote import RemoteEncoder
from memory.errors import ForbiddenError, InvalidInputError, UnavailableError
from memory.values import Evidence, PassageId
from reader.extractive import ExtractiveReader
from reader.remote import RemoteReader
from service.models import load_engine_key
from service.settings import Settings
from tests.engine.serving import connected, engine_process, free_port, serving
from tests.tiny import build_tiny_encoder

KEY = "0123456789abcdef-key"
START_SECONDS = 120
QUICKLY_SECONDS = 5.0


@pytest.mark.timeout(300)
def test_killed_in_mid_request_it_is_unavailable_quickly_and_works_again(tmp_path: Path) -> None:
    model = build_tiny_encoder(tmp_path / "model")
    key = tmp_path / "engine.key"
    key.write_text(KEY + "\n")
    port = free_port()
    local = TextEncoder(model, name=f"hf:{model}", threads=1)
    long = ["the river tower of stone " * 30] * 20_000
    with connected(f"http://127.0.0.1:{port}", KEY) as connection:
        with engine_process(model, port, tmp_path / "engine.log", LETHE_ENGINE_KEY_FILE=str(key)) as first:
            models = connection.wait(START_SECONDS)
            remote = RemoteEncoder(connection, models.space)
            reader = RemoteReader(connection, name=models.reader)
            assert models.space == local.space
            expected = local.encode(["the tower"], role="query")
            assert (remote.encode(["the tower"], role="query") == expected).all()

            ended: list[tuple[float, Exception]] = []

            def work() -> None:
                try:
                    remote.encode(long, role="passage")
                except Exception as error:  # noqa: BLE001 - looked at below
                    ended.append((time.monotonic(), error))

            working = threading.Thread(target=work)
            working.start()
            time.sleep(0.5)
            assert working.is_alive() and not ended, "it should be in the middle of its work"
            first.kill()
            killed_at = time.monotonic()
            first.wait()
            working.join(QUICKLY_SECONDS)
            assert not working.is_alive(), "it hangs"
            ((ended_at, error),) = ended
            assert type(error) is UnavailableError
            assert ended_at - killed_at < QUICKLY_SECONDS
            with pytest.raises(UnavailableError, match="no engine answers"):
                reader.read("q", ())
        with serving(create_engine(local, ExtractiveReader(local), key=KEY), port):
            assert (remote.encode(["the tower"], role="query") == expected).all()
            text = "Bob forgot the letter at the harbour."
            reading = reader.read("Who forgot the letter?", [Evidence(PassageId("p"), text)])
            assert [claim.text for claim in reading.claims] == [text]
    log = (tmp_path / "engine.log").read_text()
    assert "/v1/embeddings" in log
    assert "river" not in log and KEY not in log, "no content and no key in a log"


def test_it_listens_to_others_only_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_ENGINE_KEY_FILE", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "engine.example"):
        with pytest.raises(ForbiddenError, match="LETHE_ENGINE_KEY_FILE"):
            engine_command(host=host, port=0)


@pytest.mark.parametrize("content", [None, b"", b"short", b"with spaces in between it", b"\xff" * 32])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "engine.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="LETHE_ENGINE_KEY_FILE"):
        load_engine_key(Settings(engine_key_file=path))


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["engine", "--help"])
    assert end.value.code == 0
    assert "Hold the models" in capsys.readouterr().out


def test_a_service_with_an_engine_loads_no_torch(url: str, tmp_path: Path) -> None:
    """The models are held once: a process beside the engine does not even import what runs them."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from embedding.models import ModelStore\n"
        "from service.settings import Settings\n"
        "from service.models import load_encoder, make_reader\n"
        "settings = Settings()\n"
        "store = ModelStore(settings.models_cache)\n"
        "encoder = load_encoder(settings, store)\n"
        "reader, loader = make_reader(settings, store, encoder)\n"
        "assert loader is None\n"
        "assert encoder.encode(['the tower'], role='query').shape == (1, 32)\n"
        "print(type(encoder).__name__, type(reader).__name__, reader.name, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "LETHE_ENGINE_URL": url, "LETHE_MODELS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["RemoteEncoder", "RemoteReader", "extractive", "False"], done.stderr
