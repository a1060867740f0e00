"""The key frames of a film: each picture that differs from the one before it, with when it is shown.

One thread decodes, and of a film that goes on steadily only frames that others are made of: a scene or a
caption that begins with another frame is seen a few frames later. Which frames to keep is said in
``sources/changes.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from memory.errors import InvalidInputError
from memory.values import Place
from sources.changes import Changes, measure_grey
from sources.demuxing import PICTURES, Reading, open_container, title_of
from sources.picture import aspect_of, choose_track, iter_frames, matrix_of
from sources.scaling import fit, turn
from sources.stills import MAX_BYTES, MAX_FILM_SIDE, MAX_STILLS, Looked, Still

PART_MS = 10 * 60_000
"""So much of a film is looked at for one answer, which has a limit of time."""
STEADY_MS = 100
"""The longest time for which a picture of a steady film is shown."""
_NEAR_ENOUGH = "AREA"


def look(body: bytes, start_ms: int = 0) -> Looked:
    """Return the key frames of a film from a time on, as many as fit an answer; none of one without pictures.

    What is read up to damage is kept. Raises ``InvalidInputError`` when the file cannot be read.
    """
    steady = _is_steady(body)
    for sought in (start_ms, None) if start_ms else (None,):
        with open_container(body, PICTURES) as container:
            if not _shows_pictures(container):
                break
            try:
                stream = choose_track(container)
            except InvalidInputError as error:
                return Looked((), warnings=(error.what,))
            reading = Reading(container)
            if sought is not None and not _seek(container, sought * 1_000 + reading.origin_us):
                continue
            if steady:
                stream.codec_context.skip_frame = "NONREF"
            gathering = _Gathering(stream, reading, start_ms)
            if gathering.run(iter_frames(stream, reading, sought)) or sought is None:
                return gathering.finish(title_of(container))
    return Looked(())


def _is_steady(body: bytes) -> bool:
    """Say whether no picture is shown for long, so that one of a few may go unseen."""
    with open_container(body, PICTURES) as container:
        shown: dict[int, list[int]] = {stream.index: [] for stream in container.streams.video}
        reading = Reading(container)
        for packet in reading.packets():
            if packet.pts is not None and packet.stream.index in shown:
                shown[packet.stream.index].append(reading.times(packet)[0])
    return all(
        after - before <= STEADY_MS for times in shown.values() for before, after in pairwise(sorted(times))
    )


def _shows_pictures(container: InputContainer) -> bool:
    """Say whether there is a track of moving pictures; a cover is none."""
    return any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)


def _seek(container: InputContainer, at_us: int) -> bool:
    try:
        container.seek(at_us)
    except FFmpegError:
        return False
    return True


class _Gathering:
    """Looks at frames in their order and holds those to keep."""

    def __init__(self, stream: VideoStream, reading: Reading, start_ms: int) -> None:
        self._stream, self._reading = stream, reading
        self._start_ms = start_ms
        self._aspect = float(aspect_of(stream))
        self._changes = Changes()
        self._scaler, self._shrinker = VideoReformatter(), VideoReformatter()
        self._kept: list[tuple[int, tuple[int, int, bytes] | None]] = []
        self._bytes = 0
        self._rest: int | None = None
        self._over_ms = start_ms

    def run(self, frames: Iterator[VideoFrame]) -> bool:
        """Look at frames until the last or until an answer is full; say whether there was any."""
        shown: VideoFrame | None = None
        shown_ms = -1
        for frame in frames:
            at_ms = self._time(frame)
            if at_ms is None or at_ms < self._start_ms or at_ms <= shown_ms:
                continue
            if shown is not None:
                self._see(shown, shown_ms, at_ms)
                if self._is_full(at_ms):
                    self._rest = at_ms
                    return True
            shown, shown_ms = frame, at_ms
        if shown is None:
            return False
        self._see(shown, shown_ms, None)
        self._over_ms = max(shown_ms, self._reading.reached_ms)
        return True

    def finish(self, title: str | None) -> Looked:
        """Return what was kept; each still is shown until the next. What shows nothing is left out."""
        ends = [*(at_ms for at_ms, _ in self._kept[1:]), self._rest or self._over_ms]
        stills = (
            tuple(
                Still(*still, Place("time", at_ms, max(at_ms, end)))
                for (at_ms, still), end in zip(self._kept, ends, strict=True)
                if still is not None
            )
            if self._kept
            else ()
        )
        warnings = () if self._rest is not None else tuple(self._reading.warnings())
        return Looked(stills, self._rest, title, warnings)

    def _time(self, frame: VideoFrame) -> int | None:
        pts = frame.pts if frame.pts is not None else frame.dts
        # Frames that a decoder held back until the end do not tell their unit of time.
        base = frame.time_base or self._stream.time_base
        return None if pts is None or base is None else max(0, self._reading.count(pts, base, 1_000))

    def _see(self, frame: VideoFrame, at_ms: int, until_ms: int | None) -> None:
        columns, rows = measure_grey(frame.width, frame.height)
        small = self._shrinker.reformat(frame, columns, rows, "gray", interpolation=_NEAR_ENOUGH, threads=1)
        kept = self._changes.see(at_ms, until_ms, np.asarray(small.to_ndarray(), np.uint8))
        if kept is None:
            return
        still = None if kept.blank else self._scale(frame)
        self._bytes += 0 if still is None else len(still[2])
        self._kept.append((kept.at_ms, still))

    def _is_full(self, at_ms: int) -> bool:
        one = self._bytes // max(1, len(self._kept))
        return (
            len(self._kept) >= MAX_STILLS
            or self._bytes + one > MAX_BYTES
            or at_ms - self._start_ms >= PART_MS
        )

    def _scale(self, frame: VideoFrame) -> tuple[int, int, bytes]:
        """Return width, height and pixels, as the frame is meant to be seen."""
        width, height = frame.width * max(1.0, self._aspect), frame.height / min(1.0, self._aspect)
        size = fit(width, height, MAX_FILM_SIDE)
        made = self._scaler.reformat(frame, *size, "rgb24", interpolation=_NEAR_ENOUGH, threads=1)
        pixels = turn(np.asarray(made.to_ndarray(), np.uint8), matrix_of(frame))
        rows, columns = pixels.shape[:2]
        return columns, rows, pixels.tobytes()
