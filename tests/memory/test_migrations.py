"""Migrated databases equal the tables in code, and go down again."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from memory.database import Database, connect
from memory.errors import ConflictError
from memory.tables import api_keys, key_metadata, metadata
from migrations import Plane, downgrade, get_revisions, upgrade
from service.settings import Settings
from service.wiring import upgrade_database
from tests.conftest import BACKENDS
from tests.postgres import Server

METADATA = {"data": metadata, "keys": key_metadata}


@pytest.fixture(params=["data", "keys"])
def plane(request: pytest.FixtureRequest) -> Plane:
    chosen: Plane = request.param
    return chosen


@pytest.fixture(params=BACKENDS)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Opens empty databases of one backend."""
    with ExitStack() as stack:

        def make() -> Database:
            if request.param == "sqlite":
                url = f"sqlite:///{tmp_path / secrets.token_hex(4)}.db"
            else:
                url = stack.enter_context(request.getfixturevalue("postgres").database())
            opened = connect(url)
            stack.callback(opened.close)
            return opened

        yield make


@pytest.fixture
def database(empty: Callable[[], Database]) -> Database:
    return empty()


def differ(database: Database, plane: Plane) -> list[object]:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, METADATA[plane]))


def list_schema(engine: sa.Engine) -> set[tuple[str, str]]:
    """Return each table and index with its columns, as the database has them."""
    inspector = sa.inspect(engine)
    found: set[tuple[str, str]] = set()
    for table in set(inspector.get_table_names()) - {"alembic_version"}:
        for column in inspector.get_columns(table):
            found.add((table, f"{column['name']} {column['type']} {column['nullable']}"))
        found.add((table, f"{inspector.get_pk_constraint(table)}"))
        found |= {
            (table, f"{index['name']} {index['column_names']}") for index in inspector.get_indexes(table)
        }
        found |= {(table, f"{unique}") for unique in inspector.get_unique_constraints(table)}
    return found


def test_a_migrated_schema_equals_the_tables_in_code(
    database: Database, plane: Plane, empty: Callable[[], Database]
) -> None:
    assert differ(database, plane), "the control: an empty database does differ"
    upgrade(plane, database.engine)
    assert differ(database, plane) == []
    fresh = empty()
    METADATA[plane].create_all(fresh.engine)
    assert list_schema(database.engine) == list_schema(fresh.engine)


def test_upgrading_again_changes_nothing(database: Database, plane: Plane) -> None:
    assert get_revisions(plane, database.engine)[0] is None
    upgrade(plane, database.engine)
    before = list_schema(database.engine)
    upgrade(plane, database.engine)
    current, newest = get_revisions(plane, database.engine)
    assert current == newest is not None
    assert list_schema(database.engine) == before


def test_what_was_upgraded_can_be_taken_back_and_upgraded_again(database: Database, plane: Plane) -> None:
    upgrade(plane, database.engine)
    downgrade(plane, database.engine, "base")
    assert list_schema(database.engine) == set()
    assert get_revisions(plane, database.engine)[0] is None
    upgrade(plane, database.engine)
    assert differ(database, plane) == []


def test_processes_that_start_at_once_migrate_once(plane: Plane, postgres: Server) -> None:
    code = (
        "import sys; from memory.database import connect; from migrations import upgrade; "
        "upgrade(sys.argv[1], connect(sys.argv[2]).engine)"
    )
    with postgres.database() as url:
        command = [sys.executable, "-c", code, plane, url]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
        told = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], told
        database = connect(url)
        assert differ(database, plane) == []
        database.close()


def test_what_a_newer_release_has_changed_is_refused_and_left_alone(plane: Plane, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    upgrade_database(settings)
    url = {"data": settings.resolved_database_url, "keys": settings.resolved_keys_url}[plane]
    database = connect(url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="newer release"):
        upgrade_database(settings)
    assert get_revisions(plane, database.engine)[0] == "9999"
    database.close()


def test_keys_made_before_they_could_end_are_kept_and_named(database: Database) -> None:
    """From 0001: digests, tenants, roles and times stay as they were; each key gets an id of its own."""
    upgrade("data", database.engine, "0001")
    old = [
        {"digest": letter * 64, "tenant_id": "default", "roles": "admin read", "created_us": 7}
        for letter in "abc"
    ]
    table = sa.table("api_keys", *map(sa.column, old[0]))
    with database.write() as connection:
        connection.execute(table.insert(), old)

    upgrade("data", database.engine)

    with database.read() as connection:
        rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.digest)).all()
    assert [{name: getattr(row, name) for name in old[0]} for row in rows] == old
    assert len({row.id for row in rows}) == 3
    assert all((row.expires_us, row.revoked_us, row.replaced_by) == (None, None, None) for row in rows)


def test_going_back_brings_no_key_to_life(database: Database) -> None:
    """0001 knows no end of keys: one that has an end is deleted, the others stay."""
    upgrade("data", database.engine)
    key = {"tenant_id": "default", "name": "n", "roles": "read", "created_us": 7}
    ends = {"lasting": {}, "revoked": {"revoked_us": 8}, "expiring": {"expires_us": 9}}
    with database.write() as connection:
        for name, end in ends.items():
            connection.execute(api_keys.insert().values(digest=name, id=name, **key, **end))

    downgrade("data", database.engine, "0001")

    with database.read() as connection:
        assert connection.scalars(sa.text("SELECT digest FROM api_keys")).all() == ["lasting"]
