"""PostgreSQL: snapshots for reading, advisory locks for what must go one after the other, and the fence.

Deleted rows leave bytes behind in tables, in the write-ahead log and in copies of both. ``purge`` repacks
tables where it can; for the rest the destroyed keys stand, which the certificate says.
Nothing here knows the tables.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from memory.errors import UnavailableError
from memory.faults import point

CONNECT_SECONDS = 10
POOL_SECONDS = 30
REPACK_BYTES = 1 << 30
"""Tables above this are not repacked: they would be locked for minutes."""
REPACK_LOCK_SECONDS = 5

log = structlog.get_logger()


class PostgresDatabase:
    """One database of a server that other processes use, too."""

    is_shared = True

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql+psycopg")
        self.engine = sa.create_engine(
            self.url,
            pool_pre_ping=True,
            pool_size=16,
            max_overflow=48,
            pool_timeout=POOL_SECONDS,
            connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "lethe"},
        )
        sa.event.listen(self.engine, "connect", _await_commits)
        self._snapshots = self.engine.execution_options(isolation_level="REPEATABLE READ")
        self._each = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with _told_apart(), self._snapshots.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, alone: str = "") -> Iterator[Connection]:
        """A transaction at READ COMMITTED; ``alone`` waits for an advisory lock that ends with it."""
        with _told_apart():
            with self.engine.begin() as connection:
                if alone:
                    connection.execute(_LOCK_TRANSACTION, {"key": lock_key("write", alone)})
                yield connection
                point("commit")
            point("committed")

    def purge(self, tables: Sequence[str]) -> Mapping[str, str]:
        """Repack these tables where they are small and free enough, and let the rest be reused."""
        with _told_apart():
            point("purge")
            repacked = [table for table in tables if self._repack(table)]
            point("purged")
        left = sorted(set(tables) - set(repacked))
        return {
            "tables": "repacked" if not left else f"repacked, but for {', '.join(left)}: rows freed",
            "log": "kept until recycled; what it holds opens with destroyed keys only",
        }

    def _repack(self, table: str) -> bool:
        with _told_apart(), self._each.connect() as connection:
            size = connection.scalar(sa.select(sa.func.pg_total_relation_size(table)))
            name = connection.dialect.identifier_preparer.quote(table)
            if int(size or 0) <= REPACK_BYTES:
                connection.execute(sa.text(f"SET lock_timeout = '{REPACK_LOCK_SECONDS}s'"))
                try:
                    connection.execute(sa.text(f"VACUUM FULL {name}"))
                    return True
                except sa.exc.OperationalError as error:
                    log.info("table in use, not repacked", table=table, error=type(error.orig).__name__)
                finally:
                    connection.execute(sa.text("RESET lock_timeout"))
            connection.execute(sa.text(f"VACUUM {name}"))
        return False

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


class AdvisoryFence:
    """The fence of several processes: session-level advisory locks, one connection a hold.

    PostgreSQL queues in order of arrival, so that a forget that waits is not overtaken by new readers.
    A hold goes with its connection: a process that ends lets go of all of its own.
    """

    def __init__(self, url: sa.URL, *, connections: int = 64) -> None:
        self.engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_size=8,
            max_overflow=connections - 8,
            pool_timeout=POOL_SECONDS,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "lethe fence"},
        )
        self._held: dict[str, list[Connection]] = {}
        self._guard = threading.Lock()

    def acquire_shared(self, tenant_id: str, *, timeout_seconds: float = 30.0) -> None:
        """Wait until no forget holds or awaits the fence; ``UnavailableError`` after the timeout."""
        connection = self._take(
            _LOCK_SHARED, tenant_id, timeout_seconds, "a forget request is being fenced; try again"
        )
        with self._guard:
            self._held.setdefault(tenant_id, []).append(connection)

    def release_shared(self, tenant_id: str) -> None:
        """Give one shared hold back."""
        with self._guard:
            connection = self._held[tenant_id].pop()
        self._release(connection, _UNLOCK_SHARED, tenant_id)

    @contextmanager
    def exclusive(self, tenant_id: str, *, timeout_seconds: float = 60.0) -> Iterator[None]:
        """Hold the fence alone; ``UnavailableError`` when readers do not finish in time."""
        connection = self._take(
            _LOCK, tenant_id, timeout_seconds, "readers did not finish in time for the fence"
        )
        try:
            yield
        finally:
            self._release(connection, _UNLOCK, tenant_id)

    def _take(self, statement: sa.TextClause, tenant_id: str, seconds: float, late: str) -> Connection:
        with _told_apart():
            connection = self.engine.connect()
            try:
                connection.execute(
                    statement,
                    {"key": lock_key("fence", tenant_id), "timeout": f"{max(1, round(seconds * 1000))}ms"},
                )
            except sa.exc.OperationalError as error:
                connection.invalidate()
                connection.close()
                if _state(error) == LOCK_NOT_AVAILABLE:
                    raise UnavailableError(late) from error
                raise
        return connection

    def _release(self, connection: Connection, statement: sa.TextClause, tenant_id: str) -> None:
        """Unlock; a connection that is lost has let go already."""
        try:
            connection.execute(statement, {"key": lock_key("fence", tenant_id)})
        except sa.exc.DBAPIError as error:
            log.error("the connection that held the fence was lost", error=type(error.orig).__name__)
            connection.invalidate()
        finally:
            connection.close()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


LOCK_NOT_AVAILABLE = "55P03"

_LOCK_TRANSACTION = sa.text("SELECT pg_advisory_xact_lock(:key)")
_LOCK = sa.text("SELECT set_config('lock_timeout', :timeout, false), pg_advisory_lock(:key)")
_LOCK_SHARED = sa.text("SELECT set_config('lock_timeout', :timeout, false), pg_advisory_lock_shared(:key)")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(:key)")
_UNLOCK_SHARED = sa.text("SELECT pg_advisory_unlock_shared(:key)")


def _await_commits(connection: Any, _record: object) -> None:
    """Have commits wait for the log: a server that is told not to would lose what was acknowledged."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def lock_key(purpose: str, name: str) -> int:
    """Return the 64-bit key of an advisory lock."""
    digest = hashlib.sha256(f"lethe {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _state(error: sa.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


@contextmanager
def _told_apart() -> Iterator[None]:
    """Raise ``UnavailableError`` where the server is away, full, too busy or ended the transaction."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        said = str(error.orig).strip().partition("\n")[0] or type(error.orig).__name__
        raise UnavailableError(f"the database cannot be used now: {said}") from error
    except sa.exc.TimeoutError as error:
        raise UnavailableError("the database is too busy: no connection came free in time") from error
