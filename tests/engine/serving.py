"""Engines over TCP: in a thread of the test, or as the real ``lethe engine`` process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from api.server import server_of
from embedding.remote import RemoteEncoder
from reader.remote import RemoteReader
from service.engine import EngineConnection

PATIENCE_SECONDS = 60.0


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve in a thread; yield the URL."""
    server = server_of(app, host="127.0.0.1", port=port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def connected(url: str, key: str | None = None, **bounds: float) -> Iterator[EngineConnection]:
    connection = EngineConnection(url, key, **bounds)
    try:
        yield connection
    finally:
        connection.close()


def remote_encoder(connection: EngineConnection) -> RemoteEncoder:
    return RemoteEncoder(connection, connection.wait(PATIENCE_SECONDS).space)


def remote_reader(connection: EngineConnection) -> RemoteReader:
    return RemoteReader(connection, name=connection.wait(PATIENCE_SECONDS).reader)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def engine_process(
    model: Path, port: int, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``lethe engine`` with a model folder; killed at the end if it still runs."""
    given = {
        **os.environ,
        "LETHE_EMBEDDER": f"hf:{model}",
        "LETHE_READER": "extractive",
        "LETHE_SPEECH": "none",
        "LETHE_TORCH_THREADS": "1",
        "LETHE_MODELS_CACHE": str(log.parent / "models"),
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    command = [sys.executable, "-c", "from api.cli import main; main()", "engine", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=given)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
