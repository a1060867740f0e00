"""Video and audio files: their subtitle tracks as text, and their sound as samples.

The only importer of FFmpeg (by PyAV). Bytes stay in memory, one thread decodes, and only the containers and
codecs named here are opened, so that no playlist and no reference to another file is followed. Pictures
are never decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from memory.errors import InvalidInputError
from sources.captions import Cue, extract_cues, split_voices
from sources.media import RATE, Audio, make_audio
from sources.outline import Extracted
from sources.sound import Sound
from sources.writer import one_line

_CONTAINERS = "mov,matroska,mpegts,mp3,wav,flac,ogg"
_SUBTITLES = frozenset(("mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"))
_PCM = "u8 s8 s16be s16le s24be s24le s32be s32le f32be f32le f64be f64le alaw mulaw"
_SOUNDS = frozenset(
    (
        *("aac", "aac_latm", "ac3", "alac", "eac3", "flac", "libopus", "opus", "vorbis"),
        *("mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *(f"pcm_{each}" for each in _PCM.split()),
    )
)
_OPTIONS = {
    "format_whitelist": _CONTAINERS,
    "codec_whitelist": ",".join(sorted(_SOUNDS)),
    "protocol_whitelist": "none",
}
_OWN_CLOCKS = ("mpegts", "ogg")
"""Containers whose first time stamp may be anything, and means the beginning."""

MAX_INTERRUPTIONS = 100
"""So often reading goes on behind a place where the container is damaged."""
UNTOLD_MS = 5_000
"""How long a caption of no told length is shown, at most."""
SHORTFALL_MS = 2_000
SHORTFALL_PART = 100
"""A file that ends so much, and this part, before the length it tells of is said to be cut off."""


def find_captions(body: bytes) -> Extracted | None:
    """Return the text of the subtitle track, or ``None`` when none holds text.

    The default track is preferred, then the first; tracks of forced subtitles, which leave most unsaid, come
    last. Raises ``InvalidInputError`` when the file cannot be read.
    """
    with _open(body) as container:
        tracks = sorted(filter(_is_text, container.streams.subtitles), key=_preference)
        if not tracks:
            return None
        cues: dict[int, list[Cue]] = {track.index: [] for track in tracks}
        reading = _Reading(container)
        for packet in reading.packets():
            found = cues.get(packet.stream.index)
            if found is not None and packet.pts is not None:
                found.extend(_read_cues(packet, str(len(found) + 1), reading.times(packet)))
        track = next((track for track in tracks if cues[track.index]), None)
        if track is None:
            return None
        warnings = [*_told_choice(track, tracks, container), *_picture_tracks(container), *reading.warnings()]
        return extract_cues(_in_order(cues[track.index]), warnings, _title(container))


def read_sound(body: bytes) -> Audio:
    """Return the sound as far as it can be read; warnings say what cannot.

    Raises ``InvalidInputError`` when the file cannot be read or holds no sound, or too much of it.
    """
    with _open(body) as container:
        stream, warnings = _choose_sound(container)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        reading = _Reading(container)
        sound = Sound()
        damaged = 0
        for packet in reading.packets():
            # The packet that flushes the decoder has the number 0, whatever stream it belongs to.
            if packet.stream.index != stream.index:
                continue
            try:
                frames = stream.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                pts, base = frame.pts, frame.time_base
                sound.add(frame, None if pts is None or base is None else reading.count(pts, base, RATE))
        samples = sound.finish()
        if not samples:
            raise InvalidInputError(
                "the sound in it is damaged: none of it can be read" if damaged else "there is no sound in it"
            )
        if damaged:
            warnings.append(f"{damaged} damaged pieces of the sound were left out and are silence")
        warnings += [*sound.warnings, *_picture_tracks(container), *reading.warnings()]
        return make_audio(samples, _title(container), tuple(warnings))


@contextmanager
def _open(body: bytes) -> Iterator[InputContainer]:
    try:
        container = av.open(
            io.BytesIO(body), "r", container_options=_OPTIONS, metadata_errors="replace", buffer_size=65_536
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


class _Reading:
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

    def warnings(self) -> Iterator[str]:
        """Yield what to say of the end, if it came early."""
        told = (self._container.duration or 0) * 1000 // av.time_base
        short = told - self._reached_ms > max(SHORTFALL_MS, told // SHORTFALL_PART)
        if self._broken or short:
            length = f"; it says that it lasts {told / 1000:.1f} s" if short else ""
            reached = self._reached_ms / 1000
            yield f"nothing could be read from second {reached:.1f} on{length}: is it cut off?"


def _is_text(stream: Stream) -> bool:
    # A track of chapter titles is one of text that nobody is meant to see.
    return _codec(stream) in _SUBTITLES and stream.discard != Discard.all


def _preference(stream: Stream) -> tuple[bool, bool, int]:
    forced, default = (bool(stream.disposition & each) for each in (Disposition.forced, Disposition.default))
    return forced, not default, stream.index


def _codec(stream: Stream) -> str | None:
    """Return the name of what decodes a stream, ``None`` where nothing does."""
    context = stream.codec_context
    return None if context is None else context.name


def _name(stream: Stream) -> str:
    """Return what users call a track: its language and its title, or its number."""
    told = (stream.language, stream.metadata.get("title"))
    return one_line(" ".join(filter(None, told)))[:80] or f"number {stream.index}"


def _title(container: InputContainer) -> str | None:
    told = container.metadata.get("title", "")
    if not told and container.format.name == "ogg" and container.streams:
        told = container.streams[0].metadata.get("title", "")  # Ogg has tags of its streams only
    return one_line(told) or None


def _told_choice(track: Stream, tracks: Sequence[Stream], container: InputContainer) -> Iterator[str]:
    if container.streams.audio:
        yield f"its text is that of the subtitle track ({_name(track)}); its sound was not listened to"
    if others := [_name(other) for other in tracks if other is not track]:
        yield f"there are other subtitle tracks, which are not read: {', '.join(others[:20])}"


def _picture_tracks(container: InputContainer) -> Iterator[str]:
    if pictured := [_name(each) for each in container.streams.subtitles if _codec(each) not in _SUBTITLES]:
        yield f"subtitle tracks of pictures, or of an unknown kind, are not read: {', '.join(pictured[:20])}"


def _choose_sound(container: InputContainer) -> tuple[AudioStream, list[str]]:
    """Return the default track of sound, else the first, and what to say of others."""
    streams = sorted(container.streams.audio, key=_preference)
    readable = [stream for stream in streams if _codec(stream) in _SOUNDS]
    if not readable:
        kinds = ", ".join(sorted({_codec(stream) or "unknown" for stream in streams}))
        raise InvalidInputError(
            f"its sound is of a kind that is not read ({kinds}); convert it to AAC, MP3, Opus or FLAC"
            if streams
            else "there are neither captions nor sound in it"
        )
    others = [_name(stream) for stream in streams if stream is not readable[0]]
    told = f"other tracks of sound are not listened to: {', '.join(others[:20])}"
    return readable[0], [told] if others else []


def _in_order(cues: list[Cue]) -> list[Cue]:
    """Return cues by their times; what has no end lasts until the next begins."""
    ordered = sorted(cues, key=lambda cue: cue.start_ms)
    following = [*(cue.start_ms for cue in ordered[1:]), None]
    return [
        cue if cue.end_ms > cue.start_ms else replace(cue, end_ms=_until(cue.start_ms, after))
        for cue, after in zip(ordered, following, strict=True)
    ]


def _until(start: int, following: int | None) -> int:
    return start + UNTOLD_MS if following is None else min(following, start + UNTOLD_MS)


def _read_cues(packet: Packet[Stream], key: str, times: tuple[int, int]) -> Iterator[Cue]:
    """Yield the cues of one packet of a subtitle track, as its container holds it."""
    codec, data = _codec(packet.stream), bytes(packet)
    for told in _read_texts(codec, data):
        for cue in split_voices(key, *times, told.text):
            yield replace(cue, speaker=cue.speaker or told.speaker)


@dataclass(frozen=True, slots=True)
class _Told:
    text: str
    speaker: str | None = None


def _read_texts(codec: str | None, data: bytes) -> Iterator[_Told]:
    if codec == "mov_text":
        # 3GPP TS 26.245: the length of the text, the text, and boxes of styles.
        yield _Told(_text(data[2 : 2 + int.from_bytes(data[:2], "big")]))
    elif codec in ("ass", "ssa"):
        yield from _read_ass(_text(data))
    elif codec == "webvtt" and data[4:8] in (b"vttc", b"vtte", b"vttx"):
        yield from (_Told(_text(payload)) for payload in _payloads(data))
    else:
        yield _Told(_text(data))


def _read_ass(line: str) -> Iterator[_Told]:
    """Yield an event of Matroska's order: number, layer, style, name, three margins, effect, text."""
    fields = line.split(",", 8)
    if len(fields) == 9 and "\\p1" not in fields[8]:  # a drawing, given as its lines
        text = fields[8].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
        yield _Told(text, one_line(fields[3]) or None)


def _payloads(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of WebVTT in MP4 (ISO/IEC 14496-30): boxes of cues, in each a box of text."""
    while len(data) >= 8:
        size, kind = int.from_bytes(data[:4], "big"), data[4:8]
        if size < 8:
            return
        if kind == b"payl":
            yield data[8:size]
        elif kind == b"vttc":
            yield from _payloads(data[8:size])
        data = data[size:]


def _text(data: bytes) -> str:
    wide = data.startswith((b"\xfe\xff", b"\xff\xfe"))
    return data.decode("utf-16" if wide else "utf-8", errors="replace").strip("\x00\ufeff")
