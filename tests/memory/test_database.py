"""The database: one writer, steady reads, and no freed byte left after a purge."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from memory.database import Database, chunked, connect
from memory.errors import InvalidInputError, UnavailableError
from tests.conftest import BACKENDS
from tests.postgres import Server

NUMBERS = sa.Table(
    "numbers", sa.MetaData(), sa.Column("value", sa.Integer), sa.Column("said", sa.LargeBinary)
)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    opened = connect(f"sqlite:///{tmp_path / 'x.db'}")
    NUMBERS.metadata.create_all(opened.engine)
    yield opened
    opened.close()


@pytest.fixture(params=BACKENDS)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database() as url:
        opened = connect(url)
        NUMBERS.metadata.create_all(opened.engine)
        yield opened
        opened.close()


def total(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(NUMBERS.c.value), 0))) or 0)


def test_writers_take_turns(database: Database) -> None:
    """Each reads what it then changes: without turns, some of these would be lost or refused."""
    with database.write() as connection:
        connection.execute(NUMBERS.insert().values(value=0))

    def count() -> None:
        for _ in range(25):
            with database.write(alone="count") as connection:
                now = total(connection)
                connection.execute(NUMBERS.update().values(value=now + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert total(connection) == 100


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(NUMBERS.insert().values(value=1))
        raise ZeroDivisionError
    with database.read() as connection:
        assert total(connection) == 0
    with database.write() as connection:
        connection.execute(NUMBERS.insert().values(value=2))


def test_a_read_sees_one_state_to_its_end(database: Database) -> None:
    with database.read() as before:
        assert total(before) == 0
        with database.write() as connection:
            connection.execute(NUMBERS.insert().values(value=1))
        assert total(before) == 0
    with database.read() as after:
        assert total(after) == 1


def test_commits_wait_for_the_log_although_the_server_is_told_not_to(postgres: Server) -> None:
    with postgres.database() as url:
        engine = sa.create_engine(sa.make_url(url))
        with engine.begin() as connection:
            name = connection.scalar(sa.text("SELECT current_database()"))
            connection.execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        engine.dispose()
        database = connect(url)
        with database.write() as connection:
            assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"
        with database.read() as connection:
            assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"
        database.close()


def test_commits_are_on_disk_in_full(sqlite: Database) -> None:
    """WAL with FULL synchronisation: what was acknowledged survives the loss of power."""
    with sqlite.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}


def test_a_purge_leaves_no_deleted_byte_in_any_file(sqlite: Database, tmp_path: Path) -> None:
    database = sqlite
    secret = b"Mara Lindqvist is allergic to penicillin. " * 200
    with database.write() as connection:
        connection.execute(NUMBERS.insert().values(value=1, said=secret))
        connection.execute(NUMBERS.insert().values(value=2, said=b"the ferry stays"))
    with database.write() as connection:
        connection.execute(NUMBERS.delete().where(NUMBERS.c.value == 1))
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"penicillin" in stored  # the control: it does stay in the log until it is purged

    assert database.purge(["numbers"]) == {"tables": "overwritten", "log": "truncated"}

    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"penicillin" not in stored
    assert b"the ferry stays" in stored
    with database.read() as connection:
        assert total(connection) == 2


def test_a_purge_says_when_readers_hold_the_log(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.sqlite.BUSY_TIMEOUT_SECONDS", 0)
    impatient = connect(f"sqlite:///{tmp_path / 'x.db'}")
    with impatient.write() as connection:
        connection.execute(NUMBERS.insert().values(value=1))
    reader = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM numbers").fetchall()

    with pytest.raises(UnavailableError):
        impatient.purge(["numbers"])

    reader.close()
    impatient.purge(["numbers"])
    impatient.close()


def test_a_repacked_table_is_smaller_and_a_table_in_use_is_left(postgres: Server) -> None:
    """PostgreSQL: freed rows go with the old file; while others read, they stay, and that is said."""
    with postgres.database() as url:
        database = connect(url)
        NUMBERS.metadata.create_all(database.engine)
        size = sa.select(sa.func.pg_total_relation_size("numbers"))
        with database.write() as connection:
            rows = [{"value": n, "said": secrets.token_bytes(1_000)} for n in range(500)]
            connection.execute(NUMBERS.insert(), rows)
        with database.write() as connection:
            connection.execute(NUMBERS.delete().where(NUMBERS.c.value > 0))
        with database.read() as connection:
            before = connection.scalar(size)
        with database.read() as connection:
            assert total(connection) == 0
            with pytest.MonkeyPatch.context() as quick:
                quick.setattr("memory.postgres.REPACK_LOCK_SECONDS", 1)
                assert "but for numbers" in database.purge(["numbers"])["tables"]
        assert database.purge(["numbers"])["tables"] == "repacked"
        with database.read() as connection:
            assert connection.scalar(size) < before / 10
        database.close()


def test_a_server_that_is_away_is_unavailable_and_says_so() -> None:
    nowhere = connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="database cannot be used now"), nowhere.read():
        pass
    nowhere.close()


def test_a_lost_connection_ends_the_transaction_and_the_next_one_works(postgres: Server) -> None:
    with postgres.database() as url:
        database = connect(url)
        NUMBERS.metadata.create_all(database.engine)
        with pytest.raises(UnavailableError), database.write() as connection:
            connection.execute(NUMBERS.insert().values(value=1))
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            with database.read() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            connection.execute(NUMBERS.insert().values(value=2))
        with database.read() as connection:
            assert total(connection) == 0
        database.close()


def test_other_backends_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="mysql"):
        connect("mysql://x/y")


def test_chunks_cover_everything_once() -> None:
    values = list(range(1_203))
    chunks = list(chunked(values))
    assert [len(chunk) for chunk in chunks] == [500, 500, 203]
    assert [value for chunk in chunks for value in chunk] == values
    assert list(chunked([])) == []
