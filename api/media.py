"""The media type of an uploaded file: what the client said, or else what the file itself shows."""

from __future__ import annotations

from pathlib import PurePosixPath

from sources.media_types import EXTENSIONS, guess_media_type

UNTOLD = frozenset({"", "application/octet-stream", "text/plain"})
"""What clients say when they do not know; a telling name or beginning is believed before these."""

UNREAD = frozenset({"application/msword", "application/vnd.ms-powerpoint"})
"""Known by name, so that the refusal can say what they are, and not read."""


def media_type_of_file(said: str | None, filename: str | None, body: bytes) -> str:
    """Return the media type to parse the file as, without parameters."""
    stated = (said or "").split(";")[0].strip().lower()
    if stated not in UNTOLD:
        return stated
    guessed = guess_media_type(filename, body)
    told_by_name = PurePosixPath(filename or "").suffix.lower() in EXTENSIONS
    # Words that are said to be plain text are, unless the name says more.
    return stated if stated == "text/plain" and not told_by_name and guessed.startswith("text/") else guessed


def is_readable_name(filename: str) -> bool:
    """Say whether a file's name promises a type that Lethe reads."""
    media_type = EXTENSIONS.get(PurePosixPath(filename).suffix.lower())
    return media_type is not None and media_type not in UNREAD
