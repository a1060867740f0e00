"""A recording is cut into segments as it is read: where pictures can begin, and where nobody speaks.

Packets are copied as they are; only sound is decoded, to find out where it is quiet. Only what was read
since the last cut is held, so that a recording may go on for ever and come through a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from memory.errors import InvalidInputError
from sources.demuxing import PICTURES, SOUNDS, Reading, codec_of, open_container, preference
from sources.loudness import WINDOW_US, Loudness
from sources.packing import Held, Packer
from sources.tracks import SUBTITLES

SECOND_US = 1_000_000
SILENCE = -50
"""Decibels of full scale; where it is quieter, nothing better needs to be waited for."""
LINGER_US = SECOND_US
"""Tracks are interleaved loosely: what belongs before a cut may come so much behind it in the file."""
LONGEST_US = 600 * SECOND_US
MOST_BYTES = 24 * 1024 * 1024
"""So much is held at most, key frames or not. A service takes 32 MiB unless it was told otherwise."""
MAX_BACK_US = 10 * SECOND_US
MAX_AHEAD_US = 3600 * SECOND_US
"""A clock that jumps farther has begun anew; the recording goes on from where it was."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of its own whose clock begins at ``start_ms`` of the recording's."""

    number: int
    start_ms: int
    end_ms: int
    body: bytes
    media_type: str


def iter_segments(
    file: BinaryIO, *, seconds: float = 10, longest: float = 30, told: Callable[[str], None] | None = None
) -> Iterator[Segment]:
    """Yield the segments of a recording in order; ``file`` need not be seekable.

    A segment lasts from ``seconds`` to ``longest`` where it can: pictures begin at key frames, which may be
    rarer. ``told`` is given warnings in words. Raises ``InvalidInputError`` when the file cannot be read or
    there are neither pictures nor sound in it.
    """
    warn = told or (lambda warning: None)
    with open_container(file, SOUNDS | PICTURES) as container:
        recording = _Recording(container, warn)
        cutter = _Cutter(recording.is_pictured, int(seconds * SECOND_US), int(longest * SECOND_US))
        packer = Packer(recording.forms, recording.tracks)
        number = 0
        for part in _iter_parts(recording, cutter):
            body, media_type = packer.pack(part.held, part.start_us)
            yield Segment(number, part.start_us // 1000, part.end_us // 1000, body, media_type)
            number += 1
        for warning in recording.warnings():
            warn(warning)
    if not number:
        raise InvalidInputError("there are neither pictures nor sound in it")


class _Recording:
    """The packets of a container that are kept, on one clock that only goes forward."""

    def __init__(self, container: InputContainer, warn: Callable[[str], None]) -> None:
        self.tracks = [stream for stream in container.streams if _is_kept(stream)]
        pictures = [stream for stream in self.tracks if stream.type == "video"]
        sounds = sorted((stream for stream in self.tracks if isinstance(stream, AudioStream)), key=preference)
        if not pictures and not sounds:
            raise InvalidInputError("there are neither pictures nor sound in it that could be cut")
        dropped = [stream for stream in container.streams if stream.type != "data" and not _is_kept(stream)]
        if dropped:
            names = ", ".join(f"{stream.type} ({codec_of(stream) or 'unknown'})" for stream in dropped[:20])
            warn(f"tracks of kinds that are not kept: {names}")
        self.is_pictured = bool(pictures)
        self.leading = pictures[0] if pictures else sounds[0]
        self.heard = sounds[0] if sounds else None
        self.loudness = Loudness()
        name = container.format.name
        # MP4 is what everybody plays, but it wants all stamps, and bare samples lose theirs in it.
        is_bare = any((codec_of(stream) or "").startswith("pcm_") for stream in sounds)
        playable = ("mp4" in name or name == "mpegts") and not is_bare
        self.forms = ("mp4", "matroska") if playable else ("matroska",)
        self._reading = Reading(container)
        self._clock = _Clock()
        self._warn = warn
        self._damaged = 0
        if self.heard is not None:
            self.heard.codec_context.thread_type = "NONE"
            self.heard.codec_context.thread_count = 1

    def __iter__(self) -> Iterator[Held]:
        kept = {stream.index for stream in self.tracks}
        for packet in self._reading.packets():
            # One without bytes flushes a decoder, and has the number 0, whatever stream it belongs to.
            if not packet.size or packet.stream.index not in kept:
                continue
            held = self._hold(packet)
            if held is None:
                continue
            if packet.stream is self.heard:
                self._hear(self.heard, held)
            yield held

    def _hold(self, packet: Packet[Stream]) -> Held | None:
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            return None
        base = packet.time_base
        start = self._reading.count(stamp, base, SECOND_US)
        length = max(0, (packet.duration or 0) * base.numerator * SECOND_US // base.denominator)
        jump = self._clock.follow(packet.stream, start, length)
        start += jump
        shift = jump - self._reading.origin_us
        return Held(packet, start, start + length, stamp, packet.dts, base, shift)

    def _hear(self, stream: AudioStream, held: Held) -> None:
        try:
            frames = stream.decode(held.packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            self._damaged += 1
            return
        at = held.start_us
        for frame in frames:
            self.loudness.add(frame, at)
            at += frame.samples * SECOND_US // max(1, frame.sample_rate)

    def warnings(self) -> Iterator[str]:
        """Yield what to say at the end."""
        if self._clock.jumps:
            yield f"its clock jumps {self._clock.jumps} times; from there on times count from where it was"
        if self._damaged:
            yield f"{self._damaged} pieces of its sound are damaged; they were sent as they are"
        yield from self._reading.warnings()


class _Clock:
    """Makes clocks that begin anew go on: says how far to move each packet."""

    def __init__(self) -> None:
        self.jumps = 0
        self._moved: dict[int, int] = {}
        self._reached: dict[int, int] = {}

    def follow(self, stream: Stream, start_us: int, length_us: int) -> int:
        """Return by how much a packet of ``stream`` is to be later."""
        track = stream.index
        moved, reached = self._moved.get(track, 0), self._reached.get(track)
        if reached is not None and not _fits(start_us + moved - reached, stream):
            # Another track may have met the jump before.
            others = [each for each in self._moved.values() if _fits(start_us + each - reached, stream)]
            if others:
                moved = others[0]
            else:
                moved = reached - start_us
                self.jumps += 1
        self._moved[track] = moved
        self._reached[track] = max(start_us + moved + length_us, reached or 0)
        return moved


def _fits(step_us: int, stream: Stream) -> bool:
    return step_us >= -MAX_BACK_US and (step_us <= MAX_AHEAD_US or stream.type == "subtitle")


@dataclass(frozen=True, slots=True)
class _Part:
    held: list[Held]
    start_us: int
    end_us: int


def _iter_parts(recording: _Recording, cutter: _Cutter) -> Iterator[_Part]:
    """Yield the packets of each segment."""
    held: list[Held] = []
    begun: int | None = None
    is_begun = False
    for one in recording:
        if one.packet.stream.type == "subtitle":
            held.append(one)
            continue
        if is_begun and one.start_us - cutter.reached_us > cutter.longest_us:
            # Nothing was recorded for a while: a segment does not last over that.
            if held:
                yield _part(held, begun, None)
            held, begun, is_begun = [], None, False
        if not is_begun:
            cutter.begin(one.start_us)
            is_begun = True
        held.append(one)
        is_key = one.packet.stream is recording.leading and one.packet.is_keyframe
        cut = cutter.look(one, recording.loudness, is_key=is_key)
        if cut is not None:
            before, held = _split(held, cut)
            yield _part(before, begun, cut)
            begun = cut
            cutter.begin(cut, held, recording.leading)
            recording.loudness.forget_before(cut)
    if held and is_begun:
        yield _part(held, begun, None)


def _part(held: list[Held], begun: int | None, cut: int | None) -> _Part:
    shown = [one for one in held if one.packet.stream.type != "subtitle"] or held
    start = begun if begun is not None else max(0, min(one.start_us for one in shown))
    end = cut if cut is not None else -(-max(one.end_us for one in shown) // 1000) * 1000
    return _Part(held, start // 1000 * 1000, max(start, end))


def _split(held: list[Held], cut: int) -> tuple[list[Held], list[Held]]:
    """Return what belongs before a cut and behind it; pictures go by the order of decoding."""
    begun: set[int] = set()
    before: list[Held] = []
    after: list[Held] = []
    for one in held:
        later = one.start_us >= cut
        if one.packet.stream.type == "video":
            if later and one.packet.is_keyframe:
                begun.add(one.track)
            later = one.track in begun
        (after if later else before).append(one)
    return before, after


class _Cutter:
    """Says when and where to cut, from what was read since the last cut."""

    def __init__(self, is_pictured: bool, shortest_us: int, longest_us: int) -> None:
        self.reached_us = 0
        self.longest_us = longest_us
        self._shortest_us = shortest_us
        self._is_pictured = is_pictured
        self._begun_us = 0
        self._look_at_us = 0
        self._bytes = 0
        self._keys: list[int] = []

    def begin(self, at_us: int, held: list[Held] | None = None, leading: Stream | None = None) -> None:
        """Begin a segment that has so much in it already."""
        held = held or []
        self._begun_us = at_us
        self._bytes = sum(one.packet.size for one in held)
        self._keys = [one.start_us for one in held if one.packet.is_keyframe and one.packet.stream is leading]
        self.reached_us = max((one.end_us for one in held), default=at_us)
        self._look_at_us = 0

    def look(self, one: Held, loudness: Loudness, *, is_key: bool) -> int | None:
        """Take a packet of pictures or sound into account; return where to cut now, if so."""
        self._bytes += one.packet.size
        self.reached_us = max(self.reached_us, one.end_us)
        if is_key:
            self._keys.append(one.start_us)
        is_full = self._bytes >= MOST_BYTES or self.reached_us - self._begun_us >= LONGEST_US
        if self.reached_us < self._look_at_us and not is_full:
            return None
        self._look_at_us = self.reached_us + SECOND_US // 4
        settled = self.reached_us - LINGER_US
        earliest, latest = self._begun_us + self._shortest_us, self._begun_us + self.longest_us
        found = self._choose(self._moments(earliest, min(latest, settled)), loudness, settled >= latest)
        if found is None and self._is_pictured and settled > latest:
            found = next((key for key in self._keys if latest < key <= settled), None)
        return self._force(loudness) if found is None and is_full else found

    def _moments(self, first_us: int, last_us: int) -> list[int]:
        """Return where a cut may be, from ``first_us`` to ``last_us``."""
        if self._is_pictured:
            return [key for key in self._keys if first_us <= key <= last_us]
        middle = WINDOW_US // 2
        return [at + middle for at in range(first_us // WINDOW_US * WINDOW_US, last_us - middle, WINDOW_US)]

    def _choose(self, moments: list[int], loudness: Loudness, is_late: bool) -> int | None:
        """Return the first moment of silence; the quietest where it cannot be waited any longer."""
        quietest: tuple[int, int] | None = None
        for at in moments:
            level = loudness.around(at)
            if level <= SILENCE:
                return at
            quietest = min(quietest or (level, at), (level, at))
        return quietest[1] if is_late and quietest is not None else None

    def _force(self, loudness: Loudness) -> int | None:
        """Return where to cut what would get too large: at a key frame if there is any."""
        keys = [key for key in self._keys if self._begun_us < key < self.reached_us]
        if keys:
            return keys[-1]
        middle = self._begun_us + (self.reached_us - self._begun_us) // 2
        moments = range(middle, self.reached_us - LINGER_US, WINDOW_US)
        return min(moments, key=lambda at: (loudness.around(at), at), default=self.reached_us)


def _is_kept(stream: Stream) -> bool:
    """Say whether a track is kept: no cover, no chapters, no subtitles of pictures."""
    kinds = {"video": PICTURES, "audio": SOUNDS, "subtitle": SUBTITLES}
    return (
        codec_of(stream) in kinds.get(stream.type, frozenset())
        and not stream.disposition & Disposition.attached_pic
        and stream.discard != Discard.all
    )
