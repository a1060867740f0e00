"""Write packets of one container into another as they are: nothing is decoded, nothing is encoded.

What was written is read back, and is refused where a packet is missing or is not shown at its time.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import av
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from memory.errors import InvalidInputError
from sources.closed_captions import has_captions, without_captions
from sources.demuxing import PICTURES, SOUNDS, Reading, codec_of, open_container, title_of
from sources.media_types import M4A, MKA, MKV, MP4, WEBM
from sources.sparing import Sample, Track

MAX_TRACKS = 64
SECOND_US = 1_000_000
MAX_BACK_US = 10 * SECOND_US
MAX_AHEAD_US = 3600 * SECOND_US
"""A track whose time stamps jump farther has begun its clock anew. Pictures come in the order of decoding."""
DECODERS = SOUNDS | PICTURES
"""Some containers do not tell the size of their pictures: one is decoded for that when a file is opened."""
_ROUNDING_US = 1_000
"""Matroska counts milliseconds."""
_TAGS = ("title", "artist", "album", "album_artist", "date", "creation_time", "genre", "copyright")
"""What is kept of a file's tags. Others may hold its words: descriptions, comments, the text of a song."""
TRACK_TAGS = ("language", "title")
WRITING = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
"""The same packets give the same bytes, and times are not moved."""


def read_tracks(body: bytes) -> dict[int, Track]:
    """Return the tracks of pictures, sound and captions by their numbers in the file.

    Raises ``InvalidInputError`` when the file cannot be read, or times in it mean nothing.
    """
    with open_container(body, DECODERS) as container:
        streams = _list_kept(container)
        samples: dict[int, list[Sample]] = {stream.index: [] for stream in streams}
        for number, packet, start in _iter_packets(container):
            base = packet.time_base
            length = (packet.duration or 0) * base.numerator * SECOND_US // base.denominator
            longest = _longest(packet.stream)
            length = max(0, length if longest is None else min(length, longest))
            samples[number].append(Sample(start, length, packet.is_keyframe, packet.size))
        tracks = {
            stream.index: Track(stream.type, codec_of(stream) or "", samples[stream.index])  # type: ignore[arg-type]
            for stream in streams
        }
    for track in tracks.values():
        _check_clock(track)
    return tracks


def choose_forms(body: bytes, *, playable: bool = False) -> tuple[str, ...]:
    """Return which containers to try, by FFmpeg's names; what times can be kept in, or what browsers play."""
    with open_container(body, DECODERS) as container:
        name = container.format.name
    if "matroska" in name:
        return ("webm", "matroska") if b"webm" in body[:64] else ("matroska",)
    return ("mp4", "matroska") if playable or "mp4" in name else ("matroska",)


def write(
    body: bytes, stays: Mapping[int, Sequence[bool]], form: str, *, shift_us: int = 0
) -> tuple[bytes, str] | None:
    """Return the file with those packets of each track that stay, so much later, and its media type.

    ``None`` when a container of this form cannot hold them at their times.
    """
    out = io.BytesIO()
    try:
        with (
            open_container(body, DECODERS) as container,
            av.open(out, "w", format=form, options=WRITING) as writer,
        ):
            copied = _Copying(container, writer, stays, shift_us)
            copied.run()
        written = out.getvalue()
        if not _holds(written, copied.starts):
            return None
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, InvalidInputError):
        return None
    types = {"mp4": (M4A, MP4), "matroska": (MKA, MKV), "webm": (WEBM, WEBM)}
    return written, types[form][copied.pictured]


class _Copying:
    """One way through a container, into another. ``starts`` are the times of what each new track holds."""

    def __init__(
        self,
        container: InputContainer,
        writer: OutputContainer,
        stays: Mapping[int, Sequence[bool]],
        shift_us: int,
    ) -> None:
        self.starts: list[list[int]] = []
        self.pictured = False
        self._container = container
        self._writer = writer
        self._stays = stays
        self._shift_us = shift_us
        # Matroska has no time of decoding, but what writes it wants one that never goes back.
        self._undated = writer.format.name in ("matroska", "webm")
        self._made = {
            stream.index: self._add(stream)
            for stream in _list_kept(container)
            if any(stays.get(stream.index, ()))
        }
        self._decoded: dict[int, int] = {}
        writer.metadata.update({key: container.metadata[key] for key in _TAGS if key in container.metadata})
        if title := title_of(container):
            writer.metadata["title"] = title

    def run(self) -> None:
        """Write what stays."""
        reading = Reading(self._container)
        counts: Counter[int] = Counter()
        for number, packet, start in _iter_packets(self._container, reading):
            at = counts[number]
            counts[number] += 1
            if number not in self._made or not self._stays[number][at] or start is None:
                continue
            if is_empty(packet):
                continue
            made, is_bared = self._made[number]
            bared = bare(packet) if is_bared else _uncaptioned(packet)
            self._set_times(bared, number, self._shift_us - reading.origin_us)
            self.starts[made.index].append(start + self._shift_us)
            bared.stream = made
            self._writer.mux_one(bared)

    def _add(self, stream: Stream) -> tuple[Stream, bool]:
        """Return the new track, and whether its captions are to be bare text."""
        is_bared = self._undated and codec_of(stream) == "mov_text"
        if is_bared:
            made = self._writer.add_mux_stream("subrip")
            made.time_base = stream.time_base
        else:
            made = self._writer.add_stream_from_template(stream, opaque=True)
        made.disposition = stream.disposition
        context = made.codec_context
        if not is_bared and context is not None:
            # A sum over all that the file held; what writes it counts anew.
            context.bit_rate = 0
        if codec_of(stream) == "flac" and context is not None:
            context.extradata = _without_sums(context.extradata or b"")
        for key in TRACK_TAGS:
            if key in stream.metadata:
                made.metadata[key] = stream.metadata[key]
        self.starts.append([])
        self.pictured |= stream.type == "video"
        return made, is_bared

    def _set_times(self, packet: Packet[Stream], number: int, shift_us: int) -> None:
        base = packet.time_base
        shift = round(shift_us * base.denominator / (base.numerator * SECOND_US))
        shown = (packet.pts or 0) + shift
        decoded = None if packet.dts is None else packet.dts + shift
        if self._undated:
            before = self._decoded.get(number, min(0, shown))
            decoded = min(shown, before if decoded is None else max(before, decoded))
            self._decoded[number] = decoded
        packet.pts, packet.dts = shown, decoded


def _list_kept(container: InputContainer) -> list[Stream]:
    """Return the tracks that may stay: no cover, which may show a picture of the film, and no chapters."""
    found = [
        stream
        for stream in container.streams
        if stream.type in ("video", "audio", "subtitle")
        and codec_of(stream) is not None
        and not stream.disposition & Disposition.attached_pic
        and stream.discard != Discard.all
    ]
    if len(found) > MAX_TRACKS:
        raise InvalidInputError(f"it has {len(found)} tracks, more than {MAX_TRACKS}")
    return found


def _longest(stream: Stream) -> int | None:
    """Return how long a packet of sound may last, if its codec tells; in MP4 it seems to last for a gap."""
    context = stream.codec_context
    if not isinstance(context, AudioCodecContext) or not context.frame_size or not context.sample_rate:
        return None
    # Twice as long as told, for one that doubles its rate (HE-AAC) may tell half of it.
    return 2 * context.frame_size * SECOND_US // context.sample_rate


def _iter_packets(
    container: InputContainer, reading: Reading | None = None
) -> Iterator[tuple[int, Packet[Stream], int | None]]:
    """Yield the packets of tracks that may stay: the track's number, the packet, its time in microseconds."""
    reading = reading or Reading(container)
    kept = {stream.index for stream in _list_kept(container)}
    for packet in reading.packets():
        # One without bytes flushes a decoder, and has the number 0, whatever stream it belongs to.
        if packet.size and packet.stream.index in kept:
            told = packet.pts
            start = None if told is None else reading.count(told, packet.time_base, SECOND_US)
            yield packet.stream.index, packet, start


def _check_clock(track: Track) -> None:
    """Raise ``InvalidInputError`` when times of a track jump: nobody could say what lies in a span."""
    reached: int | None = None
    for sample in track.samples:
        if sample.start is None or track.kind == "subtitle":
            continue
        back = MAX_BACK_US if track.kind == "video" else SECOND_US
        if reached is not None and not -back <= sample.start - reached <= MAX_AHEAD_US:
            seconds = reached / SECOND_US
            raise InvalidInputError(
                f"its clock begins anew after second {seconds:.1f}, so that no part of it can be told by its "
                "time; it can only be kept or forgotten whole"
            )
        reached = sample.start


def _holds(written: bytes, expected: Sequence[Sequence[int]]) -> bool:
    """Say whether every packet is there, at its time."""
    found: list[list[int | None]] = [[] for _ in expected]
    with open_container(written, DECODERS) as container:
        if len(container.streams) != len(expected):
            return False
        for number, packet, start in _iter_packets(container):
            if not is_empty(packet):
                found[number].append(start)
    return all(
        len(times) == len(starts)
        and all(
            time is not None and abs(time - start) <= _ROUNDING_US
            for time, start in zip(times, starts, strict=True)
        )
        for times, starts in zip(found, expected, strict=True)
    )


def is_empty(packet: Packet[Stream]) -> bool:
    """Say whether it is a caption without text, which MP4 has wherever there is none."""
    return codec_of(packet.stream) == "mov_text" and packet.size >= 2 and bytes(packet)[:2] == b"\0\0"


def bare(packet: Packet[Stream]) -> Packet[Stream]:
    """Return the text of a caption of MP4, which is its length, itself, and boxes of styles."""
    data = bytes(packet)
    return _with_bytes(packet, data[2 : 2 + int.from_bytes(data[:2], "big")])


def _uncaptioned(packet: Packet[Stream]) -> Packet[Stream]:
    """Return it without closed captions: those of a time lie in pictures seconds before it, too."""
    codec, data = codec_of(packet.stream) or "", bytes(packet)
    if not has_captions(codec, data):
        return packet
    context = packet.stream.codec_context
    return _with_bytes(packet, without_captions(codec, bytes(context.extradata or b""), data))


def _with_bytes(packet: Packet[Stream], data: bytes) -> Packet[Stream]:
    made: Packet[Stream] = Packet(data)
    made.time_base, made.pts, made.dts = packet.time_base, packet.pts, packet.dts
    made.duration, made.is_keyframe = packet.duration, packet.is_keyframe
    return made


def _without_sums(header: bytes) -> bytes:
    """Return FLAC's description of a stream without its length and the MD5 of all its sound: not told."""
    if len(header) < 34:
        return header
    return header[:4] + bytes(6) + header[10:13] + bytes((header[13] & 0xF0,)) + bytes(20) + header[34:]
