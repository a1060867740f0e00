"""One picture of a video, as a JPEG: decoded, scaled, and turned as it is meant to be seen.

One thread decodes, from the key frame before the time asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from memory.errors import InvalidInputError
from sources.demuxing import MAX_PIXELS, PICTURES, Reading, codec_of, open_container, preference
from sources.media import MAX_SIDE, Picture

MAX_DECODED_SIDE = 8_192
"""Of a picture that is decoded, in pixels."""
FIRST_MS = 1_000
"""So long before its first picture a video is taken to show it already."""
_STEPS_BACK_MS = (0, 2_000, 20_000)
"""So far before the time asked for a key frame is looked for; then the file is read from its beginning."""
_MAX_ASPECT = 8
"""Of one pixel; what tells of more has it wrong."""
_QUARTERS = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
"""Display matrices of pictures that are to be turned to the left by so many degrees."""
_DISPLAY_MATRIX = "DISPLAYMATRIX"
_FORMAT = "yuvj420p"
_JPEG = {"flags": "+qscale+bitexact", "global_quality": str(4 * 118), "threads": "1"}
"""The fourth best of 31 qualities, in FFmpeg's unit; the same picture gives the same bytes."""


def picture(body: bytes, at_ms: int, *, max_side: int = MAX_SIDE) -> Picture:
    """Return what is shown ``at_ms``, its longer side at most ``max_side`` pixels long.

    Raises ``InvalidInputError`` when the file cannot be read, or shows nothing then.
    """
    shown = _find(body, at_ms)
    if shown is None:
        raise InvalidInputError("none of its pictures can be decoded")
    if shown.over_ms is not None and at_ms >= shown.over_ms:
        raise InvalidInputError(f"it is over at {shown.over_ms} ms, before {at_ms} ms", where="at_ms")
    if shown.at_ms > at_ms + FIRST_MS:
        raise InvalidInputError(
            f"it shows nothing at {at_ms} ms; its first picture is at {shown.at_ms} ms", where="at_ms"
        )
    made = _turn(_scale(shown.frame, shown.aspect, max_side), shown.matrix)
    return Picture(_encode(made), max(0, shown.at_ms), made.width, made.height)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A decoded frame; ``over_ms`` is the end of the file where it is the last."""

    frame: VideoFrame
    at_ms: int
    over_ms: int | None
    aspect: Fraction

    @property
    def matrix(self) -> tuple[int, int, int, int]:
        """Return how it is to be turned and mirrored: FFmpeg's a, b, c, d."""
        return matrix_of(self.frame)


def _find(body: bytes, at_ms: int) -> _Shown | None:
    """Return the last frame shown at or before a time; the first where there is none before."""
    for step in _STEPS_BACK_MS:
        if at_ms > step:
            found = _decode_from(body, at_ms - step, at_ms)
            if found is not None:
                return found
    return _decode_from(body, None, at_ms)


def _decode_from(body: bytes, from_ms: int | None, at_ms: int) -> _Shown | None:
    """Decode from a key frame before ``from_ms``, or from the beginning, up to ``at_ms``.

    ``None`` when that is no key frame or comes after ``at_ms``, as of containers without an index.
    """
    with open_container(body, PICTURES) as container:
        stream = choose_track(container)
        reading = Reading(container)
        if from_ms is not None:
            try:
                container.seek(from_ms * 1_000 + reading.origin_us)
            except av.FFmpegError:
                return None
        found: _Shown | None = None
        over = True
        for frame in iter_frames(stream, reading, None if from_ms is None else at_ms):
            pts = frame.pts if frame.pts is not None else frame.dts
            # The last that a decoder gives out have no unit of time of their own.
            base = frame.time_base or stream.time_base
            if pts is None or base is None:
                continue
            shown_ms = reading.count(pts, base, 1_000)
            over = shown_ms <= at_ms
            if found is None or over:
                found = _Shown(frame, shown_ms, None, aspect_of(stream))
            if not over:
                break
        if found is None or not over:
            return found
        return _Shown(found.frame, found.at_ms, reading.reached_ms, found.aspect)


def iter_frames(stream: VideoStream, reading: Reading, key_ms: int | None) -> Iterator[VideoFrame]:
    """Yield what can be decoded in the order of display.

    With ``key_ms`` nothing, when the first packet is no key frame that is shown at or before that.
    """
    context = stream.codec_context
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    for packet in reading.packets():
        if packet.stream.index != stream.index or not packet.size:
            continue
        if key_ms is not None:
            if not packet.is_keyframe or packet.pts is None or reading.times(packet)[0] > key_ms:
                return
            key_ms = None
        yield from decode(context, packet)
    yield from decode(context, None)


def decode(context: VideoCodecContext, packet: Packet[Any] | None) -> Iterator[VideoFrame]:
    """Yield the sound frames of a packet; a damaged one has none."""
    try:
        frames = context.decode(packet)
    except MemoryError:
        raise
    except av.FFmpegError:
        return
    for frame in frames:
        if not frame.is_corrupt:
            check_size(frame.width, frame.height)
            yield frame


def choose_track(container: InputContainer) -> VideoStream:
    """Return the default track of pictures, else the first; no cover."""
    streams = [
        stream
        for stream in sorted(container.streams.video, key=preference)
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise InvalidInputError("there are no moving pictures in it")
    readable = [stream for stream in streams if codec_of(stream) in PICTURES]
    if not readable:
        kinds = ", ".join(sorted({codec_of(stream) or "unknown" for stream in streams}))
        raise InvalidInputError(
            f"its pictures are of a kind that is not read ({kinds}); convert it to H.264, VP9 or AV1"
        )
    check_size(readable[0].codec_context.width, readable[0].codec_context.height)
    return readable[0]


def check_size(width: int, height: int) -> None:
    """Raise ``InvalidInputError`` for pictures that are too large to decode."""
    if max(width, height) > MAX_DECODED_SIDE or width * height > MAX_PIXELS:
        raise InvalidInputError(
            f"its pictures of {width} x {height} pixels are too large: at most {MAX_DECODED_SIDE} a side and "
            f"{MAX_PIXELS} in all are read"
        )


def matrix_of(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return how a frame is to be turned and mirrored: FFmpeg's a, b, c, d."""
    try:
        told: Mapping[Any, Any] = frame.side_data
    except ValueError:
        # PyAV does not know side data of every kind, EXIF's for one; it knows the angle all the same.
        return _QUARTERS.get(frame.rotation % 360, _QUARTERS[0])
    if _DISPLAY_MATRIX not in told:
        return _QUARTERS[0]
    a, b, _, c, d = struct.unpack_from("=5i", bytes(told[_DISPLAY_MATRIX]))
    return (a, b, c, d)


def aspect_of(stream: VideoStream) -> Fraction:
    """Return how many times as wide as high a pixel is."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not Fraction(1, _MAX_ASPECT) <= aspect <= _MAX_ASPECT:
        return Fraction(1)
    return Fraction(aspect)


def _scale(frame: VideoFrame, aspect: Fraction, max_side: int) -> VideoFrame:
    """Return it with square pixels, none added but for that, and sides of an even number of them."""
    width, height = frame.width * max(Fraction(1), aspect), frame.height / min(Fraction(1), aspect)
    part = min(Fraction(1), max_side / max(width, height))
    return frame.reformat(
        max(2, round(width * part / 2) * 2),
        max(2, round(height * part / 2) * 2),
        _FORMAT,
        dst_colorspace="ITU601",
        dst_color_range="JPEG",
        threads=1,
    )


def _turn(frame: VideoFrame, matrix: Sequence[int]) -> VideoFrame:
    """Return it as the display matrix wants it, by quarter turns and mirrored where it says so."""
    a, b, c, d = matrix
    turned = abs(b) > abs(a)
    right, down = (c, b) if turned else (a, d)
    if not turned and right >= 0 and down >= 0:
        return frame
    width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    made = VideoFrame(width, height, _FORMAT)
    for plane, old in zip(made.planes, frame.planes, strict=True):
        data = bytes(old)
        size = old.line_size
        rows = [data[at * size : at * size + old.width] for at in range(old.height)]
        if turned:
            joined = b"".join(rows)
            rows = [joined[at :: old.width] for at in range(old.width)]
        rows = rows[:: -1 if down < 0 else 1]
        step = -1 if right < 0 else 1
        plane.update(b"".join(row[::step].ljust(plane.line_size, b"\0") for row in rows))
    return made


def _encode(frame: VideoFrame) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, _FORMAT
    context.time_base = Fraction(1, 25)
    context.options = dict(_JPEG)
    frame.pts = 0
    frame.time_base = context.time_base
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(map(bytes, packets))
