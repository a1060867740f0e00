"""Which pictures of a film to keep: those that differ from the last one kept, once they stand still.

Small grey pictures are compared tile by tile, so that a caption over a scene that stays the same is a change.
Nothing here decodes anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
"""Shape (rows, columns), both multiples of ``TILE``."""

TILE = 8
GREY_SIDE = 320
"""The longer side of a small grey picture, about: a line of small text is a few pixels high."""
DIFFERENT = 10.0
"""Grey levels by which a tile differs from another on average; what a codec makes of one scene is below."""
CUT_SHARE = 0.4
"""When so many tiles change from one picture to the next, another scene has begun."""
STILL_MS = 200
"""A picture stands still when it has not changed for so long; behind a cut it is not waited for longer."""
PATIENCE_MS = 1500
"""A picture that goes on moving is kept after so long."""
BLANK_LEVELS = 24
"""A picture whose grey levels lie so close together shows nothing that could be read."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture to keep: it shows what is to be seen from ``at_ms`` on."""

    at_ms: int
    blank: bool


class Changes:
    """Is shown the pictures of a film in order, and says which to keep."""

    def __init__(self) -> None:
        self._kept: Grey | None = None
        self._recent: deque[tuple[int, Grey]] = deque()
        self._changed_at: int | None = None
        self._cut_at: int | None = None
        self._moved = False

    def see(self, at_ms: int, until_ms: int | None, grey: Grey) -> Kept | None:
        """Say whether to keep what is shown from ``at_ms`` until the next picture, ``None`` at the end."""
        still_ms, still_since = self._notice(at_ms, until_ms, grey)
        if self._kept is None:
            return self._keep(at_ms, grey)
        if not _differ(self._kept, grey).any():
            self._changed_at = self._cut_at = None
            self._moved = False
            return None
        if self._changed_at is None:
            self._changed_at = at_ms
        ends_ms = at_ms if until_ms is None else until_ms
        if self._cut_at is not None and (until_ms is None or ends_ms - self._cut_at >= STILL_MS):
            return self._keep(self._cut_at, grey)
        if self._moved and still_ms >= STILL_MS:
            return self._keep(max(still_since, self._changed_at), grey)
        if until_ms is None or ends_ms - self._changed_at >= PATIENCE_MS:
            return self._keep(at_ms, grey)
        return None

    def _notice(self, at_ms: int, until_ms: int | None, grey: Grey) -> tuple[int, int]:
        """Return for how long the picture has stood still, and since when; note a new scene."""
        ends_ms = at_ms if until_ms is None else until_ms
        if self._recent and _differ(self._recent[-1][1], grey).mean() >= CUT_SHARE:
            self._cut_at = at_ms
            self._recent.clear()
        self._recent.append((at_ms, grey))
        while len(self._recent) > 1 and ends_ms - self._recent[1][0] >= STILL_MS:
            self._recent.popleft()
        # What moves slowly differs from what was seen a moment ago, not from the picture before.
        since, before = self._recent[0]
        if _differ(before, grey).any():
            self._moved = True
            return 0, at_ms
        return ends_ms - since, since

    def _keep(self, since_ms: int, grey: Grey) -> Kept:
        self._kept = grey
        self._changed_at = self._cut_at = None
        self._moved = False
        return Kept(since_ms, bool(int(grey.max()) - int(grey.min()) < BLANK_LEVELS))


def measure_grey(width: int, height: int) -> tuple[int, int]:
    """Return columns and rows of the small grey picture of one that is so large."""
    scale = min(1.0, GREY_SIDE / max(width, height))
    columns, rows = (max(TILE, round(side * scale / TILE) * TILE) for side in (width, height))
    return columns, rows


def _differ(one: Grey, other: Grey) -> npt.NDArray[np.bool_]:
    """Return which tiles differ, shape (rows / TILE, columns / TILE)."""
    if one.shape != other.shape:
        return np.ones((1, 1), np.bool_)
    apart = np.maximum(one, other) - np.minimum(one, other)
    rows, columns = apart.shape
    tiles = apart.reshape(rows // TILE, TILE, columns // TILE, TILE).mean((1, 3), dtype=np.float32)
    different: npt.NDArray[np.bool_] = tiles >= DIFFERENT
    return different
