"""Run by Alembic: migrate the engine that ``migrations.make_config`` put into the configuration."""

import sqlalchemy as sa
from alembic import context

from memory.postgres import lock_key
from memory.tables import key_metadata, metadata

config = context.config
target = {"data": metadata, "keys": key_metadata}[config.attributes["plane"]]

with config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=target, render_as_batch=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Processes that start at once take turns; the later ones find nothing left to do.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock_key("migrations", ""))))
        context.run_migrations()
