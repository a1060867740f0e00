"""Bytes as they come: of a file, of one that still grows, of a pipe. Nothing here knows what they mean."""

from __future__ import annotations

import io
import select
import time
from collections.abc import Iterator
from typing import BinaryIO

POLL_SECONDS = 0.1
CHUNK_BYTES = 65_536
LONGEST_LINE_BYTES = 1_000_000
"""A longer line is taken as several."""


class Feed(io.RawIOBase):
    """A file that can only be read onwards; one that grows is at its end when nothing came for a while.

    ``idle_seconds`` is how long more is waited for at the end of a growing file; 0 for none.
    """

    def __init__(self, file: BinaryIO, idle_seconds: float = 0) -> None:
        self._file = file
        self._idle_seconds = idle_seconds
        self._came = time.monotonic()
        self._ahead = b""
        try:
            self._number: int | None = file.fileno()
        except (OSError, AttributeError):
            self._number = None  # no file of the system's, so that reading it does not wait

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, at most ``size``, as soon as there are any; none at the end."""
        while (data := self.read_soon(size, 3600)) is None:
            pass
        return data

    def read_soon(self, size: int, seconds: float) -> bytes | None:
        """Return some bytes, none at the end, or ``None`` when nothing came within ``seconds``."""
        size = CHUNK_BYTES if size < 0 else size
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        late = time.monotonic() + seconds
        while True:
            if self._is_ready(min(POLL_SECONDS, seconds)):
                data = self._file.read(size)
                if data:
                    self._came = time.monotonic()
                    return data
                if time.monotonic() - self._came >= self._idle_seconds:
                    return b""
                time.sleep(min(POLL_SECONDS, seconds))
            if time.monotonic() >= late:
                return None

    def peek(self) -> bytes:
        """Return what comes first, which is read again: a line of text, some kilobytes of anything else."""
        while len(self._ahead) < CHUNK_BYTES:
            head = self._ahead
            if b"\0" not in head and b"\n" in head.lstrip():
                break
            self._ahead = b""
            data = self.read(CHUNK_BYTES)
            self._ahead = head + data
            if not data or (b"\0" in self._ahead and len(self._ahead) >= 4096):
                break
        return self._ahead

    def iter_lines(self, quiet_seconds: float) -> Iterator[str | None]:
        """Yield lines without their ends, and ``None`` once whenever nothing came for ``quiet_seconds``."""
        rest, is_quiet = b"", False
        while (data := self.read_soon(CHUNK_BYTES, quiet_seconds)) != b"":
            if data is None:
                if not is_quiet:
                    yield None
                is_quiet = True
                continue
            is_quiet = False
            *whole, rest = (rest + data).split(b"\n")
            if len(rest) > LONGEST_LINE_BYTES:
                whole, rest = [*whole, rest], b""
            yield from (_text(line) for line in whole)
        if rest:
            yield _text(rest)

    def _is_ready(self, seconds: float) -> bool:
        if self._number is None:
            return True
        return bool(select.select([self._number], [], [], seconds)[0])


def _text(line: bytes) -> str:
    return line.decode("utf-8-sig", "replace").rstrip("\r")
