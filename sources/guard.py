"""The parser behind a guard: files are read in processes that can be ended, and that have no network.

A file may hang, exhaust or crash the code that reads it, and costs no more than itself then. The processes
live for many files, so that a small one costs little more than reading it here. Nothing here knows a format.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from memory.errors import InvalidInputError, UnavailableError
from memory.telling import Told, unheard
from memory.values import Attributes, Content, JsonValue, Parsed
from sources.frames import Frame, receive, send
from sources.media import MAX_SIDE, Audio, Clip, Cut, Picture, Span
from sources.questions import (
    BODY,
    CLIP,
    CONTENT,
    CUT,
    LOOK,
    MEDIA,
    OUT_OF_MEMORY,
    PICTURE,
    READY,
    Answer,
    read_clip,
    read_cut,
    read_looked,
    read_media,
    read_parsed,
    read_picture,
    read_refusal,
)
from sources.stills import Looked

SECONDS = 60
SECONDS_PER_MEBIBYTE = 2
PATIENCE = 2
"""So many times its processor time a file may take by the clock: a busy machine is not the file's fault."""
MEMORY_BYTES = 2 * 1024**3
PROCESSES = 2
START_SECONDS = 60
MAX_DOCUMENTS = 1_000
"""A process that has read so many is replaced, for what native code may have left behind in it."""
WORN_SHARE = 4
"""One that still holds more than this part of its memory limit is replaced, too."""

_MEBIBYTE = 1024**2
_T = TypeVar("_T")
_COMMAND = (sys.executable, "-P", "-m", "sources.guarded")


class GuardedParser:
    """Does what ``sources.parse.SourceParser`` does, in at most ``processes`` processes, begun when needed.

    A file may use ``seconds`` of processor time and some for every MiB of it, twice that by the clock, and
    ``memory_bytes`` of address space. When the process that reads it ends or runs out of memory, it is read
    once more in a fresh one, so that no file answers for what another did; then it is refused.
    """

    def __init__(
        self,
        *,
        seconds: int = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        processes: int = PROCESSES,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self._command = (*command, str(memory_bytes))
        self._slots = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = False
        # The kernel ends a child with the thread that began it, not with the process: this one stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="lethe-parsers")

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        """Return the parsed content.

        Raises what ``SourceParser`` does; ``InvalidInputError`` as well for a file that takes too much time
        or memory or ends the process that reads it; ``UnavailableError`` when no process can be had.
        """
        return self._ask(CONTENT, content, read_parsed)

    def parse_media(self, content: Content) -> Parsed | Audio:
        """Return what the captions of a video or audio file say, or its sound where there are none.

        Raises what ``parse`` does.
        """
        return self._ask(MEDIA, content, read_media)

    def cut(self, content: Content, spans: Sequence[Span]) -> Cut | None:
        """Return a video or audio file without what is seen, heard or read in ``spans`` of milliseconds.

        ``None`` when nothing is left of it. Raises what ``parse`` does.
        """
        return self._ask(CUT, content, read_cut, spans=[[start, end] for start, end in spans])

    def clip(self, content: Content, start_ms: int, end_ms: int) -> Clip:
        """Return an excerpt of a video or audio file. Raises what ``parse`` does."""
        return self._ask(CLIP, content, read_clip, start_ms=start_ms, end_ms=end_ms)

    def picture(self, content: Content, at_ms: int, *, max_side: int = MAX_SIDE) -> Picture:
        """Return what a video shows at a time. Raises what ``parse`` does."""
        return self._ask(PICTURE, content, read_picture, at_ms=at_ms, max_side=max_side)

    def look(self, content: Content, start: int = 0) -> Looked:
        """Return what there is to see in a file, from a time or page on. Raises what ``parse`` does."""
        return self._ask(LOOK, content, read_looked, start=start)

    def close(self) -> None:
        """End all processes; who waits for one gets ``UnavailableError``."""
        with self._lock:
            self._closed = True
            for process in self._all:
                process.kill()
            idle, self._idle = self._idle, []
        for process in idle:
            self._end(process)
        self._starter.shutdown()

    def list_process_ids(self) -> list[int]:
        """Return the ids of the processes there are now."""
        with self._lock:
            return sorted(process.id for process in self._all)

    def _ask(
        self, kind: bytes, content: Content, read: Callable[[Answer], _T], /, **parameters: JsonValue
    ) -> _T:
        """Return what ``read`` makes of the answer to a question of this kind."""
        request = _request(kind, content, self.seconds, parameters)
        with self._slots:
            try:
                outcome = self._read(self._take(), request, read)
            except _BrokenError:
                try:
                    outcome = self._read(self._start(), request, read)
                except _BrokenError as error:
                    raise InvalidInputError(error.what) from error
        if isinstance(outcome, InvalidInputError):
            raise outcome
        return outcome

    def _take(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._start()

    def _start(self) -> _Process:
        try:
            process = self._starter.submit(_Process, self._command).result()
        except (OSError, RuntimeError) as error:
            raise UnavailableError(f"no process to read documents in can be started: {error}") from error
        with self._lock:
            self._all.add(process)
        try:
            process.await_ready()
        except (OSError, EOFError) as error:
            self._end(process)
            raise UnavailableError(
                "a process to read documents in ended or hung at its start; standard error may say why"
            ) from error
        return process

    def _read(
        self, process: _Process, request: Frame, read: Callable[[Answer], _T]
    ) -> _T | InvalidInputError:
        outcome: _T | InvalidInputError | None = None
        try:
            outcome = self._understand(process.ask(request), read)
        except TimeoutError as error:
            raise _too_slow(PATIENCE * request.number, "s") from error
        except (OSError, EOFError) as error:
            status = process.await_end()
            if self._closed:
                raise UnavailableError("the service is stopping; the document waits") from error
            if status == -signal.SIGXCPU:
                raise _too_slow(request.number, "s of processor time") from error
            raise _BrokenError(
                f"reading it ended the process that did, twice ({_name_end(status)}); "
                "the file is damaged or made to do so: save it anew and send that"
            ) from error
        finally:
            if outcome is None or self._is_worn(process):
                self._end(process)
            else:
                self._put_back(process)
        return outcome

    def _understand(self, answer: Answer, read: Callable[[Answer], _T]) -> _T | InvalidInputError:
        """Return what the process says, which may lie once a file has taken it over."""
        if answer.kind == OUT_OF_MEMORY:
            mebibytes = self.memory_bytes // _MEBIBYTE
            raise _BrokenError(f"reading it takes more than {mebibytes} MiB of memory; send it in parts")
        try:
            refusal = read_refusal(answer)
            return read(answer) if refusal is None else refusal
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise EOFError("what the process answered is no answer") from error

    def _is_worn(self, process: _Process) -> bool:
        return (
            process.documents >= MAX_DOCUMENTS or process.resident_bytes() > self.memory_bytes // WORN_SHARE
        )

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        self._end(process)

    def _end(self, process: _Process) -> None:
        process.end()
        with self._lock:
            self._all.discard(process)


class _BrokenError(Exception):
    """A process came to its end over a file; ``what`` says how, for the case that another does, too."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class _Process:
    """One process that parses, and the socket to it. Used by one thread at a time, but for ``kill``."""

    def __init__(self, command: Sequence[str]) -> None:
        self.documents = 0
        self._connection, theirs = socket.socketpair()
        # Libraries set a default timeout for a moment (kombu does when it lets go of a connection), and two
        # threads at once leave it set: a socket made then does not block, nor in the process it goes to.
        theirs.setblocking(True)
        with theirs:
            try:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, cwd="/", env=_environment()
                )
            except OSError:
                self._connection.close()
                raise

    @property
    def id(self) -> int:
        return self._process.pid

    def await_ready(self) -> None:
        """Return once it is confined; raises ``EOFError`` or ``OSError`` when it does not come to that."""
        if receive(self._connection, deadline=time.monotonic() + START_SECONDS).kind != READY:
            raise EOFError("no greeting")

    def ask(self, request: Frame) -> Answer:
        """Return its answer.

        Raises ``TimeoutError`` when it is late, ``EOFError`` or ``OSError`` if dead.
        """
        self.documents += 1
        deadline = time.monotonic() + PATIENCE * request.number
        send(self._connection, request, deadline=deadline)
        told = receive(self._connection, deadline=deadline)
        body = receive(self._connection, deadline=deadline)
        if body.kind != BODY:
            raise EOFError("the other side no longer keeps to the protocol")
        return Answer(told.kind, told.payload, body.payload)

    def resident_bytes(self) -> int:
        """Return how much memory it holds; 0 where the system has no /proc."""
        try:
            pages = Path(f"/proc/{self.id}/statm").read_bytes().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        self._process.kill()

    def await_end(self) -> int:
        """Return how it ended, by itself if it did."""
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


def _environment() -> dict[str, str]:
    """Return all that a process sees of this one's environment: no secret, and the same everywhere."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        # A numeric library that some parser imports would start threads, which the confinement forbids.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _request(kind: bytes, content: Content, seconds: int, parameters: dict[str, JsonValue]) -> Frame:
    """Return the question, with the processor time it may take; what no parser looks at stays here."""
    told = Attributes(title=content.attributes.title, occurred_at=content.attributes.occurred_at)
    allowed = seconds + SECONDS_PER_MEBIBYTE * (len(content.body) // _MEBIBYTE)
    question = (replace(content, attributes=told), parameters)
    return Frame(kind, pickle.dumps(question, pickle.HIGHEST_PROTOCOL), allowed)


def _too_slow(seconds: int, unit: str) -> InvalidInputError:
    return InvalidInputError(f"reading it takes longer than {seconds} {unit}; send it in parts")


def _name_end(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, most likely for want of memory" if name == "SIGKILL" else name
