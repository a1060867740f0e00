"""Real processes of Lethe over a tiny model, for tests that end them hard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.warm import Process

PATIENCE = 120.0
PROGRAM = "from api.cli import main; main()"


class Served:
    """One process: `lethe serve`, or `lethe api`, `lethe worker` or `lethe engine` beside others."""

    def __init__(
        self,
        data: Path,
        model: Path,
        log: Path,
        role: str = "serve",
        settings: Mapping[str, str] | None = None,
        program: str = PROGRAM,
    ) -> None:
        environment = {
            **os.environ,
            "LETHE_EMBEDDER": f"hf:{model}",
            "LETHE_READER": "extractive",
            "LETHE_SPEECH": "none",
            "LETHE_TORCH_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **(settings or {}),
        }
        self.data, self.log, self.role = data, log, role
        if role == "engine":
            engine = environment.pop("LETHE_ENGINE_URL")  # where the others look for it
            options = ["--port", engine.rpartition(":")[2]]
        elif role == "worker":
            options = ["--data", str(data)]
        else:
            options = ["--data", str(data), "--port", "0"]
        self.process = Process(program, [role, *options], environment, log)

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            text = " ".join(self.log.read_text().split())
            if self.role == "worker" and "working; stop with" in text:
                return
            if "http://127.0.0.1:" in text:
                self.url = "http://127.0.0.1:" + text.partition("http://127.0.0.1:")[2].partition(";")[0]
                try:
                    self.ask("/readyz")
                    return
                except OSError:
                    pass
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as the kernel or the power supply would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as a supervisor would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def ask(self, path: str, body: object = None, *, method: str | None = None, wait: int = 0) -> Any:
        """Return the answer of a GET, or of a POST where there is a body; of another method where told."""
        key = self.data / "admin.key"
        headers = {"Content-Type": "application/json"} | ({"Prefer": f"wait={wait}"} if wait else {})
        if key.exists():
            headers["Authorization"] = f"Bearer {key.read_text().strip()}"
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=90) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@contextmanager
def serve(data: Path, model: Path, log: Path) -> Iterator[Served]:
    """Yield a `lethe serve` that is ready, and stop it with the block."""
    served = Served(data, model, log)
    try:
        served.wait()
        yield served
    finally:
        served.stop()
