"""The sound of a video or audio file, as a speech model takes it.

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
