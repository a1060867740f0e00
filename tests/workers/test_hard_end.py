"""A real `lethe serve` killed in the middle of its work, and one too many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from embedding.encoder import TextEncoder
from tests.service.harness import TENANT, House, text_content
from tests.tiny import build_tiny_encoder
from unlearning.forget import find_unowned

PATIENCE = 120.0
TOLD = 100


class Served:
    """One `lethe serve` process."""

    def __init__(self, data: Path, model: Path, log: Path) -> None:
        environment = {
            **os.environ,
            "LETHE_EMBEDDER": f"hf:{model}",
            "LETHE_READER": "extractive",
            "LETHE_TORCH_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.data, self.log = data, log
        command = [sys.executable, "-c", "from api.cli import main; main()"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "serve", "--data", str(data), "--port", "0"],
                stdout=output,
                stderr=output,
                env=environment,
            )

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            text = " ".join(self.log.read_text().split())
            if "http://127.0.0.1:" in text:
                self.url = "http://127.0.0.1:" + text.partition("http://127.0.0.1:")[2].partition(";")[0]
                try:
                    self.ask("/readyz")
                    return
                except OSError:
                    pass
            time.sleep(0.05)

    def ask(self, path: str, body: object = None) -> Any:
        """Return the answer of a GET, or of a POST where there is a body."""
        key = self.data / "admin.key"
        headers = {"Content-Type": "application/json"}
        if key.exists():
            headers["Authorization"] = f"Bearer {key.read_text().strip()}"
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers), timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@contextmanager
def serve(data: Path, model: Path, log: Path) -> Iterator[Served]:
    served = Served(data, model, log)
    try:
        served.wait()
        yield served
    finally:
        if served.process.poll() is None:
            served.process.send_signal(signal.SIGTERM)
            try:
                served.process.wait(60)
            except subprocess.TimeoutExpired:
                served.process.kill()
                served.process.wait()


@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_a_kill_and_nothing_stray_is_left(tmp_path: Path) -> None:
    model = build_tiny_encoder(tmp_path / "model")
    data = tmp_path / "data"
    bodies = [f"Story {n} of the river tower. " * (1 + n % 5) for n in range(TOLD)]
    documents = [{"text": body, "external_id": f"d{n}"} for n, body in enumerate(bodies)]

    with serve(data, model, tmp_path / "first.log") as first:
        acknowledged = first.ask("/v1/documents/batch", documents)
        assert len(acknowledged) == TOLD
        first.process.kill()
        first.process.wait()

    with serve(data, model, tmp_path / "second.log") as second:
        rival = Served(data, model, tmp_path / "rival.log")
        assert rival.process.wait(PATIENCE) != 0
        said = " ".join(rival.log.read_text().split())
        assert "another process serves" in said
        assert "Traceback" not in said
        deadline = time.monotonic() + PATIENCE
        jobs = {item["job"]["id"] for item in acknowledged}
        while jobs:
            assert time.monotonic() < deadline, f"{len(jobs)} jobs never ended"
            time.sleep(0.05)
            jobs = {i for i in jobs if second.ask(f"/v1/jobs/{i}")["status"] in ("queued", "running")}
        assert {second.ask(f"/v1/jobs/{item['job']['id']}")["status"] for item in acknowledged} == {"done"}
        assert second.ask("/v1/stats")["sources"] == TOLD

    encoder = TextEncoder(model, name=f"hf:{model}")
    house = House(data, encoder)
    undisturbed = House(tmp_path / "undisturbed", encoder)
    try:
        assert not house.lethe.kernel.jobs.count_open(TENANT).get("rebuild")
        assert find_unowned(data, house.lethe.stores) == []
        undisturbed.lethe.remember(TENANT, [text_content(body) for body in bodies])
        undisturbed.waker.drain()
        told = {(text, score) for _, text, score in undisturbed.found("river tower story 7", limit=200)}
        assert {(text, score) for _, text, score in house.found("river tower story 7", limit=200)} == told
        stored = {house.lethe.get_source(TENANT, item["id"]).text for item in acknowledged}
        assert stored == set(bodies)
    finally:
        house.close()
        undisturbed.close()
