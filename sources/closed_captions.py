"""Closed captions (CEA-608 and 708) that lie inside coded pictures, and how they are taken out.

They stand in units of their own, beside those of the picture: supplemental information of H.264 and HEVC,
user data of MPEG-2. Nothing here knows FFmpeg.
"""

from __future__ import annotations

from collections.abc import Iterator

_MARK = b"GA94"
"""What ATSC A/53 begins them with."""
_INFORMATION = {"h264": (6,), "hevc": (39, 40)}
"""Kinds of units of supplemental information."""
_START = b"\0\0\1"
_USER_DATA = _START + b"\xb2"


def has_captions(codec: str, data: bytes) -> bool:
    """Say whether a packet of pictures may hold any."""
    if codec == "mpeg2video":
        return _USER_DATA in data
    return codec in _INFORMATION and _MARK in data


def without_captions(codec: str, header: bytes, data: bytes) -> bytes:
    """Return a packet without the units that may hold captions.

    ``header`` is the codec's, as containers keep it; it says whether a unit's length stands before it, or a
    mark. Of a damaged packet what is no unit falls away.
    """
    if codec != "mpeg2video" and header[:1] == b"\1":
        at = 4 if codec == "h264" else 21
        size = (header[at] & 3) + 1 if len(header) > at else 4
        return b"".join(
            len(unit).to_bytes(size, "big") + unit
            for unit in _by_lengths(data, size)
            if not _is_captioned(codec, unit)
        )
    first, *units = data.split(_START)
    return first + b"".join(_START + unit for unit in units if not _is_captioned(codec, unit))


def _is_captioned(codec: str, unit: bytes) -> bool:
    if codec == "mpeg2video" or not unit:
        return unit[:1] == b"\xb2"
    kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
    return kind in _INFORMATION[codec] and _MARK in unit


def _by_lengths(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        if length and at + size + length <= len(data):
            yield data[at + size : at + size + length]
        at += size + length
