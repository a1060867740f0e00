"""Images as stills: PNG, JPEG, WebP, GIF (its first picture), BMP and TIFF (its first page).

Decoded by FFmpeg (by PyAV): the demuxer is chosen by the first bytes, and only these decoders may run.
"""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from memory.errors import InvalidInputError
from sources.demuxing import MAX_PIXELS
from sources.picture import check_size, matrix_of
from sources.scaling import fit, turn
from sources.stills import MAX_IMAGE_SIDE, Looked, Still

_DEMUXERS = (
    (b"\x89PNG\r\n\x1a\n", "png_pipe"),
    (b"\xff\xd8\xff", "jpeg_pipe"),
    (b"GIF8", "gif"),
    (b"BM", "bmp_pipe"),
    (b"II*\x00", "tiff_pipe"),
    (b"MM\x00*", "tiff_pipe"),
)
_DECODERS = "png,mjpeg,webp,gif,bmp,tiff"
_LIGHT = 160
"""Letters lighter than this, on a ground that is not there, are taken to be meant for a dark one."""
_UNREADABLE = "this is no PNG, JPEG, WebP, GIF, BMP or TIFF image, or it is damaged"


def look_at_image(body: bytes) -> Looked:
    """Return the image as it is meant to be seen; raises ``InvalidInputError`` when it cannot be read."""
    frame = _decode(body, _find_demuxer(body))
    scaled = VideoReformatter().reformat(
        frame, *fit(frame.width, frame.height, MAX_IMAGE_SIDE), "rgba", interpolation="AREA", threads=1
    )
    pixels = turn(_on_ground(np.asarray(scaled.to_ndarray(), np.uint8)), matrix_of(frame))
    height, width = pixels.shape[:2]
    return Looked((Still(width, height, pixels.tobytes()),))


def _find_demuxer(body: bytes) -> str:
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "webp_pipe"
    found = next((name for start, name in _DEMUXERS if body.startswith(start)), None)
    if found is None:
        raise InvalidInputError(_UNREADABLE)
    return found


def _decode(body: bytes, demuxer: str) -> VideoFrame:
    limits = {"max_pixels": str(MAX_PIXELS)}
    allowed = {"format_whitelist": demuxer, "codec_whitelist": _DECODERS, "protocol_whitelist": "none"}
    try:
        with av.open(
            io.BytesIO(body), "r", format=demuxer, options=limits, container_options=allowed
        ) as container:
            stream = container.streams.video[0]
            check_size(stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            frame = next(iter(container.decode(stream)))
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, IndexError, StopIteration) as error:
        raise InvalidInputError(_UNREADABLE) from error
    check_size(frame.width, frame.height)
    return frame


def _on_ground(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return colours without transparency: on white, or on black where what is to be seen is light."""
    colours, cover = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
    if cover.min() == 255:
        return pixels[:, :, :3]
    seen = colours[cover[:, :, 0] > 127]
    ground = 0 if seen.size and seen.mean() > _LIGHT else 255
    return ((colours * cover + ground * (255 - cover)) // 255).astype(np.uint8)
