"""Alembic migrations of the two databases: ``data`` (versions/) and ``keys`` (key_versions/)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

Plane = Literal["data", "keys"]
VERSION_FOLDERS: dict[Plane, str] = {"data": "versions", "keys": "key_versions"}


def make_config(plane: Plane, engine: Engine | None = None) -> Config:
    """Return an Alembic configuration that works on this engine; no ini file is needed."""
    folder = Path(__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("version_locations", str(folder / VERSION_FOLDERS[plane]))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    config.attributes["plane"] = plane
    return config


@cache
def _scripts(plane: Plane) -> ScriptDirectory:
    """Return this release's revisions, read once."""
    return ScriptDirectory.from_config(make_config(plane))


def upgrade(plane: Plane, engine: Engine, revision: str = "head") -> None:
    """Bring a database to a revision; nothing happens when it is there already."""
    command.upgrade(make_config(plane, engine), revision)


def downgrade(plane: Plane, engine: Engine, revision: str) -> None:
    """Take a database back to an older revision."""
    command.downgrade(make_config(plane, engine), revision)


def get_revisions(plane: Plane, engine: Engine) -> tuple[str | None, str | None]:
    """Return (the database's revision, the newest revision)."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, _scripts(plane).get_current_head()


def is_known(plane: Plane, revision: str | None) -> bool:
    """Say whether a database's revision is one of this release's, or none yet."""
    return revision is None or revision in {script.revision for script in _scripts(plane).walk_revisions()}
