"""Mailboxes taken apart: where each message of an mbox file or a Maildir stands, and its bytes.

A mailbox is read in pieces of 64 KB and never held in memory. A message goes by its Message-ID or, where it
has none, by its digest. What is in a message is not looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

MESSAGE_MEDIA_TYPE = "message/rfc822"
SUFFIXES = frozenset({"", ".mbox", ".mbx"})

_PIECE_BYTES = 1 << 16
_HEADER_BYTES = 1 << 18
_LONGEST_NAME = 200
_SEPARATOR = re.compile(rb"From [^\n]*\d{1,2}:\d\d[^\n]*\d{4}[^\n]*\r?\n?")
"""The line before a message (RFC 4155): ``From``, a sender, a date; a sentence that begins so has no date."""
_MESSAGE_ID = re.compile(rb"^message-id:\s*(?:<([^>\r\n]+)>|([^\s<>]+))", re.IGNORECASE | re.MULTILINE)
_QUOTED_FROM = re.compile(rb">+From ")
_BLANK = (b"\n", b"\r\n")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its name, the bytes it takes in the file, and the SHA-256 of its content."""

    name: str
    start: int
    end: int
    sha256: str


def is_mbox(path: Path) -> bool:
    """Say whether a file is an mbox, by the ending of its name and its first line."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    with path.open("rb") as file:
        return _SEPARATOR.fullmatch(file.readline(1000)) is not None


def is_maildir(path: Path) -> bool:
    """Say whether a directory is a Maildir: it has ``cur``, ``new`` and ``tmp``."""
    return all((path / name).is_dir() for name in ("cur", "new", "tmp"))


def iter_mbox(path: Path) -> Iterator[Message]:
    """Yield the messages of an mbox file, in order; the same message twice is one."""
    named: dict[str, str] = {}
    with path.open("rb") as file:
        for start, end in _iter_bounds(file):
            message = _read_message(path, start, end, quoted=True)
            taken = named.get(message.name)
            if taken not in (None, message.sha256):  # lists and copies: one Message-ID, another content
                message = replace(message, name=f"{message.name}#{message.sha256[:12]}")
                taken = named.get(message.name)
            if taken is None:
                named[message.name] = message.sha256
                yield message


def read_file_message(path: Path) -> Message:
    """Return the message that fills a file, as in a Maildir."""
    return _read_message(path, 0, path.stat().st_size, quoted=False)


def read_body(path: Path, start: int, end: int, *, quoted: bool) -> bytes:
    """Return a message's content; with ``quoted`` lines that begin with ``>From`` lose a ``>`` (mboxrd)."""
    return b"".join(_iter_lines(path, start, end, quoted=quoted))


def _iter_bounds(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield where each message starts and ends; the blank line before a separator belongs to neither."""
    offset = 0
    start: int | None = None
    blank_at: int | None = None
    fresh = after_blank = True  # whether a line begins here, and whether it comes first or after a blank one
    while line := file.readline(_PIECE_BYTES):
        if fresh and after_blank and _SEPARATOR.fullmatch(line):
            if start is not None:
                yield start, offset if blank_at is None else blank_at
            start = offset + len(line)
            after_blank, blank_at = False, None
        elif fresh:
            after_blank = line in _BLANK
            blank_at = offset if after_blank else None
        else:
            after_blank, blank_at = False, None
        fresh = line.endswith(b"\n")
        offset += len(line)
    if start is not None:
        yield start, offset if blank_at is None else blank_at


def _read_message(path: Path, start: int, end: int, *, quoted: bool) -> Message:
    digest = hashlib.sha256()
    header = bytearray()
    in_header = True
    for line in _iter_lines(path, start, end, quoted=quoted):
        digest.update(line)
        in_header = in_header and line not in _BLANK and len(header) < _HEADER_BYTES
        if in_header:
            header += line
    sha256 = digest.hexdigest()
    found = _MESSAGE_ID.search(bytes(header))
    name = "" if found is None else (found[1] or found[2]).decode("utf-8", "replace").strip()
    if not name or len(name) > _LONGEST_NAME:
        name = f"sha256-{sha256[:32]}"
    return Message(name.replace("/", "_").replace("\0", "_"), start, end, sha256)


def _iter_lines(path: Path, start: int, end: int, *, quoted: bool) -> Iterator[bytes]:
    """Yield a message's lines, long ones in pieces."""
    with path.open("rb") as file:
        file.seek(start)
        left, fresh = end - start, True
        while left > 0 and (line := file.readline(min(left, _PIECE_BYTES))):
            left -= len(line)
            yield line[1:] if quoted and fresh and _QUOTED_FROM.match(line) else line
            fresh = line.endswith(b"\n")
