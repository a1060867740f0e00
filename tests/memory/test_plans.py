"""Reading a few rows by id must not read the tenant's whole table."""

from __future__ import annotations

import sqlalchemy as sa

from memory.database import connect
from memory.tables import artifacts, denied, edges, entries, metadata

IDS = [f"{number:032x}" for number in range(200)]


def test_rows_are_looked_up_by_their_keys(tmp_path):
    database = connect(f"sqlite:///{tmp_path / 'plans.db'}")
    metadata.create_all(database.engine)
    queries = {
        "entries": sa.select(entries).where(entries.c.tenant_id == "t", entries.c.id.in_(IDS)),
        "artifacts": sa.select(artifacts).where(artifacts.c.name.in_(IDS), artifacts.c.tenant_id == "t"),
        "edges": sa.select(edges).where(edges.c.input.in_(IDS), edges.c.tenant_id == "t"),
        "denied": sa.select(denied).where(denied.c.tenant_id == "t", denied.c.entry_id.in_(IDS)),
    }
    wanted = {"entries": "id=?", "artifacts": "name=?", "edges": "input=?", "denied": "entry_id=?"}
    with database.read() as connection:
        for table, query in queries.items():
            compiled = query.compile(dialect=database.engine.dialect, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
            assert all(wanted[table] in str(row) for row in plan), (table, plan)
    database.close()
