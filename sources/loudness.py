"""How loud a recording is from moment to moment, so that it can be cut where nobody speaks.

Sound is decoded one packet at a time and only its loudness is kept. Nothing here knows of containers.
"""

from __future__ import annotations

import math

import numpy as np
from av.audio.frame import AudioFrame

WINDOW_US = 50_000
REACH_WINDOWS = 4
"""So many windows before and after a moment count as around it: 0.2 s, as long as a pause between words."""

SILENT = -100


class Loudness:
    """The mean square of each window of 50 ms, full scale being 1; windows without sound are silent."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def add(self, frame: AudioFrame, start_us: int) -> None:
        """Take in a decoded frame that is heard from ``start_us`` on."""
        count, rate = frame.samples, frame.sample_rate
        if count <= 0 or rate <= 0:
            return
        squares = _squares(frame)[:count]
        windows = (start_us + np.arange(len(squares), dtype=np.int64) * 1_000_000 // rate) // WINDOW_US
        first = int(windows[0])
        sums = np.bincount(windows - first, weights=squares)
        counts = np.bincount(windows - first)
        for window, (total, number) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True), first):
            self._sums[window] = self._sums.get(window, 0.0) + total
            self._counts[window] = self._counts.get(window, 0) + number

    def around(self, at_us: int) -> int:
        """Return how loud it is around a moment, in whole decibels of full scale; ``SILENT`` for nothing."""
        middle = at_us // WINDOW_US
        windows = range(middle - REACH_WINDOWS, middle + REACH_WINDOWS + 1)
        total = sum(self._sums.get(window, 0.0) for window in windows)
        count = sum(self._counts.get(window, 0) for window in windows)
        power = total / count if count else 0.0
        return max(SILENT, round(10 * math.log10(power))) if power > 0 else SILENT

    def forget_before(self, at_us: int) -> None:
        """Let go of what was heard before a moment."""
        first = at_us // WINDOW_US - REACH_WINDOWS
        for window in [window for window in self._sums if window < first]:
            del self._sums[window], self._counts[window]


def _squares(frame: AudioFrame) -> np.ndarray:
    """Return the mean over the channels of each sample's square, (samples,)."""
    array = frame.to_ndarray()
    kind, channels = array.dtype, max(1, frame.layout.nb_channels)
    samples = array.astype(np.float64)
    if kind.kind == "u":
        samples -= 128
    if kind.kind in "iu":
        samples /= 2.0 ** (8 * kind.itemsize - 1)
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    squares: np.ndarray = np.nan_to_num(samples**2).mean(axis=0)
    return squares
