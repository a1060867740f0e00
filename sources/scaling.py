"""Sizes and turns of pictures that are decoded. Nothing here decodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def fit(width: float, height: float, most: int) -> tuple[int, int]:
    """Return the size of a picture whose longer side is at most ``most`` pixels long."""
    part = min(1.0, most / max(width, height))
    return max(1, round(width * part)), max(1, round(height * part))


def turn(pixels: npt.NDArray[np.uint8], matrix: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return pixels, (height, width, channels), turned and mirrored as a display matrix wants it."""
    a, b, c, d = matrix
    turned = abs(b) > abs(a)
    right, down = (c, b) if turned else (a, d)
    if turned:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])
