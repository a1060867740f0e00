"""Processes of Lethe that are forked from one that has imported what they need: seconds of work saved by each.

What is forked is a process of its own all the same: a child of none of the test's threads, with its own
environment, output and signals, to be ended in any way. What is different: variables that are read at import
are those of the first fork, and nothing is finalized at its end. What a bare interpreter does at its start and
its end is the matter of the tests that run the plain command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path

IMPORTED = [
    "api.app",
    "api.cli_engine",
    "api.cli_serve",
    "api.engine",
    "api.server",
    "embedding.encoder",
    "service.wiring",
    "workers.sender",
    "workers.worker",
]
_context = get_context("forkserver")


class Process:
    """A running program; asked and ended as one of ``subprocess`` is."""

    def __init__(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Run Python code with arguments and all of its environment; what it prints goes to the log."""
        _begin()
        self._process = _context.Process(
            target=_run, args=(program, list(arguments), dict(environment), str(log)), daemon=True
        )
        log.touch()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return how it ended, ``None`` while it runs: its status, or a signal's number below zero."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises ``TimeoutExpired``."""
        self._process.join(timeout)
        ended = self.poll()
        if ended is None:
            raise subprocess.TimeoutExpired("lethe", timeout or 0.0)
        return ended

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _begin() -> None:
    """Start what the processes are forked from, once, with what libraries read when they are imported."""
    _context.set_forkserver_preload(IMPORTED)
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _run(program: str, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for told in (1, 2):
        os.dup2(output, told)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["lethe", *arguments]
    exec(compile(program, "lethe", "exec"), {"__name__": "__main__"})
