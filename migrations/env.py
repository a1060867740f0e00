"""Run by Alembic: migrate the engine that ``migrations.make_config`` put into the configuration."""

from alembic import context

from memory.tables import key_metadata, metadata

config = context.config
target = {"data": metadata, "keys": key_metadata}[config.attributes["plane"]]

with config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=target, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
