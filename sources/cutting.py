"""A video or audio file without some of its spans, and excerpts of it. Nothing is decoded or encoded.

Which packets must go with a span is said in ``sources/sparing.py``; how they are written, in
``sources/remuxing.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from memory.errors import InvalidInputError
from sources import sparing
from sources.media import Clip, Cut, Span
from sources.remuxing import choose_forms, read_tracks, write
from sources.sparing import Track

_MS = 1_000
"""Microseconds."""


def cut(body: bytes, spans: Sequence[Span]) -> Cut | None:
    """Return the file without what is seen, heard or read in ``spans`` of milliseconds.

    Pictures begin again at the first key frame after a span. A file whose container has no times, or cannot
    keep them, becomes a Matroska file. Tags of the whole file and its tracks that may hold words of it, its
    chapters, covers and attached files go. ``None`` when nothing is left to see or hear.

    Raises ``InvalidInputError`` when the file cannot be read or written.
    """
    wanted = sparing.merge((start * _MS, end * _MS) for start, end in spans)
    tracks = read_tracks(body)
    stays = {number: sparing.spare(track, wanted) for number, track in tracks.items()}
    if not any(any(stays[number]) for number, track in tracks.items() if track.kind != "subtitle"):
        return None
    written, media_type = _write(body, stays, choose_forms(body))
    gone: list[Span] = []
    reached = 0
    for number, track in tracks.items():
        held = sparing.extents(track)
        gone += filter(None, compress(held, (not each for each in stays[number])))
        reached = max(reached, *(extent[1] for extent in held if extent is not None), 0)
    gone += ((start, min(end, reached)) for start, end in wanted)
    return Cut(written, media_type, tuple(_to_ms(sparing.merge(gone))))


def clip(body: bytes, start_ms: int, end_ms: int) -> Clip:
    """Return an excerpt with all pictures and sound from ``start_ms`` to ``end_ms``, which plays from 0.

    It begins at the key frame at or before its start, for a picture cannot be decoded without it.

    Raises ``InvalidInputError`` when there is nothing of pictures or sound in the span, or the file cannot
    be read.
    """
    tracks = {number: track for number, track in read_tracks(body).items() if track.kind != "subtitle"}
    start, end = start_ms * _MS, end_ms * _MS
    pictured = [number for number, track in tracks.items() if track.kind == "video"]
    start = min((_key_before(tracks[number], start) for number in pictured), default=start)
    stays = {number: _within(track, start, end) for number, track in tracks.items()}
    held = [
        extent
        for number, track in tracks.items()
        for extent in compress(sparing.extents(track), stays[number])
        if extent is not None
    ]
    reached = max((until for _, until in held), default=0)
    if reached <= start_ms * _MS:
        raise InvalidInputError(f"there is nothing to see or hear from {start_ms} to {end_ms} ms")
    begun = min(since for since, _ in held)
    written, media_type = _write(body, stays, choose_forms(body, playable=True), shift_us=-begun)
    return Clip(written, media_type, begun // _MS, -(-reached // _MS))


def _key_before(track: Track, at: int) -> int:
    """Return when the last key frame at or before a time is shown; the time itself where there is none."""
    keys = (each.start for each in track.samples if each.is_key and each.start is not None)
    return max((key for key in keys if key <= at), default=at)


def _within(track: Track, start: int, end: int) -> list[bool]:
    """Return which packets an excerpt needs: of pictures also those that are decoded before one in it."""
    spans = sparing.extents(track)
    inside = [span is not None and span[0] < end and span[0] >= start for span in spans]
    if track.kind != "video":
        return inside
    first = next((at for at, each in enumerate(track.samples) if inside[at] and each.is_key), len(inside))
    last = max((at for at, each in enumerate(inside) if each), default=-1)
    return [first <= at <= last and span is not None and span[0] >= start for at, span in enumerate(spans)]


def _write(
    body: bytes, stays: dict[int, list[bool]], forms: Sequence[str], *, shift_us: int = 0
) -> tuple[bytes, str]:
    for form in forms:
        written = write(body, stays, form, shift_us=shift_us)
        if written is not None:
            return written
    raise InvalidInputError("what it holds cannot be written anew with its times; it can only be kept whole")


def _to_ms(spans: Sequence[Span]) -> list[Span]:
    return sparing.merge((max(0, start // _MS), -(-end // _MS)) for start, end in spans)
