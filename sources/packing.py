"""Packets of a recording are written into files of their own, each with a clock that begins with it.

Nothing is decoded or encoded, and the same packets give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from memory.errors import InvalidInputError
from sources.demuxing import codec_of
from sources.media_types import M4A, MKA, MKV, MP4
from sources.remuxing import TRACK_TAGS, WRITING, bare

_TYPES = {"mp4": (M4A, MP4), "matroska": (MKA, MKV)}


@dataclass(frozen=True, slots=True)
class Held:
    """A packet and when it is seen or heard, in microseconds of the recording's clock.

    ``pts`` and ``dts`` are its container's own stamps, and ``shift_us`` is what makes those the
    recording's.
    """

    packet: Packet[Stream]
    start_us: int
    end_us: int
    pts: int
    dts: int | None
    base: Fraction
    shift_us: int

    @property
    def track(self) -> int:
        """The number of its track."""
        return self.packet.stream.index


class Packer:
    """Writes segments of one recording: as MP4 where ``forms`` begins with that and it can be."""

    def __init__(self, forms: Sequence[str], tracks: Sequence[Stream]) -> None:
        self._forms = list(forms)
        self._tracks = tracks

    def pack(self, held: Sequence[Held], origin_us: int) -> tuple[bytes, str]:
        """Return a file in which ``origin_us`` is 0, and its media type.

        Raises ``InvalidInputError`` when no container takes the packets.
        """
        failure: Exception | None = None
        for form in list(self._forms):
            try:
                return self._write(form, held, origin_us)
            except MemoryError:
                raise
            except (av.FFmpegError, ValueError) as error:
                failure = error
        raise InvalidInputError(f"a part of it cannot be written: {failure}") from failure

    def _write(self, form: str, held: Sequence[Held], origin_us: int) -> tuple[bytes, str]:
        out = io.BytesIO()
        used = {one.track for one in held}
        with av.open(out, "w", format=form, options=WRITING) as writer:
            made = {
                stream.index: _add(writer, stream, form) for stream in self._tracks if stream.index in used
            }
            reached: dict[int, int] = {}
            for one in held:
                stream = made[one.track]
                is_bared = form == "matroska" and codec_of(one.packet.stream) == "mov_text"
                _set_times(one, one.packet, origin_us, reached, undated=form == "matroska")
                packet = bare(one.packet) if is_bared else one.packet
                source, packet.stream = one.packet.stream, stream
                try:
                    writer.mux_one(packet)
                finally:
                    packet.stream = source  # it may have to be written once more
        pictured = any(stream.type == "video" for stream in self._tracks if stream.index in used)
        return out.getvalue(), _TYPES[form][pictured]


def _add(writer: OutputContainer, stream: Stream, form: str) -> Stream:
    made: Stream
    if form == "matroska" and codec_of(stream) == "mov_text":
        made = writer.add_mux_stream("subrip")
        made.time_base = stream.time_base
    else:
        made = writer.add_stream_from_template(stream, opaque=True)
    made.disposition = stream.disposition
    for key in TRACK_TAGS:
        if key in stream.metadata:
            made.metadata[key] = stream.metadata[key]
    return made


def _set_times(
    one: Held, packet: Packet[Stream], origin_us: int, reached: dict[int, int], *, undated: bool
) -> None:
    """Set the stamps of a packet to those of the file that it is to stand in.

    Times of decoding never go back there; Matroska keeps none, but what writes it wants them.
    """
    base, before = one.base, reached.get(one.track)
    shift = round((one.shift_us - origin_us) * base.denominator / (base.numerator * 1_000_000))
    shown, decoded = one.pts + shift, None if one.dts is None else one.dts + shift
    if packet.stream.type == "subtitle" and shown < 0:
        shown = decoded = 0  # it came late in the file, and is to be read all the same
    if undated:
        least = min(0, shown) if before is None else before
        decoded = least if decoded is None else max(least, min(shown, decoded))
    elif decoded is not None and before is not None:
        decoded = max(before + 1, decoded)
    if decoded is not None:
        reached[one.track] = decoded
        shown = max(shown, decoded)
    packet.time_base = base
    packet.pts, packet.dts = shown, decoded
