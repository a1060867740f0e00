"""One picture of a video: the one that is shown at a time, upright, with square pixels, and no larger than asked."""

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from memory.errors import InvalidInputError, UnsupportedMediaError
from memory.values import Content
from sources import demuxing
from sources import picture as module
from sources.guard import GuardedParser
from sources.media import Picture
from sources.parse import SourceParser, guess_media_type
from sources.picture import picture
from tests.sources.checks import data
from tests.sources.moving import UNEVEN, make_film, make_media, read_number

GROUPS = {"x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=3"}
CODECS = {
    "libx264": ("mp4", GROUPS),
    "libx265": ("mp4", {"x265-params": "keyint=25:bframes=3:log-level=none:pools=none:frame-threads=1"}),
    "libvpx": ("webm", {"g": "25", "deadline": "realtime"}),
    "libvpx-vp9": ("webm", {"g": "25", "deadline": "realtime", "cpu-used": "8"}),
    "libsvtav1": ("mp4", {"g": "25", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": ("mp4", {"g": "25"}),
    "mpeg2video": ("ts", {"g": "25"}),
    "mpeg1video": ("ts", {"g": "25"}),
    "mjpeg": ("mkv", {"strict": "unofficial"}),
}
"""Encoders of what is read, in a container that is common for each."""


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedParser]:
    opened = GuardedParser(processes=1, seconds=20)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def film() -> bytes:
    return make_film("mp4", options=GROUPS)


def pixels(made: Picture) -> np.ndarray:
    """The picture as (height, width, 3), as whoever opens the JPEG sees it."""
    with av.open(io.BytesIO(made.body)) as container:
        (frame,) = container.decode(video=0)
        assert (frame.width, frame.height) == (made.width, made.height)
        return frame.to_ndarray(format="rgb24")


def content_of(body: bytes) -> Content:
    return Content("document", guess_media_type(None, body[:4096]), body)


@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_shows_its_picture_at_each_time(codec: str, guarded: GuardedParser) -> None:
    kind, options = CODECS[codec]
    body = make_film(kind, codec=codec, options=options)
    for at in (0, 5, 24, 25, 26, 49, 60, 74):
        made = guarded.picture(content_of(body), at * 40 + 30)
        assert abs(made.at_ms - at * 40) <= 25
        assert read_number(pixels(made)) == at
        assert (made.width, made.height) == (64, 48)


def test_the_guard_says_what_is_said_without_it(film: bytes, guarded: GuardedParser) -> None:
    plain = SourceParser()
    assert guarded.picture(content_of(film), 1010) == plain.picture(content_of(film), 1010)
    assert guarded.picture(content_of(film), 1010, max_side=32).width == 32
    for parser in (guarded, plain):
        with pytest.raises(UnsupportedMediaError):
            parser.picture(Content("document", "text/plain", b"words"), 0)


def test_the_same_picture_has_the_same_bytes_and_tells_of_nothing_else(film: bytes) -> None:
    assert picture(film, 1010).body == picture(film, 1030).body
    assert b"Lavc" not in picture(film, 1010).body


def test_pictures_at_uneven_times_are_shown_until_the_next() -> None:
    body = make_media("mkv", seconds=2.0, pictures=UNEVEN)
    found = [picture(body, at).at_ms for at in (0, 39, 40, 199, 239, 699, 700, 1600, 1990)]
    assert found == [0, 0, 40, 40, 200, 240, 700, 1500, 1500]


def test_the_end_is_that_of_the_file(film: bytes) -> None:
    assert picture(film, 2999).at_ms == 2960
    with pytest.raises(InvalidInputError, match=r"at_ms: it is over at 30\d\d ms, before 4000 ms"):
        picture(film, 4000)
    with pytest.raises(InvalidInputError, match="it is over"):
        picture(film, 10**10)


def test_before_its_first_picture_a_video_shows_nothing(film: bytes) -> None:
    late = SourceParser().cut(content_of(film), [(0, 1500)])
    assert late is not None
    with pytest.raises(
        InvalidInputError, match="at_ms: it shows nothing at 500 ms; its first picture is at 2000"
    ):
        picture(late.body, 500)
    assert picture(late.body, 1001).at_ms == 2000, "a moment before it is shown, it is"


def test_what_has_no_pictures_is_refused() -> None:
    for kind in ("mp3", "wav", "mp4"):
        with pytest.raises(InvalidInputError, match="there are no moving pictures in it"):
            picture(make_media(kind), 0)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_the_file_says(degrees: int, flips: tuple[bool, bool]) -> None:
    """The bright corner of the painted picture, at its top left, goes where a player shows it."""
    body = make_film("mp4", options=GROUPS, pictures=2, turned=(degrees, *flips))

    made = picture(body, 0)

    seen = pixels(made).mean(axis=2)
    assert (made.width, made.height) == ((64, 48) if degrees % 180 == 0 else (48, 64))
    with av.open(io.BytesIO(body)) as container:
        frame = next(container.decode(video=0))
        plain = frame.to_ndarray(format="rgb24").mean(axis=2)
        matrix = bytes(frame.side_data["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in frame.side_data else None
        told = None if matrix is None else np.frombuffer(matrix, "<i4")
    a, b, c, d = (65536, 0, 0, 65536) if told is None else (told[0], told[1], told[3], told[4])
    # By the definition of the matrix: where each old pixel goes, about the middle.
    height, width = plain.shape
    expected = np.zeros(seen.shape)
    for y in range(height):
        for x in range(width):
            right, down = x - (width - 1) / 2, y - (height - 1) / 2
            to_x = (a * right + c * down) / 65536 + (made.width - 1) / 2
            to_y = (b * right + d * down) / 65536 + (made.height - 1) / 2
            expected[round(to_y), round(to_x)] = plain[y, x]
    assert np.abs(seen - expected).mean() < 12
    if flips == (False, False):
        corner = {0: (5, 7), 90: (-7, 5), 180: (-5, -7), 270: (7, -5)}[degrees]
        assert seen[corner] > 200, "turned against the clock"


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (128, 48)), (Fraction(1, 2), (64, 96)), (Fraction(4, 3), (86, 48))]
)
def test_pixels_become_square(aspect: Fraction, size: tuple[int, int]) -> None:
    made = picture(make_film("mp4", options=GROUPS, pictures=2, aspect=aspect), 0)
    assert (made.width, made.height) == size
    assert read_number(pixels(made)) == 0


def test_large_pictures_are_made_smaller_and_small_ones_not_larger() -> None:
    body = make_film("mp4", options={"preset": "ultrafast"}, pictures=2, size=(1920, 1080))
    made = picture(body, 40)
    assert (made.width, made.height) == (1280, 720)
    assert read_number(pixels(made)) == 1
    assert max(picture(body, 40, max_side=101).width, 0) == 100
    assert picture(make_film("mp4", options=GROUPS, pictures=1), 0).width == 64


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_pictures_too_large_are_refused_before_they_are_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = make_film(kind, options=GROUPS, pictures=2, size=(128, 96))
    monkeypatch.setattr(module, "MAX_DECODED_SIDE", 100)
    with pytest.raises(InvalidInputError, match="its pictures of 128 x 96 pixels are too large: at most 100"):
        picture(body, 0)
    monkeypatch.undo()
    # A stream that says one thing in its container and another in itself meets the decoder's own limit.
    monkeypatch.setattr(module, "MAX_PIXELS", 100 * 96)
    monkeypatch.setattr(module, "check_size", lambda width, height: None)
    with pytest.raises(InvalidInputError, match="none of its pictures can be decoded"):
        picture(body, 0)


def test_a_kind_of_pictures_that_is_not_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    body = make_film("mkv", codec="ffv1", pictures=2)
    with pytest.raises(InvalidInputError, match=r"its pictures are of a kind that is not read \(ffv1\)"):
        picture(body, 0)


def test_what_is_before_a_broken_end_is_shown(film: bytes) -> None:
    for kind in ("mkv", "ts"):
        whole = make_film(kind, options=GROUPS)
        broken = whole[: len(whole) * 6 // 10]
        assert read_number(pixels(picture(broken, 1030))) == 25
        with pytest.raises(InvalidInputError, match="it is over at"):
            picture(broken, 2900)
    inside = bytearray(film)
    start = film.index(b"mdat") + 15_000
    inside[start : start + 3_000] = bytes(3_000)
    assert read_number(pixels(picture(bytes(inside), 100))) == 2


def test_a_seek_that_lands_behind_the_time_is_not_believed(
    film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index may be wrong: then decoding begins farther back, and at last at the beginning."""
    tried: list[int | None] = []
    real = module._decode_from

    def decode_from(body: bytes, from_ms: int | None, at_ms: int) -> object:
        tried.append(from_ms)
        return real(body, None if from_ms is None else from_ms + 1_000, at_ms)

    monkeypatch.setattr(module, "_decode_from", decode_from)
    assert read_number(pixels(picture(film, 1900))) == 47
    assert tried == [1900, None]


def test_pictures_of_a_real_film() -> None:
    body = data("video", "trailer_bbb.mp4").read_bytes()
    for at in (0, 24_541, 52_000):
        made = picture(body, at)
        assert 0 <= at - made.at_ms <= 42
        assert (made.width, made.height) == (1280, 720)


def test_decoders_that_are_not_named_are_not_used() -> None:
    assert {"h264", "hevc", "vp8", "vp9", "libdav1d", "theora"} <= demuxing.PICTURES
    assert not demuxing.PICTURES & demuxing.SOUNDS
