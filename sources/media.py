"""The sound of a video or audio file as a speech model takes it, and what can be taken out of such files.

Nothing here opens a file: ``sources/tracks.py`` does.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 16_000
"""Samples a second."""
SAMPLE_BYTES = 2
MAX_HOURS = 4
"""Of sound in one file: 460 MB of samples, which is what fits one message of the guard."""
MAX_SAMPLES = MAX_HOURS * 3600 * RATE


@dataclass(frozen=True, slots=True)
class Audio:
    """One channel of sound: ``samples`` are int16, little endian, ``RATE`` a second.

    Sample ``n`` is heard at ``n / 16`` ms of the file's clock; where the file is silent or could not be read,
    the samples are zeros. ``title`` is the container's own.
    """

    samples: bytes
    duration_ms: int
    title: str | None = None
    warnings: tuple[str, ...] = ()


def make_audio(samples: bytes, title: str | None = None, warnings: tuple[str, ...] = ()) -> Audio:
    """Return sound that lasts as long as its samples do."""
    return Audio(samples, len(samples) * 1000 // (RATE * SAMPLE_BYTES), title, warnings)


MAX_SIDE = 1_280
"""Of a picture that is taken out of a video, in pixels, unless told."""
Span = tuple[int, int]
"""From and until in milliseconds, half-open."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A file without some of its spans, all else at its old times.

    ``gone`` are the spans in which something is missing now, in order: those that were to go, and what could
    not stay without them.
    """

    body: bytes
    media_type: str
    gone: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """An excerpt that plays from 0; it is what the file holds from ``start_ms`` to ``end_ms``."""

    body: bytes
    media_type: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG, upright and with square pixels, of what is shown from ``at_ms`` on."""

    body: bytes
    at_ms: int
    width: int
    height: int
