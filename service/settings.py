"""Settings: from arguments, else the environment (``LETHE_…``), else defaults that need no server.

Only ``service.wiring`` and the command line read them.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_data_folder() -> Path:
    """Return the folder the XDG base directory specification names for a user's data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "lethe"


def default_models_cache() -> Path:
    """Return the folder the XDG base directory specification names for what can be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lethe" / "models"


class Settings(BaseSettings):
    """Everything that may differ between two installations."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", extra="ignore")

    data: Path = Field(default_factory=default_data_folder)
    database_url: str | None = Field(
        default=None, description="SQL database; default: lethe.db in the data folder"
    )
    keys_url: str | None = Field(
        default=None, description="key database, never in a backup; default: keys.db in the data folder"
    )
    root_key_file: Path | None = Field(
        default=None, description="32 bytes that wrap all keys; default: root.key in the data folder"
    )
    broker_url: str | None = Field(
        default=None, description="Redis or Valkey; default: an embedded Valkey on a socket"
    )
    embedder: str = "all-minilm-l6-v2"
    reader: str = "qwen2.5-coder-0.5b-instruct"
    models_cache: Path = Field(default_factory=default_models_cache)
    engine_url: str | None = Field(
        default=None, description="where an engine holds the models; default: this process does"
    )
    engine_key_file: Path | None = Field(
        default=None, description="the key that the engine asks for, the same file content on both sides"
    )
    engine_port: int = 8710
    host: str = "127.0.0.1"
    port: int = 8700
    max_body_bytes: int = 32 * 1024 * 1024
    worker_threads: int = 2
    torch_threads: int | None = Field(
        default=None, description="CPU threads of the models; default: torch's own choice"
    )
    hierarchy: bool = Field(
        default=True, description="whether recall descends through sections, sources and topics"
    )
    log_level: str = "INFO"

    @property
    def resolved_database_url(self) -> str:
        """The database URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.data / 'lethe.db'}"

    @property
    def resolved_keys_url(self) -> str:
        """The key database's URL, with the default filled in."""
        return self.keys_url or f"sqlite:///{self.data / 'keys.db'}"
