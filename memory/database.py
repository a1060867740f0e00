"""The port to one SQL database: read and write transactions, and the removal of freed bytes.

``connect`` chooses the backend by the URL. Nothing here knows the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from memory.errors import InvalidInputError
from memory.postgres import PostgresDatabase
from memory.sqlite import SqliteDatabase

CHUNK = 500
"""Ids in one IN list; SQLite's default limit is 32,766 variables, PostgreSQL's 65,535."""

Value = TypeVar("Value")


class Database(Protocol):
    """A pool of connections to one database.

    All of it raises ``UnavailableError`` when the database cannot be reached, written or waited for.
    """

    url: sa.URL
    engine: Engine
    is_shared: bool
    """Whether several processes may use it at once."""

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and changes nothing."""

    def write(self, *, alone: str = "") -> AbstractContextManager[Connection]:
        """A transaction that commits when the block ends and rolls back when it raises.

        Of those that write ``alone`` under one name, in any process, one goes after the other, and each
        sees what the one before it committed.
        """

    def purge(self, tables: Sequence[str]) -> Mapping[str, str]:
        """Remove the bytes of rows deleted from these tables; return how far that goes, by medium."""

    def close(self) -> None:
        """Close every pooled connection."""


def connect(url: str) -> Database:
    """Open a database; ``InvalidInputError`` for a URL of no backend that Lethe has."""
    try:
        backend = sa.make_url(url).get_backend_name()
    except sa.exc.ArgumentError as error:
        raise InvalidInputError("no database URL; one looks like postgresql://user@host/name") from error
    if backend == "sqlite":
        return SqliteDatabase(url)
    if backend == "postgresql":
        return PostgresDatabase(url)
    raise InvalidInputError(f"no database backend {backend!r}; there are sqlite and postgresql")


def chunked(values: Sequence[Value], size: int = CHUNK) -> Iterator[Sequence[Value]]:
    """Yield the values in runs short enough for one IN list."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
