"""Video and audio files: captions where there are any, else sound on the file's clock; with and without guard."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from memory.errors import InvalidInputError, LetheError, UnsupportedMediaError
from memory.values import Attributes, Content, Parsed, Place
from sources import media, sound, tracks
from sources.captions import Cue
from sources.guard import GuardedParser
from sources.media import RATE, Audio
from sources.parse import SourceParser, guess_media_type, is_media, parse_cues
from tests.sources.checks import check, data
from tests.sources.moving import CODECS, CUES, TONE_HZ, UNEVEN, make_media, pitch, samples_of

TEXT = "The ferry leaves at nine.\nIt returns at noon, if the wind allows."


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedParser]:
    opened = GuardedParser(processes=1)
    yield opened
    opened.close()


def content_of(body: bytes, filename: str = "watch.mp4", **attributes: object) -> Content:
    media_type = guess_media_type(filename, body)
    return Content("document", media_type, body, Attributes(**attributes), filename)  # type: ignore[arg-type]


def read(guarded: GuardedParser, body: bytes, filename: str = "watch.mp4") -> Parsed | Audio:
    """What both parsers say, which is the same."""
    content = content_of(body, filename)
    said: list[object] = []
    for parser in (SourceParser(), guarded):
        try:
            said.append(parser.parse_media(content))
        except LetheError as error:
            said.append((type(error), str(error)))
    assert said[0] == said[1]
    if isinstance(said[0], Parsed | Audio):
        return said[0]
    raise InvalidInputError(str(said[0]))


def hear(guarded: GuardedParser, body: bytes, filename: str = "watch.mp4") -> Audio:
    heard = read(guarded, body, filename)
    assert isinstance(heard, Audio)
    assert len(heard.samples) == heard.duration_ms * RATE // 1000 * 2 or len(heard.samples) % 2 == 0
    return heard


def loudness(heard: Audio, start_ms: int, end_ms: int) -> float:
    samples = samples_of(heard.samples)[start_ms * RATE // 1000 : end_ms * RATE // 1000]
    return float(np.sqrt(np.mean(samples**2)))


# Sound


@pytest.mark.parametrize("kind", CODECS)
def test_each_format_gives_its_tone_in_its_length(guarded: GuardedParser, kind: str) -> None:
    body = make_media(kind, title="Harbour radio")

    heard = hear(guarded, body, f"a.{kind}" if kind != "ts" else "a.m2ts")

    assert 990 <= heard.duration_ms <= 1030
    assert pitch(samples_of(heard.samples)) == pytest.approx(TONE_HZ, abs=2)
    assert loudness(heard, 200, 800) == pytest.approx(8000 / np.sqrt(2), rel=0.05)
    assert heard.warnings == ()
    assert heard.title == (None if kind == "ts" else "Harbour radio")


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_gaps_are_silence_and_what_follows_keeps_its_time(guarded: GuardedParser, kind: str) -> None:
    heard = hear(guarded, make_media(kind, seconds=3.0, silent=[(1.0, 2.0)]))

    assert 2980 <= heard.duration_ms <= 3040
    assert loudness(heard, 200, 900) > 5000
    assert loudness(heard, 1100, 1900) < 50
    assert loudness(heard, 2100, 2900) > 5000


def test_sound_that_begins_late_keeps_its_time(guarded: GuardedParser) -> None:
    heard = hear(guarded, make_media("mkv", seconds=2.0, silent=[(0.0, 1.0)], pictures=UNEVEN))

    assert 1980 <= heard.duration_ms <= 2040
    assert loudness(heard, 0, 950) < 50 < 5000 < loudness(heard, 1100, 1900)


def test_pictures_of_an_uneven_rate_are_passed_over(guarded: GuardedParser) -> None:
    heard = hear(guarded, make_media("mp4", seconds=1.5, pictures=UNEVEN))

    assert 1490 <= heard.duration_ms <= 1530
    assert heard.warnings == ()


def test_a_video_without_sound_or_captions_is_refused(guarded: GuardedParser) -> None:
    with pytest.raises(InvalidInputError, match="neither captions nor sound"):
        read(guarded, make_media("mp4", sound=False, pictures=UNEVEN))


def test_the_cover_of_a_record_is_no_sound(guarded: GuardedParser) -> None:
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "rgb24", Fraction(1)
    png = b"".join(map(bytes, encoder.encode(av.VideoFrame(16, 16, "rgb24"))))
    picture = b"\x00image/png\x00\x03\x00" + png
    frame = b"APIC" + len(picture).to_bytes(4, "big") + bytes(2) + picture
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    plain = make_media("mp3")
    tags = sum(part << shift for part, shift in zip(plain[6:10], (21, 14, 7, 0), strict=True))
    body = b"ID3\x03\x00\x00" + size + frame + plain[10 + tags :]
    with av.open(io.BytesIO(body)) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]

    heard = hear(guarded, body, "a.mp3")

    assert 990 <= heard.duration_ms <= 1060
    assert heard.warnings == ()


def test_a_clock_that_jumps_fills_no_memory(guarded: GuardedParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time stamp of next month is no month of silence."""
    body = make_media("mkv", seconds=3.0, silent=[(1.0, 2.0)])
    monkeypatch.setattr(sound, "MAX_GAP", RATE // 2)

    heard = SourceParser().parse_media(content_of(body))

    assert isinstance(heard, Audio)
    assert 1980 <= heard.duration_ms <= 2060
    assert any("clock jumps" in warning for warning in heard.warnings)


def test_too_much_sound_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MAX_SAMPLES", RATE // 2)
    with pytest.raises(
        InvalidInputError, match=f"more than {media.MAX_HOURS} hours of sound; send it in parts"
    ):
        SourceParser().parse_media(content_of(make_media("wav")))


# Damage


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "wav", "ogg", "flac"])
def test_of_a_file_that_is_cut_off_the_beginning_is_kept(
    guarded: GuardedParser, kind: str, tmp_path: Path
) -> None:
    body = make_media(kind, seconds=8.0, index_first=tmp_path / "a.mp4" if kind == "mp4" else None)

    heard = hear(guarded, body[: len(body) // 2])

    assert 3000 <= heard.duration_ms <= 5000
    assert pitch(samples_of(heard.samples)[: 2 * RATE]) == pytest.approx(TONE_HZ, abs=2)
    if kind not in ("ts", "ogg", "wav"):  # FFmpeg goes by the end of these that there is
        assert any("nothing could be read from second" in warning for warning in heard.warnings)


def test_a_hole_in_the_middle_costs_what_was_in_it(guarded: GuardedParser) -> None:
    body = bytearray(make_media("ts", seconds=4.0))
    hole = len(body) // 2 // 188 * 188
    body[hole : hole + 188 * 20] = bytes(188 * 20)

    heard = hear(guarded, bytes(body))

    assert 3900 <= heard.duration_ms <= 4100
    assert loudness(heard, 200, 1500) > 5000 and loudness(heard, 2500, 3900) > 5000


def test_an_mp4_whose_index_is_cut_off_is_refused(guarded: GuardedParser) -> None:
    body = make_media("mp4", seconds=2.0)
    with pytest.raises(InvalidInputError, match="damaged or cut off"):
        read(guarded, body[: len(body) // 2])


def test_a_length_that_is_a_lie_is_said(guarded: GuardedParser) -> None:
    body = bytearray(make_media("mkv"))
    length = body.index(b"\x44\x89\x88") + 3
    body[length : length + 8] = struct.pack(">d", 100_000)

    heard = hear(guarded, bytes(body))

    assert 990 <= heard.duration_ms <= 1030
    assert heard.warnings == (
        "nothing could be read from second 1.0 on; it says that it lasts 100.0 s: is it cut off?",
    )


@pytest.mark.parametrize(
    ("body", "filename"),
    [
        (b"", "a.mp4"),
        (bytes(1), "a.mp3"),
        (b"no film at all, but words " * 100, "a.mp4"),
        (bytes(range(256)) * 64, "a.mkv"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "a.mp4"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "a.wav"),
        (b"OggS" + bytes(200), "a.ogg"),
    ],
)
def test_what_is_no_media_is_refused(guarded: GuardedParser, body: bytes, filename: str) -> None:
    with pytest.raises(InvalidInputError):
        read(guarded, body, filename)


def test_no_sound_in_the_header_alone(guarded: GuardedParser) -> None:
    with pytest.raises(InvalidInputError):
        read(guarded, make_media("wav", seconds=0), "a.wav")


def test_a_playlist_under_another_name_opens_nothing(guarded: GuardedParser, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(make_media("wav"))
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na=control:file://{secret}\n",
    ]
    for playlist in playlists:
        with pytest.raises(InvalidInputError, match="this is no MP4"):
            read(guarded, playlist.encode(), "a.mp4")


# Captions


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "mov_text"),
        ("mov", "mov_text"),
        ("mkv", "subrip"),
        ("mkv", "ass"),
        ("mkv", "webvtt"),
        ("webm", "webvtt"),
    ],
)
def test_a_subtitle_track_becomes_passages_with_times(guarded: GuardedParser, kind: str, codec: str) -> None:
    body = make_media(kind, seconds=4.0, subtitles=[(codec, "eng", CUES)], title="Watch")

    parsed = read(guarded, body)

    assert isinstance(parsed, Parsed)
    check(parsed)
    assert (parsed.text, parsed.title) == (TEXT, "Watch")
    assert [passage.place for passage in parsed.passages] == [Place("time", 500, 4000)]
    assert parsed.warnings == ("its text is that of the subtitle track (eng); its sound was not listened to",)
    assert guarded.parse(content_of(body)) == SourceParser().parse(content_of(body)) == parsed


def test_the_first_of_several_tracks_is_read_and_the_others_are_named(guarded: GuardedParser) -> None:
    german = [(500, 1500, "Die Fähre geht um neun.")]
    body = make_media(
        "mkv", sound=False, pictures=UNEVEN, subtitles=[("subrip", "eng", CUES), ("subrip", "deu", german)]
    )

    parsed = read(guarded, body)

    assert isinstance(parsed, Parsed)
    assert parsed.text == TEXT
    assert parsed.title == "watch"
    assert parsed.warnings == ("there are other subtitle tracks, which are not read: deu",)


def test_a_track_without_a_word_leaves_the_sound(guarded: GuardedParser) -> None:
    heard = hear(guarded, make_media("mkv", subtitles=[("subrip", "eng", [(0, 500, "  ")])]))
    assert 990 <= heard.duration_ms <= 1030


def test_speakers_of_subtitle_tracks_are_kept(guarded: GuardedParser) -> None:
    cues = [(0, 900, "<v Ada>It leaves.</v>"), (1000, 1900, "<v Ben>When?</v>")]
    parsed = read(guarded, make_media("mkv", seconds=2.0, subtitles=[("webvtt", "eng", cues)]))
    assert isinstance(parsed, Parsed)
    assert parsed.text == "Ada: It leaves.\n\nBen: When?"


def test_styles_and_drawings_of_ass_fall_away() -> None:
    lines = [
        b"0,0,Default,Ada,0,0,0,,{\\an8}Up{\\i1} here\\Nand, there",
        b"1,0,Default,,0,0,0,,{\\p1}m 0 0 l 10 10",
    ]
    told = [told for line in lines for told in tracks._read_texts("ass", line)]
    assert [(each.text, each.speaker) for each in told] == [("{\\an8}Up{\\i1} here\nand, there", "Ada")]


def test_webvtt_in_mp4_lies_in_boxes() -> None:
    def box(kind: bytes, payload: bytes) -> bytes:
        return (len(payload) + 8).to_bytes(4, "big") + kind + payload

    packet = box(b"vttc", box(b"iden", b"7") + box(b"payl", b"One")) + box(b"vttc", box(b"payl", b"Two"))
    assert [each.text for each in tracks._read_texts("webvtt", packet)] == ["One", "Two"]
    assert list(tracks._read_texts("webvtt", box(b"vtte", b""))) == []
    assert list(tracks._read_texts("webvtt", b"\x00\x00\x00\x02vttcpayl")) == []


def test_without_captions_a_document_is_refused_for_want_of_a_model(guarded: GuardedParser) -> None:
    content = content_of(make_media("mp3"), "a.mp3")
    for parser in (SourceParser(), guarded):
        with pytest.raises(
            InvalidInputError, match="there are no captions in it, and no speech model is loaded"
        ):
            parser.parse(content)


def test_parse_media_takes_media_only(guarded: GuardedParser) -> None:
    content = Content("document", "text/plain", b"words")
    for parser in (SourceParser(), guarded):
        with pytest.raises(UnsupportedMediaError):
            parser.parse_media(content)
    assert is_media("Audio/MPEG; codecs=mp3") and not is_media("text/plain")


def test_cues_of_a_speech_model_are_split_as_captions_are() -> None:
    cues = [Cue(start, end, text.replace("<i>", "").replace("</i>", "")) for start, end, text in CUES]
    body = make_media("mkv", seconds=4.0, subtitles=[("subrip", "eng", CUES)])
    captions = SourceParser().parse(content_of(body))

    parsed = parse_cues(content_of(b""), cues, ["heard by tiny"], title="Radio")

    assert (parsed.text, parsed.sections) == (captions.text, captions.sections)
    assert [each.place for each in parsed.passages] == [each.place for each in captions.passages]
    assert (parsed.title, parsed.warnings) == ("Radio", ("heard by tiny",))
    assert parse_cues(content_of(b"", title="Mine"), cues).title == "Mine"
    assert parse_cues(content_of(b""), cues).title == "watch"
    with pytest.raises(InvalidInputError, match="no text"):
        parse_cues(content_of(b""), [])


# Kinds


@pytest.mark.parametrize("kind", CODECS)
def test_media_are_known_by_their_bytes_and_by_their_names(kind: str) -> None:
    body = make_media(kind)
    known = guess_media_type(None, body)
    assert is_media(known)
    assert guess_media_type("wrong.txt", body[:4096]) == known
    if kind != "ts":  # .ts is TypeScript by its name
        assert guess_media_type(f"a.{kind}", b"") in (known, "video/x-matroska", "video/webm", "video/mp4")
    assert guess_media_type("main.ts", b"const a = 1") == "text/x-typescript"


@pytest.mark.parametrize(("name", "length"), [("manifesto.mp4", 88_073), ("trailer_bbb.mp4", 52_167)])
def test_shared_videos_are_heard_whole(name: str, length: int) -> None:
    heard = SourceParser().parse_media(content_of(data("video", name).read_bytes(), name))
    assert isinstance(heard, Audio)
    assert (heard.duration_ms, heard.warnings) == (length, ())
