"""A real `lethe serve` asked to stop: it drains, finishes its jobs or gives them back, or ends at once."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.tiny import build_tiny_encoder
from tests.workers.test_hard_end import Served
from workers.broker import EmbeddedBroker

SLOW = """
import time
from service import work
derive = work.derive
work.derive = lambda *given: (open({begun!r}, "w").close(), time.sleep({seconds}), derive(*given))[-1]
from api.cli import main
main()
"""


class SlowlyServed(Served):
    """`lethe serve` whose jobs take some seconds more."""

    def __init__(self, folder: Path, model: Path, *, seconds: float = 0, **settings: str) -> None:
        self.begun = folder / "begun"
        code = SLOW.format(begun=str(self.begun), seconds=seconds)
        super().__init__(folder / "data", model, folder / "serve.log", settings=settings, program=code)

    def begin_job(self) -> str:
        """Remember a document, and return its job's id once the job is under way."""
        job_id = self.ask("/v1/documents", {"text": "Alice came to the tower."})["job"]["id"]
        deadline = time.monotonic() + 60
        while not self.begun.exists():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return str(job_id)

    def job(self, job_id: str) -> tuple[str, str | None, int]:
        """Return a job's status, token and attempts, from the database of the ended process."""
        connection = sqlite3.connect(self.data / "lethe.db")
        query = "SELECT status, lease_token, attempts FROM jobs WHERE id = ?"
        found = connection.execute(query, (job_id,)).fetchone()
        connection.close()
        status, token, attempts = found
        return status, token, attempts


@contextmanager
def serving(folder: Path, *, seconds: float = 0, **settings: str) -> Iterator[SlowlyServed]:
    served = SlowlyServed(folder, build_tiny_encoder(folder / "model"), seconds=seconds, **settings)
    try:
        served.wait()
        yield served
    finally:
        served.process.kill()
        served.process.wait()
        EmbeddedBroker(served.data / "broker").stop()


def test_a_running_job_is_finished_before_the_process_ends(tmp_path: Path) -> None:
    with serving(tmp_path, seconds=2) as served:
        job_id = served.begin_job()
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)
        assert served.job(job_id)[0] == "done", served.log.read_text()
        assert "Traceback" not in served.log.read_text()


def test_a_job_that_takes_too_long_is_given_back(tmp_path: Path) -> None:
    with serving(tmp_path, seconds=120, LETHE_STOP_SECONDS="0.5") as served:
        job_id = served.begin_job()
        asked = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)
        assert time.monotonic() - asked < 20
        assert served.job(job_id) == ("queued", None, 0)
        assert "given back" in served.log.read_text()


def test_while_draining_readyz_says_503_and_a_second_signal_ends_it(tmp_path: Path) -> None:
    with serving(tmp_path, LETHE_DRAIN_SECONDS="60") as served:
        served.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while True:
            try:
                served.ask("/readyz")
            except HTTPError as error:
                assert error.code == 503
                assert "stopping" in error.read().decode()
                break
            assert time.monotonic() < deadline, "it still says that it is ready"
            time.sleep(0.05)
        assert served.ask("/healthz") == {"status": "ok"}
        assert served.ask("/v1/stats")["entries"] == 0, "requests are served while it drains"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_ends_soon(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as served:
        asked = time.monotonic()
        served.process.send_signal(number)
        served.process.wait(60)
        assert time.monotonic() - asked < 15
