"""What is seen of a folder: which files and messages, and what is left out or cannot be looked at."""

from __future__ import annotations

import hashlib
import mailbox
import os
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.folder_ignore import Ignore
from api.folder_scan import Scanner
from api.mailboxes import is_mbox, iter_mbox, read_body
from memory.errors import InvalidInputError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return root


def test_files_that_lethe_reads_are_seen_and_hidden_or_ignored_ones_are_not(tmp_path):
    fill(tmp_path, "a.md", "deep/b.txt", "c.exe", ".hidden.md", ".git/d.md", "build/e.md", "deep/f.log.txt")
    (tmp_path / ".letheignore").write_text("# made by tools\nbuild/\n*.log.txt\n")

    scan = Scanner(tmp_path).scan()

    assert list(scan.items) == ["a.md", "deep/b.txt"]
    assert (scan.left_out, scan.unread) == (1, {})


def test_links_out_of_the_folder_and_links_to_directories_are_not_followed(tmp_path):
    inside, outside = (
        fill(tmp_path / "in", "a.md", "deep/b.md"),
        fill(tmp_path / "out", "secret.md", "x/y.md"),
    )
    (inside / "out.md").symlink_to(outside / "secret.md")
    (inside / "out").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "broken.md").symlink_to(inside / "nowhere.md")
    (inside / "again.md").symlink_to(inside / "a.md")
    os.mkfifo(inside / "pipe.md")

    scan = Scanner(inside).scan()

    assert sorted(scan.items) == ["a.md", "again.md", "deep/b.md"]


def test_what_cannot_be_looked_at_is_said(tmp_path, monkeypatch):
    fill(tmp_path, "a.md", "shut/b.md")
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    scan = Scanner(tmp_path).scan()

    assert list(scan.items) == ["a.md"]
    assert scan.unread["shut"] == "Permission denied"
    assert any("Unicode" in reason for reason in scan.unread.values())
    assert scan.is_unread("shut/b.md")
    assert not scan.is_unread("shutter/b.md")
    with pytest.raises(InvalidInputError, match="cannot be looked at"):
        Scanner(tmp_path / "shut").scan()


NAMES = st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GLOBS = st.tuples(
    st.sampled_from(["", "!"]),
    st.sampled_from(
        ["a", "b", "*", "a*", "?", "[ab]", "a/", "*/", "/a", "/*", "a/b", "*/b", "**/b", "a/**", "a/**/b"]
    )
    | st.text(alphabet="ab.*?/", min_size=1, max_size=6).filter(
        lambda glob: "***" not in glob and "//" not in glob
    ),
).map("".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


@settings(max_examples=100, deadline=None)
@given(st.lists(GLOBS, max_size=4), st.lists(PATHS, min_size=10, max_size=10, unique=True))
def test_patterns_mean_what_they_mean_to_git(repository, globs, paths):
    (repository / ".gitignore").write_text("".join(f"{glob}\n" for glob in globs))
    # Other rules of whoever runs this have no say.
    asked = ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "--stdin"]
    told = subprocess.run(
        asked, cwd=repository, input="".join(f"{path}\n" for path in paths), text=True, capture_output=True
    )
    assert told.returncode in (0, 1), told.stderr
    ours = Ignore(globs)

    def is_left_out(path: str) -> bool:
        parts = path.split("/")
        seen = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return any(ours.leaves_out(part, directory=part != path) for part in seen)

    assert [path for path in paths if is_left_out(path)] == told.stdout.splitlines()


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("*.tmp", "deep/a.tmp", True),
        ("/a.md", "deep/a.md", False),
        ("deep/*.md", "deep/er/a.md", False),
        ("deep/**/a.md", "deep/er/er/a.md", True),
        ("[a-c].md", "b.md", True),
        ("[!a-c].md", "b.md", False),
        ("[z-a].md", "b.md", False),
        (r"\#a", "#a", True),
        ("a[", "a[", True),
    ],
)
def test_patterns(glob, path, fits):
    assert Ignore([glob]).leaves_out(path, directory=False) == fits


def write_mbox(path: Path, messages: list[tuple[str | None, str]]) -> None:
    with path.open("wb") as file:
        for message_id, body in messages:
            named = "" if message_id is None else f"Message-ID: <{message_id}>\n"
            quoted = "".join(
                f">{line}" if line.lstrip(">").startswith("From ") else line for line in body.splitlines(True)
            )
            file.write(
                f"From ada@example.org Thu Jan  1 09:00:00 2026\nSubject: s\n{named}\n{quoted}\n\n".encode()
            )


BODIES = st.lists(st.sampled_from(["tide", "", "From the sea", ">From here", "x" * 70_000]), max_size=4).map(
    "\n".join
)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), BODIES), min_size=1, max_size=5))
def test_an_mbox_comes_apart_into_what_was_put_in(tmp_path_factory, messages):
    """Every content once, quoting undone, and each under a name of its own."""
    path = tmp_path_factory.mktemp("mail") / "in.mbox"
    write_mbox(path, messages)

    found = list(iter_mbox(path))

    def content(message_id, body):
        named = "" if message_id is None else f"Message-ID: <{message_id}>\n"
        return f"Subject: s\n{named}\n{body}\n".encode()

    bodies = [read_body(path, one.start, one.end, quoted=True) for one in found]
    assert set(bodies) == {content(*message) for message in messages}
    assert [hashlib.sha256(body).hexdigest() for body in bodies] == [one.sha256 for one in found]
    assert len({one.name for one in found}) == len(found) == len(set(bodies))


def test_mailboxes_are_taken_apart_wherever_they_stand(tmp_path):
    write_mbox(tmp_path / "Inbox", [("one@x", "From now on the tide is high."), ("two@x", "low")])
    (tmp_path / "From.mbox").write_text("From the sea, a story.\n")
    maildir = mailbox.Maildir(tmp_path / "mail")
    key = maildir.add(b"Message-ID:\n <three@x>\n\n>From a friend\n")
    maildir.add_folder("Sent").add(b"Subject: none\n\nno id\n")

    scan = Scanner(tmp_path).scan()

    names = sorted(scan.items)
    assert names[:2] == ["Inbox/one@x", "Inbox/two@x"]
    assert names[2].startswith("mail/.Sent/sha256-")
    assert names[3:] == ["mail/three@x"]
    assert scan.items["Inbox/one@x"].read().endswith(b"\n\nFrom now on the tide is high.\n")
    assert scan.items["mail/three@x"].read().endswith(b">From a friend\n")
    assert not is_mbox(tmp_path / "From.mbox")
    message = maildir[key]
    message.set_subdir("cur")
    message.add_flag("S")
    maildir[key] = message
    assert sorted(Scanner(tmp_path).scan().items) == names, "a message that was read is the same message"
    assert sorted(Scanner(tmp_path / "Inbox").scan().items) == ["one@x", "two@x"]


def test_ten_thousand_messages_are_never_all_in_memory(tmp_path):
    path = tmp_path / "big.mbox"
    write_mbox(path, [(f"{number}@x", "tide " * 1_000) for number in range(10_000)])
    tracemalloc.start()
    count = sum(1 for _ in iter_mbox(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 10_000
    assert peak < path.stat().st_size / 5
