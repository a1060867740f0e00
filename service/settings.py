"""Settings: from arguments, else the environment (``LETHE_…``), else defaults that need no server.

Only ``service.wiring``, ``service.models`` and the command line read them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
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
    reader: str = Field(
        default="qwen2.5-coder-0.5b-instruct",
        description="a model's name, extractive, or openai: the server that reader_url names",
    )
    reader_large: str | None = Field(
        default=None, description="likewise; reads what the reader is not sure of; default: none does"
    )
    reader_kept: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="the share of a passage's keys and values that a reader of this machine keeps; 1: all",
    )
    reader_whole: int = Field(
        default=0,
        ge=0,
        description="so many of the best passages are read whole each time, and only the others remembered",
    )
    reader_blended: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="the share of what is remembered that is read again in its place; not with reader_kept",
    )
    reader_temperature: float = Field(
        default=1.0,
        gt=0,
        le=2,
        description="attention to what is remembered is divided by it; below 1: sharper",
    )
    reader_scale: float = Field(
        default=1.0, gt=0, le=2, description="weighs all that is remembered against question and answer"
    )
    reader_url: str | None = Field(
        default=None, description="where an OpenAI-compatible server listens, http://HOST:8000"
    )
    reader_model: str | None = Field(
        default=None, description="as that server names it; default: the only one it has"
    )
    reader_passages: int = Field(
        default=2, ge=1, le=64, description="a model is shown so many passages, at most; more cost more time"
    )
    reader_key: SecretStr | None = Field(default=None, description="the key it asks for; default: none")
    reader_draft: str | None = Field(
        default=None, description="a smaller model with the reader's tokenizer that guesses ahead for it"
    )
    reader_places: int = Field(
        default=8, ge=1, le=256, description="answers that a model of this process writes at once"
    )
    reader_waiting: int = Field(
        default=24, ge=0, description="answers that wait for a place; the next is refused (429)"
    )
    reader_pass_tokens: int = Field(
        default=512, ge=32, description="tokens of prompts in a pass that others' next words wait for"
    )
    speech: str = Field(
        default="whisper-base",
        description="hears what is said in video and audio without captions: a model's name, hf: and a "
        "folder, or none; fetched for the first file that needs it",
    )
    screen_text: Literal["rapidocr", "none"] = Field(
        default="rapidocr", description="reads what is written in the pictures of a video, or none"
    )
    entailment: Literal["none", "alignment", "judge", "spans", "pairs"] = Field(
        default="none",
        description="what may reject a claim that the rules let pass: the embedder; the reader's own model, "
        "of 1.5 billion parameters or more; a Hugging Face token or pair classifier in entailment_folder",
    )
    entailment_folder: Path | None = Field(default=None, description="a classifier for spans or pairs")
    entailment_least: float | None = Field(
        default=None, gt=0, lt=1, description="the score from which a quote carries a claim; default: its own"
    )
    models_cache: Path = Field(default_factory=default_models_cache)
    vectors: Literal["files", "cuda", "milvus"] = Field(
        default="files", description="where saved vectors are searched; files hold them in any case"
    )
    milvus_address: str | None = Field(
        default=None, description="where Milvus listens, http://HOST:19530; needs lethe[milvus]"
    )
    milvus_token: str = Field(default="", description="user:password or a key; default: it asks for none")
    milvus_prefix: str = Field(
        default="lethe",
        max_length=32,
        pattern="^[A-Za-z][A-Za-z0-9]*$",
        description="how the names of this installation's collections begin; no other may have the same",
    )
    milvus_index: Literal["FLAT", "HNSW"] = Field(
        default="FLAT", description="FLAT compares every row; HNSW is for more than a million"
    )
    milvus_garbage_seconds: float = Field(
        default=14_400,
        ge=0,
        description="what Milvus is set to, for certificates: dataCoord.gc.interval plus dropTolerance",
    )
    milvus_log_seconds: float = Field(
        default=259_200,
        ge=0,
        description="how long its message log is set to keep, for certificates; 0: by size alone, or unknown",
    )
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
    trusted_proxies: str = Field(
        default="",
        description="addresses and networks, by commas, whose X-Forwarded-For and -Proto are believed",
    )
    rate_read_per_second: float | None = Field(
        default=None, gt=0, description="requests a key may make that change nothing; default: no limit"
    )
    rate_write_per_second: float | None = Field(
        default=None, gt=0, description="remembering, forgetting and administration; default: no limit"
    )
    rate_answer_per_second: float | None = Field(
        default=None, gt=0, description="answers a key may ask for; default: no limit"
    )
    rate_burst_seconds: float = Field(
        default=5.0, gt=0, description="a rate may be exceeded by what this many seconds bring"
    )
    failed_keys_per_minute: float = Field(
        default=30.0, ge=0, description="unknown keys an address may try; 0: no limit"
    )
    worker_threads: int = 2
    parse_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="processor time a document may take to read, besides 2 s for every MiB of it; "
        "by the clock twice that",
    )
    parse_memory_bytes: int = Field(
        default=2 * 1024**3, ge=256 * 1024**2, description="address space of a process that reads documents"
    )
    parse_processes: int = Field(
        default=2, ge=1, le=256, description="processes that read documents, at most; begun when needed"
    )
    drain_seconds: float = Field(
        default=0, ge=0, description="how long requests are served after SIGTERM, while /readyz says 503"
    )
    stop_seconds: float = Field(
        default=30, ge=0, description="how long running jobs may take to finish; then they are given back"
    )
    kv_device_bytes: int | None = Field(
        default=None,
        ge=0,
        description="memory of the reader's device for what it computed of passages and uses again, in each "
        "process that reads; default: 1 GiB on a CUDA device, else 0",
    )
    kv_ram_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="memory for what the reader computed of passages, in each process that reads; 0: none",
    )
    kv_disk_bytes: int = Field(
        default=1 << 30, ge=0, description="the same on disk, sealed, of all processes together; 0: none"
    )
    torch_threads: int | None = Field(
        default=None, description="CPU threads of the models; default: torch's own choice"
    )
    hierarchy: bool = Field(default=True, description="whether what stands around a passage counts in recall")
    otel_endpoint: str | None = Field(
        default=None, description="where to send traces (OTLP over HTTP); needs lethe[otel]; default: nowhere"
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
