"""A real ``lethe serve`` or ``lethe api`` in its own process, on a free port, with a fresh data folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from api.client import DocumentFields, LetheClient
from memory.errors import UnavailableError

READY_SECONDS = 1800
STOP_SECONDS = 120
WORK_SECONDS = 4 * 3600
BATCH = 256
"""Documents per bulk request."""

STAGE_METRIC = "lethe_stage_seconds"

StageTotals = Mapping[str, tuple[float, float]]
Told = Callable[[int], None]
"""Takes how many passages are held by now."""


class Service:
    """Runs from ``with`` to its end; the data folder goes then, or with ``discard`` if it ``keeps`` it."""

    def __init__(
        self,
        *,
        reader: str = "extractive",
        threads: int,
        command: Literal["serve", "api"] = "serve",
        settings: Mapping[str, str] | None = None,
        keeps: bool = False,
    ) -> None:
        self._keeps = keeps
        self._scratch = tempfile.TemporaryDirectory(prefix="lethe-bench-")
        self.data = Path(self._scratch.name) / "data"
        self._log = Path(self._scratch.name) / "serve.log"
        self._command = command
        self._environment = os.environ | {
            "LETHE_READER": reader,
            "LETHE_TORCH_THREADS": str(threads),
            "LETHE_LOG_LEVEL": "WARNING",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.client: LetheClient
        self.started_in = 0.0

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"\nthe service's log ends:\n{self.log_tail()}\n")
        self.stop()
        if not self._keeps:
            self._scratch.cleanup()

    def discard(self) -> None:
        """Delete the data folder of a service that keeps it."""
        self._scratch.cleanup()

    def start(self) -> float:
        """Start it and return how many seconds passed until it was ready to serve."""
        self._url = f"http://127.0.0.1:{_free_port()}"
        started = time.perf_counter()
        self._process = self.run(self._command, "--port", self._url.rpartition(":")[2])
        with LetheClient(self._url) as visitor:
            while not visitor.is_ready():
                if self._process.poll() is not None or time.perf_counter() - started > READY_SECONDS:
                    raise UnavailableError(f"lethe {self._command} did not start:\n{self.log_tail()}")
                time.sleep(0.02)
        self.started_in = time.perf_counter() - started
        self.client = self.connect()
        return self.started_in

    def run(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a command of ``lethe`` on the same data and settings; its output goes to the same log."""
        lethe = str(Path(sys.executable).with_name("lethe"))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [lethe, command, "--data", str(self.data), *options],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def connect(self) -> LetheClient:
        """Return one more client with the admin's key."""
        return LetheClient(self.url, self.key, timeout_seconds=600)

    @property
    def url(self) -> str:
        """Where it serves."""
        return self._url

    @property
    def key(self) -> str:
        """The admin's key."""
        return (self.data / "admin.key").read_text().strip()

    def stop(self) -> float:
        """Stop it and return how many seconds that took."""
        if self._process is None:
            return 0.0
        self.client.close()
        started = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        return time.perf_counter() - started

    @property
    def pid(self) -> int:
        """The process, for a profiler."""
        assert self._process is not None
        return self._process.pid

    def resident_mib(self) -> float:
        """Return the resident memory of the service's process, without its embedded broker's."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

    def stage_totals(self, use_case: str) -> StageTotals:
        """Return what ``/metrics`` says of a use case: stage → (seconds spent, times observed)."""
        text = httpx2.get(f"{self._url}/metrics", trust_env=False).text
        totals: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if family.name == STAGE_METRIC and sample.labels.get("use_case") == use_case:
                    totals.setdefault(sample.labels["stage"], {})[sample.name] = sample.value
        return {
            stage: (total[f"{STAGE_METRIC}_sum"], total[f"{STAGE_METRIC}_count"])
            for stage, total in totals.items()
        }

    def disk_mib(self, part: str = ".") -> float:
        """Return the size of everything in the data folder, or in a part of it; of linked files, once."""
        held = {stat.st_ino: stat.st_size for path in (self.data / part).rglob("*") if (stat := path.stat())}
        return round(sum(held.values()) / 2**20, 1)

    def log_tail(self) -> str:
        """Return the last lines the service wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])

    def remember(self, documents: Sequence[DocumentFields], told: Told | None = None) -> float:
        """Post documents in batches and return the seconds until all are found by recall."""
        started = time.perf_counter()
        for at in range(0, len(documents), BATCH):
            self.client.remember_documents(documents[at : at + BATCH])
        self.wait_for("ingest", told=told)
        return time.perf_counter() - started

    def wait_for(self, *kinds: str, told: Told | None = None, limit_seconds: float = WORK_SECONDS) -> float:
        """Return the seconds until no job (of these kinds, where given) is open any more."""
        started = time.perf_counter()
        pause = 0.05
        while True:
            stats = self.client.stats()
            if told is not None:
                told(stats["passages"])
            if not any(count for kind, count in stats["jobs"].items() if not kinds or kind in kinds):
                return time.perf_counter() - started
            if time.perf_counter() - started > limit_seconds:
                raise UnavailableError(f"jobs do not end: {stats['jobs']}\n{self.log_tail()}")
            time.sleep(pause)
            pause = min(1.0, pause * 1.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
