"""``lethe ingest`` of folders and mailboxes as people run it: plans, deletions, kills, and the watch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from doors import serving
from fake_lethe import FakeLethe
from test_api_folder_scan import write_mbox
from typer.testing import CliRunner

import api.folder_sync
import api.folder_watch
from api.cli import app
from api.client import LetheClient
from api.folder_plan import METADATA_KEY
from api.folder_scan import Scan, Scanner
from api.folder_sync import FolderSync, Patience
from api.folder_watch import Settling, Watcher
from memory.errors import UnavailableError
from memory.values import TenantId

ROOT = Path(__file__).parents[2]
TENANT = TenantId("t1")


def heed_control_c() -> None:
    """As a process does that was started at a terminal; tests that run in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the service runs in this process
    yield
    structlog.reset_defaults()


@pytest.fixture
def ingest(port: int, quiet: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(api.client, "FIRST_PAUSE_SECONDS", 0.001)

    def run(*arguments: str, code: int = 0, answer: str | None = None) -> str:
        given = ["ingest", *arguments, "--url", f"http://127.0.0.1:{port}", "--key", "admin-key"]
        result = CliRunner().invoke(app, given, input=answer)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return run


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(f"tide {name}")
    return folder


def held(lethe: FakeLethe) -> dict[str, str]:
    newest = {one.source_id: one for one in lethe._all(TENANT)}
    return {one.content.attributes.metadata[METADATA_KEY]["path"]: one.text for one in newest.values()}


def test_a_dry_run_tells_what_it_would_do_and_does_nothing(ingest, lethe, notes):
    ingest(str(notes))
    (notes / "a.txt").write_text("tide changed")
    (notes / "b.txt").rename(notes / "moved.txt")
    (notes / "c.txt").unlink()
    (notes / "new.txt").write_text("tide new")
    before = len(lethe.contents)

    told = ingest(str(notes), "--dry-run", "--delete").split("\n")

    assert [line for line in told if line] == [
        "renamed: b.txt -> moved.txt",
        "updated: a.txt",
        "new: new.txt",
        "forget: c.txt",
        "0 unchanged; nothing was sent",
    ]
    assert (len(lethe.contents), lethe.denied) == (before, set())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--watch"], "--watch takes one folder"),
        (["--dry-run"], "--dry-run is for folders"),
        (["--name", "n"], "--name takes one folder"),
    ],
)
def test_options_for_folders_send_no_single_file(ingest, lethe, notes, options, told):
    assert told in ingest(str(notes / "a.txt"), *options, code=1)
    assert lethe.contents == []


def test_what_is_gone_is_forgotten_only_when_asked_and_agreed_to(ingest, lethe, notes):
    ingest(str(notes))
    (notes / "a.txt").unlink()

    assert "--delete forgets them" in ingest(str(notes))
    assert "for good what is gone (1)?" in ingest(str(notes), "--delete", answer="n\n", code=1)
    assert lethe.denied == set()
    assert "forgotten" in ingest(str(notes), "--delete", "--yes")

    assert held(lethe) == {"b.txt": "tide b", "c.txt": "tide c"}


def test_an_empty_folder_never_forgets_everything(ingest, lethe, notes):
    """As when a disk is not mounted."""
    ingest(str(notes))
    shutil.rmtree(notes)
    notes.mkdir()

    assert "is it mounted?" in ingest(str(notes), "--delete", "--yes", code=1)
    assert lethe.denied == set()


def test_two_folders_of_one_name_are_kept_apart(ingest, lethe, tmp_path):
    for parent in ("one", "two"):
        (tmp_path / parent / "docs").mkdir(parents=True)
        (tmp_path / parent / "docs" / "a.txt").write_text(f"tide {parent}")
        ingest(str(tmp_path / parent / "docs"))

    (tmp_path / "one" / "docs" / "a.txt").rename(tmp_path / "one" / "docs" / "b.txt")
    ingest(str(tmp_path / "one" / "docs"), "--delete", "--yes")

    assert held(lethe) == {"a.txt": "tide two", "b.txt": "tide one"}


def test_a_mailbox_is_one_document_a_message_and_only_new_ones_are_sent(ingest, lethe, tmp_path):
    box = tmp_path / "in.mbox"
    write_mbox(box, [(f"{number}@x", f"tide {number}") for number in range(30)])
    ingest(str(box), "--name", "mail")
    write_mbox(box, [(f"{number}@x", f"tide {number}") for number in range(1, 31)])
    told = ingest(str(box), "--name", "mail")

    assert len(lethe.contents) == 31
    assert "still remembered: 1" in told
    said = {content.attributes.external_id: content for content in lethe.contents}
    assert said["mail/7@x"].media_type == "message/rfc822"
    assert said["mail/7@x"].body.endswith(b"\n\ntide 7\n")


class SlowLethe(FakeLethe):
    """Takes a while for every document, so that there is time to kill who sends them."""

    def remember(self, tenant_id, contents, *, source_id=None):
        time.sleep(0.02)
        return super().remember(tenant_id, contents, source_id=source_id)


def command(port: int, *arguments: str) -> list[str]:
    service = ["--url", f"http://127.0.0.1:{port}", "--key", "admin-key"]
    return [sys.executable, "-m", "api.cli", "ingest", *arguments, *service]


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_only_the_rest_is_sent(quiet, tmp_path, ending):
    lethe = SlowLethe()
    expected = {}
    for number in range(80):
        expected[f"{number}.txt"] = f"tide {number}"
        (tmp_path / f"{number}.txt").write_text(f"tide {number}")
    with serving(lethe) as port:
        process = subprocess.Popen(
            command(port, str(tmp_path)), cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=heed_control_c
        )
        wait_until(lambda: len(lethe.contents) >= 10)
        process.send_signal(ending)
        _, told = process.communicate(timeout=30)
        time.sleep(0.3)  # what was on its way arrives
        sent = len(lethe.contents)
        assert 10 <= sent < 80
        assert process.returncode == (130 if ending == signal.SIGINT else -ending)
        assert b"Traceback" not in told
        subprocess.run(command(port, str(tmp_path)), cwd=ROOT, check=True, capture_output=True, timeout=60)

    assert held(lethe) == expected
    assert len(lethe.contents) == 80


class Watched:
    """A folder under watch in a thread, with what was said about it."""

    def __init__(self, port: int, root: Path, *, forget_gone: bool) -> None:
        self.stop = threading.Event()
        self.client = LetheClient(f"http://127.0.0.1:{port}", "admin-key")
        sync = FolderSync(self.client, "watched", {}, Patience(None, self.stop), lambda *_: None)
        sync.load()
        self.rounds: list[tuple[list[str], list[tuple[str, str]]]] = []
        self.said: list[str] = []
        self.watcher = Watcher(Scanner(root), sync, forget_gone, self._report, self.said.append)
        self.thread = threading.Thread(target=self.watcher.run, args=(self.stop,))
        self.thread.start()

    def _report(self, plan, outcome, forgotten):
        kinds = [step.kind for step in plan.steps] + ["gone" for _ in plan.gone]
        self.rounds.append((kinds, outcome.failures))

    def end(self) -> None:
        self.stop.set()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()
        self.client.close()


@pytest.fixture
def watching(
    port: int, quiet: None, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Watched]]:
    for module, name, value in (
        (api.folder_watch, "SETTLE_SECONDS", 0.2),
        (api.folder_watch, "NOTICE_MS", 50),
        (api.folder_watch, "DEBOUNCE_MS", 50),
        (api.folder_sync, "FIRST_PAUSE_SECONDS", 0.02),
        (api.folder_sync, "LONGEST_PAUSE_SECONDS", 0.05),
        (api.client, "FIRST_PAUSE_SECONDS", 0.001),
    ):
        monkeypatch.setattr(module, name, value)
    opened: list[Watched] = []

    def start(*, forget_gone: bool) -> Watched:
        opened.append(Watched(port, notes, forget_gone=forget_gone))
        return opened[-1]

    yield start
    for watched in opened:
        watched.end()


def test_a_watched_folder_stays_in_step(watching, lethe, notes):
    """Added, edited in place and by replacement, moved, and removed: files and directories."""
    watched = watching(forget_gone=True)
    expected = {f"{name}.txt": f"tide {name}" for name in "abc"}
    wait_until(lambda: held(lethe) == expected)
    ids = {one.content.attributes.metadata[METADATA_KEY]["path"]: one.source_id for one in lethe._all(TENANT)}

    (notes / "deep" / "er").mkdir(parents=True)
    (notes / "deep" / "er" / "d.txt").write_text("tide d")
    (notes / "a.txt").write_text("tide a, edited")
    (notes / ".b.swp").write_text("tide b, replaced")
    (notes / ".b.swp").replace(notes / "b.txt")
    (notes / "c.txt").rename(notes / "moved.txt")
    expected = {
        "a.txt": "tide a, edited",
        "b.txt": "tide b, replaced",
        "moved.txt": "tide c",
        "deep/er/d.txt": "tide d",
    }
    wait_until(lambda: held(lethe) == expected)
    (notes / "deep").rename(notes / "shallow")
    wait_until(lambda: "shallow/er/d.txt" in held(lethe) and len(held(lethe)) == 4)
    assert lethe.denied == set()
    now = {one.content.attributes.metadata[METADATA_KEY]["path"]: one.source_id for one in lethe._all(TENANT)}
    assert now["moved.txt"] == ids["c.txt"]
    shutil.rmtree(notes / "shallow")
    wait_until(lambda: len(held(lethe)) == 3)

    expected_kinds = ["gone", "new", "new", "new", "new", "renamed", "renamed", "updated", "updated"]
    wait_until(lambda: sorted(kind for kinds, _ in watched.rounds for kind in kinds) == expected_kinds)


def test_without_delete_what_disappears_stays_and_is_told_once(watching, lethe, notes):
    watched = watching(forget_gone=False)
    wait_until(lambda: len(held(lethe)) == 3)
    (notes / "a.txt").unlink()
    wait_until(lambda: (["gone"], []) in watched.rounds)
    (notes / "b.txt").write_text("tide b again")
    wait_until(lambda: held(lethe)["b.txt"] == "tide b again")

    assert "a.txt" in held(lethe)
    assert sum(kinds == ["gone"] for kinds, _ in watched.rounds) == 1


def test_a_watch_outlasts_a_service_that_is_away_and_a_file_it_refuses(watching, lethe, notes):
    watched = watching(forget_gone=True)
    wait_until(lambda: len(held(lethe)) == 3)
    lethe.error = UnavailableError("away")
    (notes / "d.txt").write_text("tide d")
    (notes / "bad.txt").write_text("poison")
    time.sleep(0.8)
    assert "d.txt" not in held(lethe)
    lethe.error = None
    wait_until(lambda: "d.txt" in held(lethe) and bool(watched.rounds[-1][1]))
    sent = len(lethe.contents)
    (notes / "e.txt").write_text("tide e")
    wait_until(lambda: "e.txt" in held(lethe) and watched.rounds[-1] == (["new"], []))
    assert len(lethe.contents) == sent + 1, "what was refused is not sent again until it changes"
    (notes / "bad.txt").write_text("good now")
    wait_until(lambda: held(lethe)["bad.txt"] == "good now")


def test_a_folder_that_vanishes_is_waited_for_and_nothing_is_forgotten(watching, lethe, notes):
    watched = watching(forget_gone=True)
    wait_until(lambda: len(held(lethe)) == 3)
    away = notes.with_name("away")
    notes.rename(away)
    wait_until(lambda: any("forgetting nothing" in said for said in watched.said))
    notes.mkdir()  # a mount point with nothing mounted
    wait_until(lambda: any("empty" in said for said in watched.said))
    assert len(held(lethe)) == 3
    notes.rmdir()
    away.rename(notes)
    (notes / "d.txt").write_text("tide d")
    wait_until(lambda: "d.txt" in held(lethe))

    assert lethe.denied == set()
    assert len(held(lethe)) == 4


def test_nothing_is_acted_on_before_it_keeps_still(notes):
    """A file that grows, and one that is missing for a moment, are left alone."""
    settling, scanner = Settling(1.0), Scanner(notes)

    def settled(now: float) -> list[str]:
        return sorted(settling.settle(scanner.scan(), [], now)[0].items)

    assert settled(0.0) == []
    assert settled(0.9) == []
    (notes / "a.txt").write_text("tide a grows")
    assert settled(1.1) == ["b.txt", "c.txt"]
    assert settled(2.0) == ["b.txt", "c.txt"]
    assert settled(2.1) == ["a.txt", "b.txt", "c.txt"]

    sync = FolderSync(None, "f", {}, Patience(0, threading.Event()), lambda *_: None)  # type: ignore[arg-type]
    known = [
        api.folder_plan.Known("1", "f/gone.txt", "gone.txt", "0" * 64, None, {}),
    ]
    sync.known = {one.id: one for one in known}
    settling = Settling(1.0)
    first, all_settled = settling.settle(scanner.scan(), known, 0.0)
    assert not all_settled
    assert sync.plan(first).gone == []
    later, _ = settling.settle(scanner.scan(), known, 1.5)
    assert [one.path for one in sync.plan(later).gone] == ["gone.txt"]
    assert isinstance(later, Scan)


def test_control_c_ends_a_watch_cleanly(port, quiet, lethe, notes):
    process = subprocess.Popen(
        command(port, str(notes), "--watch", "--delete"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=heed_control_c,
    )
    told = ""
    try:
        for awaited in ("watching", "new: d.txt"):
            while awaited not in told:
                line = process.stdout.readline().decode()
                assert line, told
                told += line
            (notes / "d.txt").write_text("tide d")
        process.send_signal(signal.SIGINT)
        told += process.communicate(timeout=20)[0].decode()
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, told
    assert "forgotten, for good" in told
    assert "new: d.txt" in told
    assert told.rstrip().endswith("stopped")
    assert "Traceback" not in told
