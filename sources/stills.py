"""Stills, as text recognition takes them: of a film with their times, an image, pages of a scan.

Nothing here opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.values import Place

CHANNELS = 3
MAX_IMAGE_SIDE = 2000
"""Of an image or a page, in pixels: small print on a page can be read then."""
MAX_FILM_SIDE = 1280
MAX_STILLS = 256
MAX_BYTES = 192 * 1024 * 1024
"""Of pixels in one answer: 72 stills of a film of 1280 x 720."""


@dataclass(frozen=True, slots=True)
class Still:
    """``pixels`` are red, green and blue, a byte each, row by row from the top: ``width * height * 3``.

    ``place`` is from when until when it is shown, which page it is, or ``None`` for an image.
    """

    width: int
    height: int
    pixels: bytes
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """Some stills of a file, in order; ``rest`` is where to look on (a time, a page), ``None`` at its end."""

    stills: tuple[Still, ...]
    rest: int | None = None
    title: str | None = None
    warnings: tuple[str, ...] = ()
