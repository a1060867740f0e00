"""Decoded frames of sound, of any rate and any number of channels, become one row of samples on one clock."""

from __future__ import annotations

import io

from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from memory.errors import InvalidInputError
from sources.media import MAX_HOURS, MAX_SAMPLES, RATE, SAMPLE_BYTES

TOLERANCE = RATE * 50 // 1000
"""Time stamps are rounded, and clocks drift: frames follow one another without a seam within 50 ms."""
MAX_GAP = RATE * 3600
MAX_OVERLAP = RATE
"""A clock that jumps farther has begun anew; what is heard goes on then."""


class Sound:
    """Collects frames in their order. Sample ``n`` is heard at ``n / 16`` ms; gaps are silence."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._samples = io.BytesIO()
        self._length = 0
        self._skip = 0
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._begun = 0
        self._fed = 0
        self._shift = 0
        self._jumps = 0

    def add(self, frame: AudioFrame, at: int | None) -> None:
        """Append a frame that is heard from sample ``at`` on, or right after the last when that is not known.

        Raises ``InvalidInputError`` when it gets too long or cannot be converted.
        """
        if frame.samples <= 0 or frame.sample_rate <= 0:
            return
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        reached = self._reached()
        drift = 0 if at is None else at + self._shift - reached
        if drift > MAX_GAP or drift < -MAX_OVERLAP:
            self._shift -= drift
            self._jumps += 1
            drift = 0
        if kind != self._kind or abs(drift) > TOLERANCE:
            self._end(reached)
            if drift > 0:
                self._write(bytes(0), silence=drift)
            self._skip = max(0, -drift)
            self._begun, self._fed = reached + drift, 0
            self._kind = kind
            self._resampler = AudioResampler("s16", "mono", RATE)
        frame.pts = None
        self._fed += frame.samples
        self._resample(frame)

    def finish(self) -> bytes:
        """Return all samples: int16, little endian."""
        self._end(self._reached())
        if self._jumps:
            self.warnings.append(
                f"its clock jumps {self._jumps} times; from there on times count from where it was"
            )
        return self._samples.getvalue()

    def _reached(self) -> int:
        """Return up to which sample there is sound, what the resampler still holds included."""
        return self._begun + (0 if self._kind is None else self._fed * RATE // self._kind[2])

    def _end(self, reached: int) -> None:
        """Take what the resampler still holds; what rounding left is silence, or is cut."""
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None
        if self._length < reached:
            self._write(bytes(0), silence=reached - self._length)
        elif self._length > reached:
            self._samples.seek(max(0, reached) * SAMPLE_BYTES)
            self._samples.truncate()
            self._length = max(0, reached)

    def _resample(self, frame: AudioFrame | None) -> None:
        assert self._resampler is not None
        for made in self._resampler.resample(frame):
            data = bytes(made.planes[0])[: made.samples * SAMPLE_BYTES]
            skipped = min(self._skip, made.samples)
            self._skip -= skipped
            self._write(data[skipped * SAMPLE_BYTES :])

    def _write(self, data: bytes, *, silence: int = 0) -> None:
        self._length += silence + len(data) // SAMPLE_BYTES
        if self._length > MAX_SAMPLES:
            raise InvalidInputError(f"it holds more than {MAX_HOURS} hours of sound; send it in parts")
        self._samples.write(bytes(silence * SAMPLE_BYTES))
        self._samples.write(data)
