"""The database: one writer, steady reads, and no freed byte left after a purge."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from memory.database import Database, chunked
from memory.errors import UnavailableError

NUMBERS = sa.Table(
    "numbers", sa.MetaData(), sa.Column("value", sa.Integer), sa.Column("said", sa.LargeBinary)
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'x.db'}")
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
            with database.write() as connection:
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


def test_commits_are_on_disk_in_full(database: Database, tmp_path: Path) -> None:
    """WAL with FULL synchronisation: what was acknowledged survives the loss of power."""
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}


def test_a_purge_leaves_no_deleted_byte_in_any_file(database: Database, tmp_path: Path) -> None:
    secret = b"Mara Lindqvist is allergic to penicillin. " * 200
    with database.write() as connection:
        connection.execute(NUMBERS.insert().values(value=1, said=secret))
        connection.execute(NUMBERS.insert().values(value=2, said=b"the ferry stays"))
    with database.write() as connection:
        connection.execute(NUMBERS.delete().where(NUMBERS.c.value == 1))
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"penicillin" in stored  # the control: it does stay in the log until it is purged

    database.purge()

    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"penicillin" not in stored
    assert b"the ferry stays" in stored
    with database.read() as connection:
        assert total(connection) == 2


def test_a_purge_says_when_readers_hold_the_log(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.database.BUSY_TIMEOUT_SECONDS", 0)
    impatient = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with impatient.write() as connection:
        connection.execute(NUMBERS.insert().values(value=1))
    reader = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM numbers").fetchall()

    with pytest.raises(UnavailableError):
        impatient.purge()

    reader.close()
    impatient.purge()
    impatient.close()


def test_chunks_cover_everything_once() -> None:
    values = list(range(1_203))
    chunks = list(chunked(values))
    assert [len(chunk) for chunk in chunks] == [500, 500, 203]
    assert [value for chunk in chunks for value in chunk] == values
    assert list(chunked([])) == []
