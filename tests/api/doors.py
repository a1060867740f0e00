"""Ways to reach an in-memory Lethe: in process and over TCP; and what every problem must look like."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fake_lethe import FakeLethe
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.server import server_of


def client_of(lethe: FakeLethe, key: str | None = "admin-key", **settings) -> TestClient:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return TestClient(create_app(lethe, **settings), headers=headers, raise_server_exceptions=False)


@contextmanager
def serving(lethe: FakeLethe, *, trusted_proxies: str = "", **settings) -> Iterator[int]:
    """Serve over TCP on a free port; yield the port."""
    with serving_app(create_app(lethe, **settings), trusted_proxies=trusted_proxies) as port:
        yield port


@contextmanager
def serving_app(app: FastAPI, *, trusted_proxies: str = "", lifespan: str = "on") -> Iterator[int]:
    """Serve an application over TCP on a free port; yield the port. ``lifespan`` off leaves it as it is."""
    server = server_of(app, host="127.0.0.1", port=0, trusted_proxies=trusted_proxies)
    server.config.lifespan = lifespan
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        assert not thread.is_alive(), "the server did not stop"


def check_problem(response, status: int) -> dict:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem = response.json()
    assert {"type", "title", "status", "detail", "instance"} <= problem.keys()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:lethe:problem:")
    return problem
