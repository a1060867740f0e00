"""Files without some of their spans: nothing of a span is left, all else is at its time and plays."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import pytest

from memory.errors import InvalidInputError, LetheError
from memory.values import Parsed
from sources import cutting
from sources.media import RATE, Audio, Cut, Span
from sources.parse import SourceParser, guess_media_type
from tests.sources.checks import data
from tests.sources.moving import CODECS, CUES, make_film, make_media
from tests.sources.playing import CLOSED, GROUP, OPEN, content_of, hear, loudness, packets, shown

SOUNDS = sorted(CODECS)
FILMS = ("mp4", "mov", "mkv", "ts")


def cut(body: bytes, *spans: Span) -> Cut:
    made = cutting.cut(body, spans)
    assert made is not None
    assert guess_media_type(None, made.body[:4096]).split("/")[1] == made.media_type.split("/")[1]
    return made


def is_gone(made: Cut, at_ms: int) -> bool:
    return any(start <= at_ms < end for start, end in made.gone)


# Pictures


@pytest.mark.parametrize("options", [CLOSED, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("kind", FILMS)
@pytest.mark.parametrize("span", [(1000, 1300), (0, 200), (960, 1000), (1400, 2000), (2500, 9000)])
def test_pictures_of_a_span_go_and_all_others_are_as_before(
    kind: str, options: dict[str, str], span: Span
) -> None:
    body = make_film(kind, options=options)
    before = shown(body)
    assert [number for _, number in before] == list(range(75))

    made = cut(body, span)
    after = shown(made.body)

    times = {number: at for at, number in before}
    for at, number in after:
        assert abs(at - times[number]) <= 1
        assert not (at < span[1] and span[0] < at + 40)
    lost = sorted(set(range(75)) - {number for _, number in after})
    # A decoder that meets a key frame of an open group after a gap may show some pictures later.
    late = [number for number in lost if not is_gone(made, times[number] + 20)]
    assert not late or (options is OPEN and len(late) <= GROUP + 2)
    lost = sorted(set(lost) - set(late))
    # No more went than what cannot be decoded alone: a few before the span, and up to the next key frame.
    assert times[lost[0]] >= span[0] - 5 * 40
    end = times[lost[-1]] + 40
    assert end <= (-(-(span[1] - times[0]) // (GROUP * 40)) + 1) * GROUP * 40 + times[0]
    assert made.media_type == {"mp4": "video/mp4", "mov": "video/x-matroska"}.get(kind, "video/x-matroska")


def test_the_manifesto_without_twenty_seconds() -> None:
    body = data("video", "manifesto.mp4").read_bytes()

    made = cut(body, (20_000, 40_000))

    assert made.media_type == "video/mp4"
    assert made.gone == ((19_969, 40_008),)
    before, after = packets(body), packets(made.body)
    assert not [at for _, at, _ in after if 19.999 < at < 39.999]
    kept = {(kind, held) for kind, _, held in after}
    assert all((kind, held) in kept for kind, at, held in before if at < 19.9 or at > 40.1)
    assert len(made.body) < len(body)
    old, new = dict(shown(body)), dict(shown(made.body))
    assert set(new) <= set(old)
    assert {at for at in old if at < 19_900 or at >= 40_000} <= set(new)
    sound, was = hear(made.body), hear(body)
    assert abs(len(sound) - len(was)) <= 1
    assert loudness(sound, 20_050, 39_950) == 0
    for second in (10, 19, 41, 80):
        assert loudness(sound, second * 1000, second * 1000 + 900) == pytest.approx(
            loudness(was, second * 1000, second * 1000 + 900), rel=0.01
        )


def test_what_is_cut_twice_is_as_if_cut_at_once() -> None:
    body = make_film("mp4", options=CLOSED)
    once = cut(body, (500, 600), (2000, 2100))
    assert cut(cut(body, (500, 600)).body, (2000, 2100)).body == once.body
    assert cut(cut(body, (2000, 2100)).body, (500, 600)).body == once.body
    assert cut(body, (2000, 2100), (500, 600), (550, 590)) == once
    assert cut(body, (2000, 2100), (500, 600)) == once


def test_the_last_frames_of_a_file_go_with_its_length() -> None:
    made = cut(make_film("mkv", options=CLOSED), (2000, 1 << 53))
    ((_, end),) = made.gone
    assert 3000 <= end <= 3060
    with av.open(io.BytesIO(made.body)) as container:
        assert container.duration is not None and container.duration <= 2_000_000


def test_nothing_of_a_picture_that_hides_in_packets_before_is_left() -> None:
    """VP9 stores pictures of the future in packets that show nothing of them."""
    body = make_film(
        "webm",
        codec="libvpx-vp9",
        options={"auto-alt-ref": "1", "lag-in-frames": "25", "g": "200", "cpu-used": "8", "deadline": "good"},
    )
    made = cut(body, (2000, 2200))
    assert made.media_type == "video/webm"
    assert [number for _, number in shown(made.body)] == list(range(50 - 32))


# Sound


@pytest.mark.parametrize("kind", SOUNDS)
def test_sound_of_a_span_is_silence_and_all_else_is_heard_when_it_was(kind: str) -> None:
    body = make_media(kind, seconds=3.0, title="Harbour radio")

    made = cut(body, (1000, 2000))

    sound, was = hear(made.body), hear(body)
    assert len(sound) == pytest.approx(len(was), abs=RATE // 100)
    assert loudness(sound, 1020, 1980) == 0
    for start, end in ((100, 800), (2150, 2900)):
        assert loudness(sound, start, end) == pytest.approx(loudness(was, start, end), rel=0.02)
        assert loudness(was, start, end) > 5000
    before = SourceParser().parse_media(content_of(body))
    parsed = SourceParser().parse_media(content_of(made.body))
    assert isinstance(parsed, Audio) and isinstance(before, Audio) and parsed.title == before.title
    assert all(start >= 850 and end <= 2100 for start, end in made.gone)
    old = packets(body)
    origin = min(at for _, at, _ in old) if kind == "ts" else 0.0
    found = [(at - origin, held) for _, at, held in old]
    for _, at, held in packets(made.body):
        if kind != "ogg":  # nothing but its clock tells its packets from one another
            assert any(abs(at - was) <= 0.0011 and held == old for was, old in found)


@pytest.mark.parametrize("kind", SOUNDS)
def test_what_was_cut_out_of_sound_is_cut_out_once_and_for_all(kind: str) -> None:
    once = cut(make_media(kind, seconds=3.0), (1000, 2000))
    for span in ((1000, 2000), (1200, 1300), (1999, 2000)):
        assert cut(once.body, span).body == once.body


def test_a_sum_of_all_its_sound_does_not_stay_in_flac() -> None:
    body = make_media("flac", seconds=2.0)
    with av.open(io.BytesIO(body)) as container:
        header = bytes(container.streams.audio[0].codec_context.extradata or b"")
    assert any(header[18:34])
    made = cut(body, (500, 700))
    assert header[18:34] not in made.body
    with av.open(io.BytesIO(made.body)) as container:
        left = bytes(container.streams.audio[0].codec_context.extradata or b"")
    assert not any(left[18:34]) and left[10:13] == header[10:13]


# Captions, and what lies beside them


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "mov_text"), ("mkv", "subrip"), ("mkv", "ass"), ("mkv", "webvtt"), ("webm", "webvtt")],
)
def test_captions_that_touch_a_span_go_whole(kind: str, codec: str) -> None:
    body = make_media(kind, seconds=5.0, subtitles=[(codec, "eng", CUES)], title="Watch")

    made = cut(body, (1600, 2100))

    parsed = SourceParser().parse(content_of(made.body))
    assert parsed.text == "The ferry leaves at nine.\n\nif the wind allows." or parsed.text == (
        "The ferry leaves at nine.\nif the wind allows."
    )
    assert parsed.title == "Watch"
    assert b"returns" not in made.body
    assert any(start <= 2000 and end >= 3250 for start, end in made.gone)


def test_captions_of_mp4_keep_their_words_in_matroska(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "choose_forms", lambda body: ("matroska",))
    body = make_media("mp4", seconds=5.0, subtitles=[("mov_text", "eng", CUES)])
    made = cut(body, (0, 100))
    assert made.media_type == "audio/x-matroska"
    before, after = (SourceParser().parse(content_of(each)) for each in (body, made.body))
    assert (after.text, [each.place for each in after.passages]) == (
        before.text,
        [each.place for each in before.passages],
    )


def test_tags_that_may_hold_its_words_covers_chapters_and_attachments_go() -> None:
    film, out = make_film("mkv", options=CLOSED), io.BytesIO()
    with av.open(io.BytesIO(film)) as source, av.open(out, "w", format="matroska") as writer:
        writer.metadata.update({"title": "Watch", "comment": "SECRET comment", "lyrics": "SECRET lyrics"})
        writer.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 1000,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "SECRET chapter"},
                }
            ]
        )
        writer.add_attachment("secret.txt", "text/plain", b"SECRET attachment")
        streams = {each.index: writer.add_stream_from_template(each, opaque=True) for each in source.streams}
        streams[0].metadata["comment"] = "SECRET of a track"
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                packet.dts = packet.dts if packet.dts is not None else 0
                writer.mux(packet)
    assert out.getvalue().count(b"SECRET") == 5

    made = cut(out.getvalue(), (1000, 1100))

    assert b"SECRET" not in made.body
    with av.open(io.BytesIO(made.body)) as container:
        assert container.metadata["title"] == "Watch"
        assert [each.type for each in container.streams] == ["video", "audio"]


def head_of(kind: str, unit: bytes) -> bytes:
    """What stands before a unit of a coded picture: its length, or a mark."""
    return b"\0\0\0\1" if kind == "ts" else len(unit).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("codec", "options", "head"),
    [
        ("libx264", CLOSED, b"\x06\x04"),
        ("libx265", {"x265-params": "keyint=12:log-level=none:pools=none:frame-threads=1"}, b"\x4e\x01\x04"),
    ],
)
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_captions_inside_pictures_go(kind: str, codec: str, options: dict[str, str], head: bytes) -> None:
    """They come long before they are read, so that those of a span lie in pictures of before, too."""
    film, out = make_film(kind, codec=codec, options=options), io.BytesIO()
    message = head + b"\x0e\xb5\x00\x31GA94\x03\xc1\xff\xfcHi\xff\x80"
    with av.open(io.BytesIO(film)) as source, av.open(out, "w", format=CODECS[kind][0]) as writer:
        (video,) = source.streams.video
        made = writer.add_stream_from_template(video, opaque=True)
        for packet in source.demux(video):
            if packet.size:
                captioned = av.Packet(head_of(kind, message) + message + bytes(packet))
                captioned.pts, captioned.time_base = packet.pts, packet.time_base
                captioned.dts = -2000 if packet.dts is None else packet.dts
                captioned.is_keyframe = packet.is_keyframe
                captioned.stream = made
                writer.mux(captioned)
    assert out.getvalue().count(b"GA94") == 75

    made = cut(out.getvalue(), (2000, 2100))

    assert b"GA94" not in made.body
    assert [number for _, number in shown(made.body)][:40] == list(range(40))


def test_how_a_picture_is_turned_stays() -> None:
    made = cut(make_film("mp4", options=CLOSED, turned=(90, False, False)), (0, 100))
    with av.open(io.BytesIO(made.body)) as container:
        assert next(container.decode(video=0)).rotation == 90


# Nothing left, or nothing to be done


@pytest.mark.parametrize("kind", ["mp4", "ogg"])
def test_a_file_of_which_nothing_is_left_is_none(kind: str) -> None:
    body = make_media(kind)
    assert cutting.cut(body, [(0, 10_000)]) is None


def test_captions_alone_are_nothing_to_see_or_hear() -> None:
    body = make_media("mkv", seconds=1.0, subtitles=[("subrip", "eng", CUES)])
    assert cutting.cut(body, [(0, 1400)]) is None


def test_a_clock_that_begins_anew_is_refused() -> None:
    """Two broadcasts in one file: a time means two places."""
    whole, again = make_media("ts", seconds=40.0), make_media("ts", seconds=1.0)
    with pytest.raises(InvalidInputError, match="its clock begins anew after second 4"):
        cutting.cut(whole + again, [(0, 100)])


def test_parsing_what_is_left_gives_the_passages_that_are_left() -> None:
    body = make_film("mp4", options=CLOSED, captions=("mov_text", CUES), pictures=120)
    made = SourceParser().parse(content_of(cut(body, (2000, 2050)).body))
    assert isinstance(made, Parsed) and "noon" not in made.text
    assert [(a.place.first, b.place.first) for a, b in pairwise(made.passages) if a.place and b.place] in (
        [],
        [(500, 3300)],
    )
    with pytest.raises(LetheError):
        SourceParser().parse(content_of(cut(body, (0, 3900)).body))
