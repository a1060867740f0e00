"""SQLite: WAL mode with ``secure_delete``, one process, one writer at a time.

``write`` begins IMMEDIATE, so that a transaction never fails half-way for want of the lock.
Nothing here knows the tables.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from memory.errors import UnavailableError
from memory.faults import point

BUSY_TIMEOUT_SECONDS = 30

_OUTSIDE = ("locked", "disk", "readonly", "read-only", "unable to open", "i/o error")
"""Words of SQLite's errors that speak of the machine; its other ones speak of a defect."""


class SqliteDatabase:
    """One file, or a database in memory."""

    is_shared = False

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.engine = sa.create_engine(
            self.url,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            pool_size=16,
            max_overflow=48,
        )
        sa.event.listen(self.engine, "connect", _prepare)
        sa.event.listen(self.engine, "begin", _begin)
        self._write_lock = threading.RLock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with _told_apart(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, alone: str = "") -> Iterator[Connection]:
        """A transaction of the only writer there is; ``alone`` asks for no more than that."""
        # Waiting here, in arrival order, is fairer and quicker than SQLite's busy polling.
        with _told_apart(), self._write_lock, self.engine.connect() as connection:
            connection.info["immediate"] = True
            try:
                with connection.begin():
                    yield connection
                    point("commit")
                point("committed")
            finally:
                connection.info["immediate"] = False

    def purge(self, tables: Sequence[str]) -> Mapping[str, str]:
        """Rewrite the file and empty the log; ``UnavailableError`` when readers keep the log."""
        with _told_apart(), self._write_lock:
            raw = self.engine.raw_connection()
            try:
                point("purge")
                cursor = raw.cursor()
                cursor.execute("PRAGMA temp_store=MEMORY")
                cursor.execute("VACUUM")
                busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                cursor.close()
                point("purged")
            finally:
                raw.close()
        if busy:
            raise UnavailableError("readers kept SQLite's write-ahead log from being truncated")
        return {"tables": "overwritten", "log": "truncated"}

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


@contextmanager
def _told_apart() -> Iterator[None]:
    """Raise ``UnavailableError`` for what the machine refuses, and leave defects as they are."""
    try:
        yield
    except sa.exc.OperationalError as error:
        said = str(error.orig)
        if any(word in said.lower() for word in _OUTSIDE):
            raise UnavailableError(f"the database cannot be used now: {said}") from error
        raise


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "secure_delete=ON", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("immediate") else "BEGIN")
