"""The key frames of a film: few of what stands still, one a scene, and every caption; with their times."""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.values import Content, Place
from sources import key_frames
from sources.guard import GuardedParser
from sources.key_frames import look
from sources.parse import SourceParser
from sources.picture import picture
from sources.questions import LOOK, Answer, read_looked, tell
from sources.stills import Looked
from tests.sources.moving import make_media
from tests.sources.painted import RATE, SIZE, draw_scene, film, write_text
from tests.sources.test_hostile_files import PATCHES, damaged

FRAME_MS = 1000 // RATE


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedParser]:
    opened = GuardedParser(processes=1)
    yield opened
    opened.close()


def spans(looked: Looked) -> list[tuple[int, int]]:
    return [(still.place.first, still.place.last) for still in looked.stills if still.place is not None]


def pixels(looked: Looked, index: int) -> np.ndarray:
    still = looked.stills[index]
    return np.frombuffer(still.pixels, np.uint8).reshape(still.height, still.width, 3).astype(int)


def test_a_scene_that_stands_still_is_one_picture() -> None:
    looked = look(film([draw_scene(1)] * 10 * RATE))
    assert spans(looked) == [(0, 10_000)]
    assert (looked.stills[0].width, looked.stills[0].height) == SIZE
    assert np.abs(pixels(looked, 0) - draw_scene(1)).mean() < 6
    assert looked.rest is None and looked.warnings == ()


def test_each_of_ten_scenes_is_kept_with_its_time() -> None:
    lengths = [13, 30, 9, 25, 40, 12, 50, 8, 33, 20]
    looked = look(film([draw_scene(seed) for seed, length in enumerate(lengths) for _ in range(length)]))
    begins = np.cumsum([0, *lengths]) * FRAME_MS
    assert len(looked.stills) == 10
    for (start, end), told in zip(spans(looked), pairwise(begins), strict=True):
        assert abs(start - told[0]) <= FRAME_MS and abs(end - told[1]) <= FRAME_MS
    for seed in range(10):
        assert np.abs(pixels(looked, seed) - draw_scene(seed)).mean() < 8


def test_a_caption_over_the_same_scene_is_kept_and_its_end_is_known() -> None:
    scene = draw_scene(3, (1280, 720))
    shown = write_text(scene, "the tide turns", top=660, scale=1.2)
    looked = look(film([scene] * 50 + [shown] * 60 + [scene] * 40, options={"preset": "ultrafast"}))
    begins = [start for start, _ in spans(looked)]
    assert len(begins) == 3
    assert abs(begins[1] - 2000) <= 4 * FRAME_MS and abs(begins[2] - 4400) <= 4 * FRAME_MS
    assert (pixels(looked, 1).max(2) > 230).sum() > (pixels(looked, 0).max(2) > 230).sum() + 300


def test_a_scene_that_moves_on_and_on_is_looked_at_every_other_second() -> None:
    looked = look(film([draw_scene(5, shift=2 * number) for number in range(8 * RATE)]))
    gaps = [end - start for start, end in spans(looked)]
    assert 4 <= len(gaps) <= 8 and max(gaps) <= 2_000


def test_pictures_at_long_uneven_times_are_all_kept() -> None:
    times = [0, 4_000, 4_500, 15_000, 15_600]
    looked = look(film([draw_scene(seed) for seed in range(5)], "mkv", times_ms=times))
    assert [start for start, _ in spans(looked)] == times


def test_what_shows_nothing_is_left_out_and_ends_what_was_shown() -> None:
    black = np.zeros_like(draw_scene(0))
    looked = look(film([black] * 25 + [draw_scene(1)] * 50 + [black] * 25))
    (start, end), *others = spans(looked)
    assert not others
    assert abs(start - 1000) <= FRAME_MS and abs(end - 3000) <= FRAME_MS


def test_an_answer_that_is_full_says_where_to_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    body = film([draw_scene(seed) for seed in range(6) for _ in range(25)])
    whole = spans(look(body))
    monkeypatch.setattr(key_frames, "MAX_STILLS", 2)
    found, start, parts = [], 0, 0
    while True:
        looked = look(body, start)
        found += spans(looked)
        parts += 1
        if looked.rest is None:
            break
        assert looked.rest > start and len(looked.stills) <= 2
        start = looked.rest
    assert parts >= 3
    assert found[0][0] == 0 and found[-1][1] == whole[-1][1]
    assert all(left[1] == right[0] for left, right in pairwise(found))
    seen = [start for start, _ in found]
    assert all(min(abs(start - each) for each in seen) <= 250 for start, _ in whole)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_as_they_are_meant_to_be_seen(degrees: int) -> None:
    upright = draw_scene(7)
    upright[:40, :80] = 255
    stored = np.ascontiguousarray(np.rot90(upright, -degrees // 90))
    looked = look(film([stored] * 10, turned=degrees))
    assert (looked.stills[0].width, looked.stills[0].height) == SIZE
    assert np.abs(pixels(looked, 0) - upright).mean() < 8


def test_large_pictures_are_scaled_down() -> None:
    looked = look(film([draw_scene(2, (1920, 1080))] * 3, options={"preset": "ultrafast"}))
    assert (looked.stills[0].width, looked.stills[0].height) == (1280, 720)


def test_a_file_that_is_cut_off_keeps_what_was_good() -> None:
    body = film([draw_scene(seed) for seed in range(6) for _ in range(25)], "mkv")
    looked = look(body[: len(body) * 2 // 3])
    assert 2 <= len(looked.stills) <= 5
    assert any("cut off" in warning for warning in looked.warnings)


def test_sound_alone_shows_nothing_and_what_is_no_film_is_refused() -> None:
    assert look(make_media("mp3")) == Looked(())
    assert look(make_media("m4a")) == Looked(())
    with pytest.raises(InvalidInputError, match="this is no MP4"):
        look(b"\x00\x00\x00\x18ftypisom" + bytes(500))


def test_the_guarded_process_sees_the_same(guarded: GuardedParser) -> None:
    body = film([write_text(draw_scene(seed), f"card {seed}") for seed in range(3) for _ in range(20)])
    content = Content("document", "video/mp4", body)
    assert guarded.look(content) == SourceParser().look(content) == look(body)


@pytest.mark.parametrize(
    ("stills", "size"),
    [
        ([[2, 2, ["time", 0, 5]]], 11),
        ([[2, 2, ["time", 0, 5]]], 13),
        ([[2, 2, ["time", 9, 5]]], 12),
        ([[2, 2, ["row", 0, 5]]], 12),
        ([[-2, -2, None]], 12),
        ([[0, 5, None]], 0),
        ([[2.0, 2, None]], 12),
        ([[math.nan, 2, None]], 12),
    ],
)
def test_stills_that_do_not_hold_together_are_no_answer(stills: list[object], size: int) -> None:
    told = {"stills": stills, "rest": None, "title": None, "warnings": []}
    with pytest.raises((ValueError, TypeError)):
        read_looked(tell(LOOK, told, bytes(size)))


def test_stills_that_hold_together_are_read() -> None:
    told = {"stills": [[2, 2, ["page", 3, 3]]], "rest": 7, "title": "A", "warnings": ["b"]}
    looked = read_looked(tell(LOOK, told, bytes(12)))
    assert looked.rest == 7 and looked.stills[0].place == Place("page", 3, 3)
    assert read_looked(
        Answer(LOOK, b'{"stills": [], "rest": null, "title": null, "warnings": []}')
    ) == Looked(())


def test_a_picture_that_the_decoder_holds_back_until_the_end_is_found() -> None:
    body = film([draw_scene(seed) for seed in range(5)], "mkv", times_ms=[0, 4_000, 4_500, 15_000, 15_600])
    assert picture(body, 15_600).at_ms == 15_600


CARDS = film([draw_scene(seed, (96, 64)) for seed in range(4) for _ in range(6)], "mkv")


@settings(max_examples=80, deadline=None)
@given(PATCHES, st.sampled_from([1.0, 1.0, 0.9, 0.4]))
def test_damaged_films_are_looked_at_as_far_as_can_be_or_refused(
    patches: list[tuple[int, bytes]], keep: float
) -> None:
    with suppress(InvalidInputError):
        looked = look(damaged(CARDS, patches, keep))
        assert all(start <= end for start, end in spans(looked))
        assert all(left[1] <= right[0] for left, right in pairwise(spans(looked)))
        assert all(len(still.pixels) == still.width * still.height * 3 for still in looked.stills)
