"""Which packets of a file must go when spans of it do: those of the spans, and those that need them.

A packet goes when anything that it holds is seen, heard or read in a span, also when that is not all of it;
and pictures go that cannot be decoded without one that went, which is up to the next key frame. Nothing here
knows FFmpeg. Times are microseconds of the file's clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Span = tuple[int, int]
"""From and until, half-open."""

UNTOLD_US = 5_000_000
"""How long the last caption of a track is shown when that is not told."""
HIDDEN_PICTURES = 32
"""Packets of these codecs may hold pictures that are shown so many pictures later, the longest group of any
encoder of theirs; not beyond the next key frame."""
_HIDING = frozenset(("vp8", "vp9", "av1", "libdav1d"))
SEAM_US = 2_000
"""Packets of sound so near to each other have no gap between them: containers round."""
_RESERVOIR_BYTES = 511
_HEAD_BYTES = 38
"""So much of a frame's sound MP3 may keep in those before it, and so little of each may be its head."""
_SINGLE = ("pcm_", "flac", "alac")
"""Codecs of sound whose packets stand alone. In others the sound of neighbours overlaps."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A packet: when what it holds begins (``None``: not told) and how long it lasts (0: not told)."""

    start: int | None
    length: int
    is_key: bool
    size: int


@dataclass(frozen=True, slots=True)
class Track:
    """The packets of a stream in their order, which is that of decoding. ``codec`` is FFmpeg's name."""

    kind: Literal["video", "audio", "subtitle"]
    codec: str
    samples: Sequence[Sample]


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order; what touches is one, what is empty none."""
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def extents(track: Track) -> list[Span | None]:
    """Return from when until when each packet is seen, heard or read; ``None`` where its time is not told.

    A picture is seen until the next one is shown, however long that takes.
    """
    starts = sorted({sample.start for sample in track.samples if sample.start is not None})
    return [None if sample.start is None else _extent(track, sample, starts) for sample in track.samples]


def _extent(track: Track, sample: Sample, starts: Sequence[int]) -> Span:
    start = sample.start or 0
    at = bisect_right(starts, start)
    following = starts[at] if at < len(starts) else None
    if sample.length and (track.kind != "video" or following is None):
        return start, start + sample.length
    if following is not None:
        return start, following
    return start, start + (UNTOLD_US if track.kind == "subtitle" else 1)


def spare(track: Track, spans: Sequence[Span]) -> list[bool]:
    """Return for each packet whether it stays. ``spans`` are merged."""
    touched = [span is None or _touches(spans, span) for span in _holdings(track)]
    if track.kind != "video":
        return [not each for each in touched]
    stays: list[bool] = []
    whole, leading, key_start = True, True, None
    for sample, gone in zip(track.samples, touched, strict=True):
        if sample.is_key:
            # What is shown before it, but decoded after it, needs the pictures before it as well.
            leading, whole, key_start = whole, not gone, sample.start
            stays.append(not gone)
        elif key_start is not None and sample.start is not None and sample.start < key_start:
            leading = leading and whole and not gone
            stays.append(leading)
        else:
            whole = whole and not gone
            stays.append(whole)
    return stays


def _holdings(track: Track) -> list[Span | None]:
    """Return the extents of all that packets hold, also of what shows later only."""
    spans = extents(track)
    if track.kind == "audio" and not track.codec.startswith(_SINGLE):
        return [span and (span[0], _heard_until(track, spans, at)) for at, span in enumerate(spans)]
    if track.kind == "video" and track.codec in _HIDING:
        shown = sorted(span for span in spans if span is not None)
        keys = sorted(each.start for each in track.samples if each.is_key and each.start is not None)
        return [span and (span[0], _hidden_until(span, shown, keys)) for span in spans]
    return spans


def _heard_until(track: Track, spans: Sequence[Span | None], at: int) -> int:
    """Return until when anything of a packet's sound is heard, in those that follow it without a gap."""
    span = spans[at]
    until, between = (0 if span is None else span[1]), 0
    for number in range(at + 1, len(spans)):
        following = spans[number]
        if following is None or following[0] > until + SEAM_US:
            break
        until = max(until, following[1])
        if not track.codec.startswith("mp3") or between >= _RESERVOIR_BYTES:
            break
        between += max(1, track.samples[number].size - _HEAD_BYTES)
    return until


def _hidden_until(span: Span, shown: Sequence[Span], keys: Sequence[int]) -> int:
    at = bisect_right(shown, span) + HIDDEN_PICTURES - 1
    last = shown[min(at, len(shown) - 1)][1]
    following = bisect_right(keys, span[0])
    return max(span[1], min(last, keys[following]) if following < len(keys) else last)


def _touches(spans: Sequence[Span], held: Span) -> bool:
    """Say whether anything of an extent, which lasts a moment at least, lies in one of merged spans."""
    start, end = held[0], max(held[1], held[0] + 1)
    at = bisect_right(spans, (start, start)) - 1
    return any(each[0] < end and start < each[1] for each in spans[max(0, at) : at + 2])
