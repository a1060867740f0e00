"""The media type of an uploaded file: what the client said, or else what its name says."""

from __future__ import annotations

from pathlib import PurePosixPath

BY_SUFFIX = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".htm": "text/html",
    ".html": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
"""Names whose types Lethe reads."""

UNTOLD = frozenset({"", "application/octet-stream", "text/plain"})
"""What clients say when they do not know; a telling file name is believed before these."""


def media_type_of_file(said: str | None, filename: str | None) -> str:
    """Return the media type to parse the file as, without parameters."""
    stated = (said or "").split(";")[0].strip().lower()
    if stated not in UNTOLD:
        return stated
    suffix = PurePosixPath(filename or "").suffix.lower()
    return BY_SUFFIX.get(suffix, stated or "application/octet-stream")


def is_readable_name(filename: str) -> bool:
    """Say whether a file's name promises a type that Lethe reads."""
    return PurePosixPath(filename).suffix.lower() in BY_SUFFIX
