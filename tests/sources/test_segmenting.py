"""Recordings cut into segments: nothing is lost, times go on, cuts lie where it is quiet; through a pipe, too."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from memory.errors import InvalidInputError
from memory.values import Attributes, Content, Parsed
from sources import segmenting
from sources.parse import SourceParser
from sources.segmenting import Segment, iter_segments
from tests.sources.checks import data
from tests.sources.moving import CODECS, RATE, make_film, make_media, read_number

KEYS = {"g": "25", "keyint_min": "25", "sc_threshold": "0"}
"""A key frame each second."""


def cut(body: bytes, seconds: float = 2, longest: float = 4) -> tuple[list[Segment], list[str]]:
    warnings: list[str] = []
    found = list(iter_segments(io.BytesIO(body), seconds=seconds, longest=longest, told=warnings.append))
    return found, warnings


def list_packets(body: bytes, later_ms: int = 0) -> dict[str, list[tuple[int, int]]]:
    """Return each kind's packets: when each is shown, in ms, and its size; as the container has them."""
    found: dict[str, list[tuple[int, int]]] = {}
    with av.open(io.BytesIO(body)) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                at = round(packet.pts * packet.time_base * 1000) + later_ms
                found.setdefault(packet.stream.type, []).append((at, packet.size))
    return found


def count_frames(body: bytes) -> Counter[str]:
    counts: Counter[str] = Counter()
    for kind in ("video", "audio"):
        with av.open(io.BytesIO(body)) as container:
            if getattr(container.streams, kind):
                counts[kind] = sum(1 for _ in container.decode(**{kind: 0}))
    return counts


def check_whole(body: bytes, segments: list[Segment], *, tolerance_ms: int = 2) -> None:
    """Every packet of the recording is in exactly one segment, at its time; segments follow each other."""
    told = list_packets(body)
    found: dict[str, list[tuple[int, int]]] = {}
    for segment in segments:
        for kind, packets in list_packets(segment.body, segment.start_ms).items():
            found.setdefault(kind, []).extend(packets)
    assert {kind: len(packets) for kind, packets in found.items()} == {
        kind: len(packets) for kind, packets in told.items()
    }
    for kind, packets in told.items():
        off = [
            abs(at - then) for (at, _), (then, _) in zip(sorted(packets), sorted(found[kind]), strict=True)
        ]
        assert max(off) <= tolerance_ms, kind
    assert [segment.number for segment in segments] == list(range(len(segments)))
    assert all(one.end_ms == other.start_ms for one, other in pairwise(segments))


def make_sound(kind: str, seconds: float, quiet: list[tuple[float, float]], level: float = 0.02) -> bytes:
    """Return noise that is ``level`` of its loudness in ``quiet`` spans of seconds."""
    container, codec = CODECS[kind]
    times = np.arange(int(seconds * RATE)) / RATE
    loud = np.ones(len(times))
    for begin, end in quiet:
        loud[(times >= begin) & (times < end)] = level
    wave = (np.random.default_rng(7).uniform(-1, 1, len(times)) * loud * 12_000).astype(np.int16)
    out = io.BytesIO()
    with av.open(out, "w", format=container) as writer:
        stream = writer.add_stream(codec, rate=RATE, layout="mono")
        for start in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    return out.getvalue()


def join(video: bytes, sound: bytes, kind: str = "mp4") -> bytes:
    """Return a file with the pictures of one and the sound of another."""
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(video)) as pictures,
        av.open(io.BytesIO(sound)) as heard,
        av.open(out, "w", format=CODECS[kind][0]) as writer,
    ):
        packets = []
        for container in (pictures, heard):
            made = writer.add_stream_from_template(container.streams[0], opaque=True)
            for packet in container.demux(container.streams[0]):
                if packet.size:
                    packet.stream = made
                    packets.append(packet)
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            writer.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("name", ["manifesto.mp4", "trailer_bbb.mp4"])
def test_a_real_recording_is_cut_at_key_frames_and_nothing_is_lost(name: str) -> None:
    body = data(f"video/{name}").read_bytes()

    segments, warnings = cut(body, 10, 30)

    check_whole(body, segments)
    assert warnings == []
    assert all(10_000 <= one.end_ms - one.start_ms <= 30_000 for one in segments[:-1])
    assert {one.media_type for one in segments} == {"video/mp4"}
    for segment in segments:
        with av.open(io.BytesIO(segment.body)) as container:
            first = next(packet for packet in container.demux(video=0) if packet.size)
            assert first.is_keyframe and first.pts is not None
            assert 0 <= first.pts * first.time_base < 0.002
    if name == "manifesto.mp4":  # the other takes long
        frames = sum((count_frames(one.body) for one in segments), Counter())
        assert frames == count_frames(body)


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "ts"])
def test_pictures_that_refer_to_later_ones_keep_their_times(kind: str) -> None:
    body = make_film(kind, pictures=250, options={**KEYS, "bf": "2"})

    segments, warnings = cut(body)

    assert len(segments) >= 3 and warnings == []
    check_whole_of_own_clock(kind, body, segments)
    numbers = []
    for segment in segments:
        with av.open(io.BytesIO(segment.body)) as container:
            numbers += [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert numbers == [number % 256 for number in range(250)]


def check_whole_of_own_clock(kind: str, body: bytes, segments: list[Segment]) -> None:
    if kind != "ts":
        return check_whole(body, segments)
    with av.open(io.BytesIO(body)) as container:
        begins = (container.start_time or 0) // 1000
    moved = [
        Segment(one.number, one.start_ms + begins, one.end_ms + begins, one.body, one.media_type)
        for one in segments
    ]
    return check_whole(body, moved)


@pytest.mark.parametrize("kind", ["m4a", "ogg", "mp3", "wav", "flac", "ts", "mkv", "webm"])
def test_sound_is_cut_where_it_is_quietest(kind: str) -> None:
    body = make_sound(kind, 9, [(2.6, 3.2), (6.1, 6.9)])

    segments, warnings = cut(body)

    assert warnings == []
    assert len(segments) == 3
    assert 2_600 <= segments[1].start_ms <= 3_200
    assert 6_100 <= segments[2].start_ms <= 6_900
    check_whole_of_own_clock(kind, body, segments)
    assert {one.media_type for one in segments} == {
        "audio/mp4" if kind in ("m4a", "ts") else "audio/x-matroska"
    }
    assert sum(count_frames(one.body)["audio"] for one in segments) == count_frames(body)["audio"]


def test_of_the_key_frames_that_can_be_taken_the_quietest_is() -> None:
    film = make_film("mp4", pictures=275, options=KEYS, sound=False)
    body = join(film, make_sound("m4a", 11, [(2.7, 3.3), (6.7, 7.3)], level=0.05))

    segments, _ = cut(body)

    assert [one.start_ms for one in segments] == [0, 3_000, 7_000]
    check_whole(body, segments)


def test_silence_is_taken_at_once_and_nothing_behind_it_is_waited_for() -> None:
    loud = make_sound("wav", 60, [(2.5, 3.5)], level=0)
    reads = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(self.tell())
            return super().read(size)

        def seekable(self) -> bool:
            return False

    first = next(iter(iter_segments(Counting(loud), seconds=2, longest=30)))

    assert 2_500 <= first.end_ms <= 3_500
    assert max(reads) < 8 * RATE * 2  # seconds; a bitten-off minute has 60


@pytest.mark.parametrize("kind", ["ts", "mkv", "ogg", "mp3", "wav", "flac", "mp4"])
def test_a_pipe_will_do(kind: str) -> None:
    if kind in ("ts", "mkv", "mp4"):
        body = make_film(kind, pictures=150, options=KEYS)
    else:
        body = make_sound(kind, 6, [(2.6, 3.2)])
    if kind == "mp4":
        body = fragment(body)
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(body)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        segments = list(iter_segments(pipe, seconds=2, longest=4))
    writer.join()

    whole, _ = cut(body)
    assert len(segments) >= 2
    for one, other in zip(segments, whole, strict=True):
        found, told = list_packets(one.body), list_packets(other.body)
        assert {name: [at for at, _ in packets] for name, packets in found.items()} == {
            name: [at for at, _ in packets] for name, packets in told.items()
        }
    assert [(one.start_ms, one.end_ms) for one in segments] == [(one.start_ms, one.end_ms) for one in whole]


def fragment(body: bytes) -> bytes:
    """Return an MP4 in fragments, as it is streamed."""
    out = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with (
        av.open(io.BytesIO(body)) as container,
        av.open(out, "w", format="mp4", options=options) as writer,
    ):
        made = {one.index: writer.add_stream_from_template(one, opaque=True) for one in container.streams}
        for packet in container.demux():
            if packet.size:
                packet.stream = made[packet.stream.index]
                writer.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "mov_text"), ("mkv", "subrip"), ("mkv", "ass"), ("mov", "mov_text")]
)
def test_captions_go_where_they_begin_and_are_read_at_their_times(kind: str, codec: str) -> None:
    # 25 key frames a second would be cut at 2.0 s and so on: mpeg4 makes one each 12 pictures.
    cues = [
        (500, 1_500, "The ferry leaves at nine."),
        (1_800, 3_300, "It returns at noon."),
        (5_000, 6_000, "It waits."),
    ]
    pictures = range(0, 8_000, 40)
    body = make_media(kind, seconds=8, pictures=pictures, subtitles=[(codec, "eng", cues)])

    segments, _ = cut(body)

    heard = []
    for segment in segments:
        content = Content("document", segment.media_type, segment.body, Attributes(), None)
        parsed = SourceParser().parse_media(content)
        if isinstance(parsed, Parsed):
            for passage in parsed.passages:
                assert passage.place is not None
                text = parsed.text[passage.start : passage.end]
                heard.append((segment.start_ms + passage.place.first, text, segment.number))
    assert len(segments) >= 3
    assert " ".join(text.replace("\n", " ") for _, text, _ in heard) == " ".join(text for _, _, text in cues)
    assert {at for at, _, _ in heard} <= {500, 1_800, 5_000}
    assert heard[0][2] == 0


def test_a_broken_tail_costs_the_tail_and_is_told() -> None:
    body = make_film("mkv", pictures=250, options=KEYS)
    whole, _ = cut(body)

    kept, warnings = cut(body[: len(body) * 7 // 10])

    assert [one.body for one in kept[:2]] == [one.body for one in whole[:2]]
    assert 5_000 < kept[-1].end_ms < 9_000
    assert len(warnings) == 1 and "is it cut off?" in warnings[0]


def test_pictures_without_key_frames_are_cut_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenting, "LONGEST_US", 3_000_000)
    body = make_film("mkv", pictures=250, options={"g": "1000", "sc_threshold": "0"})

    segments, _ = cut(body, 1, 2)

    assert len(segments) > 2
    counts = Counter({kind: len(packets) for kind, packets in list_packets(body).items()})
    parts = sum(
        (Counter({k: len(p) for k, p in list_packets(one.body).items()}) for one in segments), Counter()
    )
    assert parts == counts


def test_a_large_segment_is_cut_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    body = make_film("mkv", pictures=250, options=KEYS)
    monkeypatch.setattr(segmenting, "MOST_BYTES", len(body) // 8)

    segments, _ = cut(body, 5, 8)

    assert all(len(one.body) < len(body) // 3 for one in segments)
    check_whole(body, segments)


def test_a_clock_that_begins_anew_goes_on() -> None:
    one = make_film("ts", pictures=100, options=KEYS)
    other = make_film("ts", pictures=100, options=KEYS)

    segments, warnings = cut(make_later(one, 100_000) + other)

    assert 7_500 <= segments[-1].end_ms <= 8_500
    assert all(one.end_ms == other.start_ms for one, other in pairwise(segments))
    assert len(warnings) >= 1 and "clock jumps" in warnings[0]


def make_later(body: bytes, seconds: int) -> bytes:
    out = io.BytesIO()
    with av.open(io.BytesIO(body)) as container, av.open(out, "w", format="mpegts") as writer:
        made = {one.index: writer.add_stream_from_template(one, opaque=True) for one in container.streams}
        for packet in container.demux():
            if packet.size:
                shift = int(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = made[packet.stream.index]
                writer.mux(packet)
    return out.getvalue()


def test_a_pause_in_a_recording_is_in_no_segment() -> None:
    body = make_media("mkv", seconds=60, silent=[(10, 50)])

    segments, _ = cut(body, 10, 30)

    assert [(round(one.start_ms, -3), round(one.end_ms, -3)) for one in segments] == [
        (0, 10_000),
        (50_000, 60_000),
    ]


@pytest.mark.parametrize("body", [b"", b"The anchor is up.\n" * 200, bytes(5_000)])
def test_what_is_no_recording_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError, match="MP4, MOV"):
        cut(body)
