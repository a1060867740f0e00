"""Video and audio files: their subtitle tracks as text, and their sound as samples.

One thread decodes, and pictures are never decoded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from memory.errors import InvalidInputError, NothingToReadError
from sources.captions import Cue, extract_cues, split_voices
from sources.demuxing import SOUNDS, Reading, codec_of, open_container, preference, title_of
from sources.media import RATE, Audio, make_audio
from sources.outline import Extracted
from sources.sound import Sound
from sources.writer import one_line

SUBTITLES = frozenset(("mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"))
UNTOLD_MS = 5_000
"""How long a caption of no told length is shown, at most."""


def find_captions(body: bytes) -> Extracted | None:
    """Return the text of the subtitle track, or ``None`` when none holds text.

    The default track is preferred, then the first; tracks of forced subtitles, which leave most unsaid, come
    last. Raises ``InvalidInputError`` when the file cannot be read.
    """
    with open_container(body) as container:
        tracks = sorted(filter(_is_text, container.streams.subtitles), key=preference)
        if not tracks:
            return None
        cues: dict[int, list[Cue]] = {track.index: [] for track in tracks}
        reading = Reading(container)
        for packet in reading.packets():
            found = cues.get(packet.stream.index)
            if found is not None and packet.pts is not None:
                found.extend(_read_cues(packet, str(len(found) + 1), reading.times(packet)))
        track = next((track for track in tracks if cues[track.index]), None)
        if track is None:
            return None
        warnings = [*_told_choice(track, tracks, container), *_picture_tracks(container), *reading.warnings()]
        return extract_cues(_in_order(cues[track.index]), warnings, title_of(container))


def read_sound(body: bytes) -> Audio:
    """Return the sound as far as it can be read; warnings say what cannot.

    Raises ``InvalidInputError`` when the file cannot be read or holds no sound, or too much of it.
    """
    with open_container(body) as container:
        stream, warnings = _choose_sound(container)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        reading = Reading(container)
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
            if not damaged:
                raise NothingToReadError("there is no sound in it")
            raise InvalidInputError("the sound in it is damaged: none of it can be read")
        if damaged:
            warnings.append(f"{damaged} damaged pieces of the sound were left out and are silence")
        warnings += [*sound.warnings, *_picture_tracks(container), *reading.warnings()]
        return make_audio(samples, title_of(container), tuple(warnings))


def _is_text(stream: Stream) -> bool:
    # A track of chapter titles is one of text that nobody is meant to see.
    return codec_of(stream) in SUBTITLES and stream.discard != Discard.all


def _name(stream: Stream) -> str:
    """Return what users call a track: its language and its title, or its number."""
    told = (stream.language, stream.metadata.get("title"))
    return one_line(" ".join(filter(None, told)))[:80] or f"number {stream.index}"


def _told_choice(track: Stream, tracks: Sequence[Stream], container: InputContainer) -> Iterator[str]:
    if container.streams.audio:
        yield f"its text is that of the subtitle track ({_name(track)}); its sound was not listened to"
    if others := [_name(other) for other in tracks if other is not track]:
        yield f"there are other subtitle tracks, which are not read: {', '.join(others[:20])}"


def _picture_tracks(container: InputContainer) -> Iterator[str]:
    if pictured := [_name(each) for each in container.streams.subtitles if codec_of(each) not in SUBTITLES]:
        yield f"subtitle tracks of pictures, or of an unknown kind, are not read: {', '.join(pictured[:20])}"


def _choose_sound(container: InputContainer) -> tuple[AudioStream, list[str]]:
    """Return the default track of sound, else the first, and what to say of others."""
    streams = sorted(container.streams.audio, key=preference)
    readable = [stream for stream in streams if codec_of(stream) in SOUNDS]
    if not readable:
        kinds = ", ".join(sorted({codec_of(stream) or "unknown" for stream in streams}))
        if not streams:
            raise NothingToReadError("there are neither captions nor sound in it")
        raise InvalidInputError(
            f"its sound is of a kind that is not read ({kinds}); convert it to AAC, MP3, Opus or FLAC"
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
    codec, data = codec_of(packet.stream), bytes(packet)
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
