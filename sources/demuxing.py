"""Containers of moving pictures and sound, opened and read packet by packet on one clock.

Together with the files that import it the only user of FFmpeg (by PyAV). Bytes stay in memory, and only the
containers and codecs named here are opened, so that no playlist and no reference to another file is followed.
Nothing here decodes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from memory.errors import InvalidInputError
from sources.writer import one_line

_CONTAINERS = "mov,matroska,mpegts,mp3,wav,flac,ogg"
_PCM = "u8 s8 s16be s16le s24be s24le s32be s32le f32be f32le f64be f64le alaw mulaw"
SOUNDS = frozenset(
    (
        *("aac", "aac_latm", "ac3", "alac", "eac3", "flac", "libopus", "opus", "vorbis"),
        *("mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *(f"pcm_{each}" for each in _PCM.split()),
    )
)
PICTURES = frozenset(
    (
        *("h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mjpeg", "theora"),
        *("mpeg1video", "mpeg2video"),
    )
)
"""FFmpeg's names of the decoders that may be used."""
MAX_PIXELS = 50_000_000
"""A larger picture is not decoded."""
_OWN_CLOCKS = ("mpegts", "ogg")
"""Containers whose first time stamp may be anything, and means the beginning."""

MAX_INTERRUPTIONS = 100
"""So often reading goes on behind a place where the container is damaged."""
SHORTFALL_MS = 2_000
SHORTFALL_PART = 100
"""A file that ends so much, and this part, before the length it tells of is said to be cut off."""


@contextmanager
def open_container(body: bytes | BinaryIO, decoders: frozenset[str] = SOUNDS) -> Iterator[InputContainer]:
    """Open a file, or its bytes; only these decoders may look at what is in it.

    Raises ``InvalidInputError`` when it is none of the containers, or damaged where it says what it holds.
    """
    try:
        container = av.open(
            io.BytesIO(body) if isinstance(body, bytes) else body,
            "r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "format_whitelist": _CONTAINERS,
                "codec_whitelist": ",".join(sorted(decoders)),
                "protocol_whitelist": "none",
            },
            metadata_errors="replace",
            buffer_size=65_536,
        )
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise InvalidInputError(
            "this is no MP4, MOV, MKV, WebM, MPEG-TS, MP3, WAV, FLAC or Ogg file, or it is damaged or cut "
            "off where it says what it holds"
        ) from error
    with container:
        yield container


class Reading:
    """One way through a container: its packets, and how far it got."""

    def __init__(self, container: InputContainer) -> None:
        own_clock = container.format.name in _OWN_CLOCKS
        self._origin = (container.start_time or 0) if own_clock else 0
        self._container = container
        self._reached_ms = 0
        self._broken = False

    def packets(self) -> Iterator[Packet[Stream]]:
        """Yield all packets, those behind damaged places, too."""
        for _ in range(MAX_INTERRUPTIONS):
            try:
                for packet in self._container.demux():
                    if packet.pts is not None:
                        self._broken = False
                        self._reached_ms = max(self._reached_ms, self.times(packet)[1])
                    yield packet
                return
            except IndexError:
                # The end, in PyAV's words, of a file that turned out to have more tracks than it told of.
                return
            except MemoryError:
                raise
            except av.FFmpegError:
                self._broken = True

    def times(self, packet: Packet[Stream]) -> tuple[int, int]:
        """Return when a packet begins and ends, in milliseconds.

        Both are the same when its length is not told.
        """
        pts = packet.pts or 0
        start = self.count(pts, packet.time_base, 1000)
        return max(0, start), max(0, start, self.count(pts + (packet.duration or 0), packet.time_base, 1000))

    def count(self, pts: int, base: Fraction, per_second: int) -> int:
        """Return how many of so many units a second lie between the file's beginning and a time stamp."""
        # In integers: a film has half a million packets.
        return (
            pts * base.numerator * per_second // base.denominator - self._origin * per_second // av.time_base
        )

    @property
    def reached_ms(self) -> int:
        """Until when anything lasts that was read so far."""
        return self._reached_ms

    @property
    def origin_us(self) -> int:
        """Where on the container's own clock the file begins, in microseconds."""
        return self._origin * 1_000_000 // av.time_base

    def warnings(self) -> Iterator[str]:
        """Yield what to say of the end, if it came early."""
        told = (self._container.duration or 0) * 1000 // av.time_base
        short = told - self._reached_ms > max(SHORTFALL_MS, told // SHORTFALL_PART)
        if self._broken or short:
            length = f"; it says that it lasts {told / 1000:.1f} s" if short else ""
            reached = self._reached_ms / 1000
            yield f"nothing could be read from second {reached:.1f} on{length}: is it cut off?"


def codec_of(stream: Stream) -> str | None:
    """Return the name of what decodes a stream, ``None`` where nothing does."""
    context = stream.codec_context
    return None if context is None else context.name


def preference(stream: Stream) -> tuple[bool, bool, int]:
    """Return a key that sorts the default track first and forced ones last."""
    forced, default = (bool(stream.disposition & each) for each in (Disposition.forced, Disposition.default))
    return forced, not default, stream.index


def title_of(container: InputContainer) -> str | None:
    """Return the title that the container tells of."""
    told = container.metadata.get("title", "")
    if not told and container.format.name == "ogg" and container.streams:
        told = container.streams[0].metadata.get("title", "")  # Ogg has tags of its streams only
    return one_line(told) or None
