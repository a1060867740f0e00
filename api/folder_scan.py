"""What a folder holds now: its files that Lethe reads, and the messages of its mailboxes.

Left out are hidden files, what ``.letheignore`` names, kinds that Lethe does not read, links that lead out of
the folder, and links to directories. What cannot be looked at is said, so that nobody takes it for gone.
Only mailboxes are read here; of files no more than size and time is looked at.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from api import mailboxes
from api.folder_ignore import FILE_NAME, Ignore
from api.media import is_readable_name
from memory.errors import InvalidInputError

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What shows without reading that a file changed."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to remember: a file, or one message of a mailbox.

    ``path`` is its name inside the folder, with ``/``; a message goes by its mailbox and its Message-ID.
    """

    path: str
    file: Path
    stamp: Stamp
    message: mailboxes.Message | None = None
    quoted: bool = False

    def read(self) -> bytes:
        """Return the content as it is now."""
        if self.message is None:
            return self.file.read_bytes()
        return mailboxes.read_body(self.file, self.message.start, self.message.end, quoted=self.quoted)

    def digest(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal."""
        if self.message is not None:
            return self.message.sha256
        digest = hashlib.sha256()
        with self.file.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()


@dataclass(slots=True)
class Scan:
    """What was found. ``unread`` maps paths of files and directories to why they could not be looked at."""

    items: dict[str, Item] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    left_out: int = 0

    def is_unread(self, path: str) -> bool:
        """Say whether it is unknown what a path holds: it, or a directory or mailbox above it, is unread."""
        above = [path, *_parents(path), ""]
        return any(part in self.unread for part in above)


class Scanner:
    """Looks at one folder or mailbox file, as often as wanted; reads mailboxes only when they changed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._ignore = Ignore()
        self._messages: dict[Path, tuple[Stamp, list[Item]]] = {}

    def scan(self) -> Scan:
        """Return what is there now; ``InvalidInputError`` when the folder itself cannot be looked at."""
        found = Scan()
        try:
            status = self.root.stat()
            if not stat.S_ISDIR(status.st_mode):
                self._add_mbox(found, self.root, "", _stamp(status))
            else:
                self._ignore = _read_ignore(self.root / FILE_NAME)
                self._walk(found, self.root, "")
        except OSError as error:
            raise InvalidInputError(f"cannot be looked at: {_reason(error)}", where=str(self.root)) from error
        return found

    def _walk(self, found: Scan, directory: Path, prefix: str) -> None:
        if mailboxes.is_maildir(directory):
            self._walk_maildir(found, directory, prefix)
            return
        for entry in _list(directory):
            path = f"{prefix}{entry.name}"
            if not _is_text(entry.name):
                found.unread[_shown(path)] = "its name is not Unicode; rename it"
            elif not entry.name.startswith("."):
                try:
                    self._look_at(found, entry, path)
                except OSError as error:
                    found.unread[path] = _reason(error)

    def _look_at(self, found: Scan, entry: os.DirEntry[str], path: str) -> None:
        if self._ignore.leaves_out(path, directory=entry.is_dir(follow_symlinks=False)):
            return
        if entry.is_dir(follow_symlinks=False):
            self._walk(found, Path(entry.path), f"{path}/")
            return
        file = Path(entry.path)
        if entry.is_symlink() and not self._leads_inside(file):
            return
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            return
        if is_readable_name(entry.name):
            found.items[path] = Item(path, file, _stamp(status))
        elif mailboxes.is_mbox(file):
            self._add_mbox(found, file, f"{path}/", _stamp(status))
        else:
            found.left_out += 1

    def _leads_inside(self, link: Path) -> bool:
        target = link.resolve()
        return target.is_relative_to(self.root) and target.is_file()

    def _add_mbox(self, found: Scan, file: Path, prefix: str, stamp: Stamp) -> None:
        held = self._messages.get(file)
        if held is None or held[0] != stamp:
            items = [
                Item(f"{prefix}{message.name}", file, stamp, message, quoted=True)
                for message in mailboxes.iter_mbox(file)
            ]
            self._messages[file] = held = (stamp, items)
        found.items.update({item.path: item for item in held[1]})

    def _walk_maildir(self, found: Scan, directory: Path, prefix: str) -> None:
        for name in ("cur", "new"):
            for entry in _list(directory / name):
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    try:
                        self._add_message(found, Path(entry.path), prefix, _stamp(entry.stat()))
                    except FileNotFoundError:
                        continue  # a mail program renamed it as it was read; the next look finds it
                    except OSError as error:
                        found.unread[prefix.rstrip("/")] = f"{entry.name}: {_reason(error)}"
        for entry in _list(directory):
            inner = Path(entry.path)
            if entry.is_dir(follow_symlinks=False) and mailboxes.is_maildir(inner):
                self._walk_maildir(found, inner, f"{prefix}{entry.name}/")

    def _add_message(self, found: Scan, file: Path, prefix: str, stamp: Stamp) -> None:
        held = self._messages.get(file)
        if held is None or held[0] != stamp:
            message = mailboxes.read_file_message(file)
            held = (stamp, [Item(f"{prefix}{message.name}", file, stamp, message)])
            self._messages[file] = held
        (item,) = held[1]
        found.items.setdefault(item.path, item)


def _read_ignore(path: Path) -> Ignore:
    try:
        return Ignore(path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return Ignore()
    except UnicodeDecodeError as error:
        raise InvalidInputError("is not UTF-8", where=str(path)) from error


def _list(directory: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns)


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
