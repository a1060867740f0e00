"""The command line, against a live service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

import api.client
from api.cli import app
from api.cli_operations import trusted_key
from api.cli_serve import is_loopback
from api.ingesting import find_files
from memory.errors import ConflictError, InvalidInputError, UnavailableError
from unlearning.certificate import Verification

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lethe_cli(port, tmp_path, monkeypatch):
    """Run a command against the service; the key is found in the data folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin.key").write_text("admin-key\n")
    monkeypatch.setenv("LETHE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LETHE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LETHE_KEY", raising=False)
    monkeypatch.setattr(api.client, "FIRST_PAUSE_SECONDS", 0.001)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the service runs in this process

    def run(*arguments: str, code: int = 0, **options):
        result = CliRunner().invoke(app, arguments, **options)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    yield run
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.md").write_text("# Tide one")
    (folder / "deep" / "b.txt").write_text("tide two")
    (folder / ".hidden" / "c.txt").write_text("hidden")
    (folder / "d.exe").write_text("skipped")
    return folder


def counts_of(result) -> dict[str, int]:
    cells = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines() if "│" in line]
    return {row[1]: int(row[2]) for row in cells if row[2].isdecimal()}


def test_ingest_takes_folders_and_skips_what_is_unchanged(lethe_cli, lethe, folder):
    first = lethe_cli("ingest", str(folder), "--name", "notes", "--subject", "sea", "--user", "bob")
    (folder / "a.md").write_text("# Tide three")
    second = lethe_cli("ingest", str(folder), "--name", "notes")

    assert counts_of(first) == {"new": 2}
    assert counts_of(second) == {"unchanged": 1, "updated": 1}
    assert len(lethe.contents) == 3
    names = [content.attributes.external_id for content in lethe.contents]
    assert sorted(names[:2]) == ["notes/a.md", "notes/deep/b.txt"]
    assert names[2] == "notes/a.md"
    for content in lethe.contents:  # what was said at first is kept when nothing is said later
        assert (content.attributes.subjects, content.attributes.user_id) == (("sea",), "bob")
    assert lethe.contents[2].media_type == "text/markdown"


def test_ingest_goes_on_after_a_bad_file_and_says_which(lethe_cli, folder):
    (folder / "bad.txt").write_text("poison")
    (folder / "empty.txt").write_text("")

    result = lethe_cli("ingest", str(folder), code=1)

    assert counts_of(result) == {"new": 2, "failed": 2}
    assert "bad.txt: poison on line 1" in result.stderr
    assert "empty.txt: the file is empty" in result.stderr


def test_ingest_reads_a_manifest(lethe_cli, lethe, folder):
    rows = [{"path": "a.md", "external_id": "tide", "subjects": ["x"], "metadata": {"n": 1}, "title": "T"}]
    (folder / "manifest.json").write_text(json.dumps(rows))

    lethe_cli("ingest", "--manifest", str(folder / "manifest.json"), "--subject", "y")

    said = lethe.contents[0].attributes
    assert (said.external_id, said.title, said.subjects, said.metadata) == ("tide", "T", ("x", "y"), {"n": 1})


def test_two_files_never_go_by_one_name(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(name)

    with pytest.raises(ConflictError, match="common folder"):
        find_files([tmp_path / "one" / "a.md", tmp_path / "two" / "a.md"])
    assert len(find_files([tmp_path / "one" / "a.md"] * 2)) == 1


def test_ask_prints_sentences_with_numbered_places(lethe_cli, folder):
    lethe_cli("ingest", str(folder / "a.md"), str(folder / "deep" / "b.txt"))

    result = lethe_cli("ask", "tide")

    assert result.stdout.splitlines() == [
        "# Tide one [1]",
        "tide two [2]",
        '[1] a.md, characters 0-10  "# Tide one"',
        '[2] b.txt, characters 0-8  "tide two"',
    ]
    assert "Nothing that is remembered" in lethe_cli("ask", "unheard-of").stdout


def test_recall_prints_passages_that_cannot_steer_the_terminal(lethe_cli, tmp_path):
    (tmp_path / "evil.txt").write_bytes(b"tide \x1b]0;owned\x07 [red]x[/red]")
    lethe_cli("ingest", str(tmp_path / "evil.txt"))

    result = lethe_cli("recall", "tide", "--limit", "1", "--filter", '{"user_id": {"$exists": false}}')

    assert "1. evil.txt, Top, characters 0-" in result.stdout
    assert "\x1b" not in result.stdout
    assert "[red]x[/red]" in result.stdout
    assert "Nothing was found" in lethe_cli("recall", "unheard-of").stdout


def test_ask_explains(lethe_cli, folder):
    lethe_cli("ingest", str(folder / "a.md"))

    lines = lethe_cli("ask", "tide", "--explain").stdout.splitlines()

    assert lines[2:] == [
        'told did not know this without the passages: "I do not know."',
        "Shown to it: a.md, characters 0-10",
        'Removed: "wrong" (no passage says it)',
        'In conflict: "# Tide one" (newer)',
        "An answer is there: 0.80, asked for: 0.40",
        "Signals: lead 0.50",
    ]


def test_forget_shows_what_it_would_do_and_asks(lethe_cli, lethe, folder, tmp_path):
    lethe_cli("ingest", str(folder), "--subject", "sea")

    preview = lethe_cli("forget", "--subject", "sea", "--preview")
    declined = lethe_cli("forget", "--subject", "sea", input="n\n", code=1)
    assert lethe.denied == set()
    done = lethe_cli("forget", "--subject", "sea", "--yes", "--certificate", str(tmp_path / "c.json"))

    assert counts_of(preview) == {"entries": 2}
    assert "Forget it for good?" in declined.output
    assert len(lethe.denied) == 2
    assert "certified" in done.stdout
    assert json.loads((tmp_path / "c.json").read_text())["signature"] == "00"
    assert "Nothing" in lethe_cli("recall", "tide").stdout


def test_every_condition_of_forget_is_sent(lethe_cli, lethe):
    lethe_cli(
        "forget", "--id", "a", "--external-id", "e", "--external-id", "f", "--user", "u", "--filter", '{"run_id": "r"}',
        "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z", "--preview",
    )  # fmt: skip

    [scope] = lethe.scopes
    assert (scope.ids, scope.external_ids, scope.user_id) == (("a",), ("e", "f"), "u")
    assert scope.filter == {"run_id": "r"}
    assert scope.time_from is not None
    assert scope.time_to is not None


def test_status_and_rebuild(lethe_cli, lethe):
    lethe_cli("rebuild")
    assert "documents" in lethe_cli("status").stdout
    lethe.ready = False
    lethe_cli("status", code=1)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["forget"], 1, "say what to forget"),
        (["recall", "a", "--filter", "{"], 1, "--filter: not JSON"),
        (["recall", "a", "--filter", "[]"], 1, "--filter: expected a JSON object"),
        (["recall", " "], 1, "/query"),
        (["status", "--key", "nobody"], 4, "nobody knows this key"),
        (["status", "--data", "/nonexistent"], 4, "/nonexistent/admin.key"),
        (["status", "--url", "http://127.0.0.1:1"], 3, "lethe serve"),
        (["ingest"], 1, "nothing to ingest"),
        (["ingest", "/nonexistent"], 2, "/nonexistent"),
        (["serve", "--port", "99999"], 2, "--port"),
        (["models", "get", "unheard-of"], 1, "unheard-of"),
        (["verify", __file__], 1, "not readable JSON"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(lethe_cli, arguments, code, told):
    result = lethe_cli(*arguments, code=code)

    assert told in result.stderr
    if code != 2:
        assert len(result.stderr.strip().splitlines()) == 1


def test_verify_refuses_what_is_not_genuine(lethe_cli, tmp_path, monkeypatch):
    file = tmp_path / "c.json"
    file.write_text('{"payload": {"epoch": 3}}')
    key = tmp_path / "k.pub"
    key.write_text("ab" * 32)

    refused = lethe_cli("verify", str(file), code=1)
    assert "NOT VALID" in refused.stdout
    assert "signature" in refused.stderr

    seen = []

    def genuine(document, *, trusted_key):
        seen.append(trusted_key)
        return Verification(True, [], "f1", trusted_key == b"\xab" * 32)

    monkeypatch.setattr("unlearning.certificate.verify_certificate", genuine)
    assert "VALID" in lethe_cli("verify", str(file), "--key", str(key)).stdout
    assert "give --key" in lethe_cli("verify", str(file)).stdout
    lethe_cli("verify", str(file), "--key", "cd" * 32, code=1)
    assert seen == [b"\xab" * 32, None, b"\xcd" * 32]


def test_a_trusted_key_is_hex_or_a_file(tmp_path):
    # A path as long as a key's digits is a path all the same.
    raw = tmp_path / ("r" * max(1, 63 - len(str(tmp_path))))
    raw.write_bytes(bytes(range(32)))

    assert trusted_key(str(raw)) == trusted_key(bytes(range(32)).hex()) == bytes(range(32))
    for wrong in ("abc", "zz" * 32, "ab" * 31):
        with pytest.raises(InvalidInputError, match="--key"):
            trusted_key(wrong)


def test_models_are_listed_and_checked(lethe_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_MODELS_CACHE", str(tmp_path / "models"))

    assert "all-minilm-l6-v2" in lethe_cli("models", "list").stdout
    lethe_cli("models", "verify", code=1)
    lethe_cli("models", "verify", "all-minilm-l6-v2", code=1)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("db", False),
    ],
)
def test_only_loopback_needs_no_warning(host, loopback):
    assert is_loopback(host) == loopback


def test_a_taken_port_is_told(port):
    from api.cli_serve import bind

    with pytest.raises(UnavailableError, match="--port"):
        bind("127.0.0.1", port)


def test_help_is_quick_and_client_commands_load_no_models():
    """Half a second on an idle core; on a busy one the imports are what a test can hold to."""
    code = (
        "import sys; from api.cli import app; import api.client, api.cli_memory, api.cli_ingest, api.ingesting, api.folder_sync, api.folder_watch;"
        "bad = {'torch', 'transformers', 'faiss', 'fastapi', 'sqlalchemy', 'celery', 'numpy', 'uvicorn'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    before = os.times()
    subprocess.run([sys.executable, "-m", "api.cli", "--help"], check=True, cwd=ROOT, capture_output=True)
    after = os.times()
    assert after.children_user - before.children_user < 1.0
