"""Films and pictures drawn on the spot: cards of text, captions over scenes that stand still or move."""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import cv2
import numpy as np

RATE = 25
SIZE = (320, 180)


def draw_scene(seed: int, size: tuple[int, int] = SIZE, shift: int = 0) -> np.ndarray:
    """Return a picture, (height, width, 3), of soft patches; ``shift`` moves them to the left."""
    width, height = size
    patches = np.random.default_rng(seed).integers(40, 200, (4, 12, 3), dtype=np.uint8)
    wide = cv2.resize(patches, (width * 2, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.roll(wide, -shift, axis=1)[:, :width])


def write_text(picture: np.ndarray, *lines: str, top: int = 60, scale: float = 0.8) -> np.ndarray:
    """Return a copy with white lines of text on it, black around each letter."""
    drawn = picture.copy()
    for number, line in enumerate(lines):
        at = (12, round(top + number * 44 * scale))
        cv2.putText(drawn, line, at, cv2.FONT_HERSHEY_DUPLEX, scale, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.putText(drawn, line, at, cv2.FONT_HERSHEY_DUPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def draw_page(*lines: str, size: tuple[int, int] = (720, 240)) -> np.ndarray:
    """Return a picture, (height, width, 3), of dark lines of text on a light ground."""
    page = np.full((size[1], size[0], 3), 235, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(
            page, line, (30, 80 + 80 * number), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20, 20, 60), 2, cv2.LINE_AA
        )
    return page


def film(
    pictures: Iterable[np.ndarray],
    kind: str = "mp4",
    *,
    times_ms: Sequence[int] | None = None,
    turned: int = 0,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return a film of these pictures, 25 a second or at these times; ``turned`` degrees to be shown."""
    pictures = list(pictures)
    out = io.BytesIO()
    with av.open(out, "w", format={"mkv": "matroska"}.get(kind, kind)) as writer:
        video = writer.add_stream("libx264", rate=RATE, options={"threads": "1", **(options or {})})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        base = Fraction(1, RATE)
        if times_ms is not None:
            base = video.codec_context.time_base = Fraction(1, 1000)
        if turned:
            video.set_display_rotation(turned)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number if times_ms is None else times_ms[number], base
            writer.mux(video.encode(frame))
        writer.mux(video.encode())
    return out.getvalue()
