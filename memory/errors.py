"""Every error Lethe raises on purpose.

A family says what a caller may do about it; a leaf carries data, not prose.
Nothing here knows HTTP: ``api/problems.py`` maps families to statuses.
"""

from __future__ import annotations

import math


class LetheError(Exception):
    """Root of all errors raised on purpose."""


class NotFoundError(LetheError):
    """What was asked for does not exist, or is not the caller's to see."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind
        self.name = name


class ConflictError(LetheError):
    """The request contradicts what is there now."""


class InvalidInputError(LetheError):
    """The input cannot be used; ``where`` names the field, page or line."""

    def __init__(self, what: str, *, where: str | None = None) -> None:
        super().__init__(what if where is None else f"{where}: {what}")
        self.what = what
        self.where = where


class UnsupportedMediaError(InvalidInputError):
    """No parser takes this media type."""

    def __init__(self, media_type: str, supported: tuple[str, ...]) -> None:
        super().__init__(f"cannot read media type {media_type!r}; supported are {', '.join(supported)}")
        self.media_type = media_type
        self.supported = supported


class NothingToReadError(InvalidInputError):
    """It can be read, and there is no word in it: refused as a document, and silence in a stream."""


class DimensionMismatchError(InvalidInputError):
    """A vector does not fit the space it was offered to."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"expected vectors of {expected} dimensions, got {got}")
        self.expected = expected
        self.got = got


class ForbiddenError(LetheError):
    """The key is missing, unknown, or lacks the role."""


class UnavailableError(LetheError):
    """Something needed cannot be reached now; the only family that is retried."""


class BusyError(UnavailableError):
    """More is asked than can be done; there may be room after so many seconds."""

    def __init__(self, what: str, *, retry_in_seconds: float) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_in_seconds))
        super().__init__(f"{what}; try again in {self.retry_after_seconds} s")


class LeftError(LetheError):
    """Whoever asked has gone: nobody waits for what was to come."""

    def __init__(self) -> None:
        super().__init__("whoever asked has gone")


class CorruptionError(LetheError):
    """Stored bytes are not what was written, or not what was promised."""


class DigestMismatchError(CorruptionError):
    """A file's sha256 differs from the one expected."""

    def __init__(self, name: str, expected: str, got: str) -> None:
        super().__init__(f"{name}: expected sha256 {expected}, got {got}")
        self.name = name
        self.expected = expected
        self.got = got


class ForgottenError(LetheError):
    """The content was forgotten; its keys are gone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was forgotten")
        self.name = name
