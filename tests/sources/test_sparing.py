"""Which packets go with a span: those that hold any of it, and pictures that need one that went."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.sparing import HIDDEN_PICTURES, Sample, Track, extents, merge, spare

FRAME = 40


def film(pattern: str, *, codec: str = "h264", order: list[int] | None = None) -> Track:
    """A picture every 40 us, K for key frames, decoded in ``order`` of display."""
    order = order or list(range(len(pattern)))
    return Track("video", codec, [Sample(at * FRAME, 0, pattern[at] == "K", 100) for at in order])


def staying(track: Track, *spans: tuple[int, int]) -> list[int]:
    """The numbers of the pictures that stay, as they are shown."""
    kept = zip(track.samples, spare(track, merge(spans)), strict=True)
    return sorted((sample.start or 0) // FRAME for sample, stays in kept if stays)


def sound(codec: str, *sizes: int) -> Track:
    return Track("audio", codec, [Sample(at * 20, 20, True, size) for at, size in enumerate(sizes)])


def test_spans_are_merged_and_empty_ones_are_none() -> None:
    assert merge([(5, 7), (1, 3), (3, 4), (9, 9), (6, 8)]) == [(1, 4), (5, 8)]


def test_pictures_go_up_to_the_next_key_frame() -> None:
    track = film("KPPPPKPPPPKPPP")
    assert staying(track, (80, 90)) == [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert staying(track, (81, 210)) == [0, 1, 10, 11, 12, 13]
    assert staying(track, (80, 200)) == [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert staying(track) == list(range(14))
    assert staying(track, (0, 10_000)) == []


def test_a_picture_is_seen_until_the_next_is_shown() -> None:
    slides = Track("video", "h264", [Sample(0, 40, True, 9), Sample(1000, 40, True, 9)])
    assert extents(slides) == [(0, 1000), (1000, 1040)]
    assert spare(slides, [(500, 600)]) == [False, True]
    assert spare(slides, [(1050, 1100)]) == [True, True]


def test_pictures_that_are_decoded_after_one_that_went_go_even_when_shown_before() -> None:
    # Shown K0 B1 B2 P3 B4 B5 P6, decoded K0 P3 B1 B2 P6 B4 B5.
    track = film("KBBPBBPK", order=[0, 3, 1, 2, 6, 4, 5, 7])
    assert staying(track, (3 * FRAME, 3 * FRAME + 1)) == [0, 7]
    assert staying(track, (5 * FRAME, 5 * FRAME + 1)) == [0, 1, 2, 3, 4, 6, 7]


def test_pictures_before_a_key_frame_that_need_those_behind_it_go_with_them() -> None:
    # An open group: B4 and B5 are shown before K6 and decoded after it, from P3 and K6.
    track = film("KBBPBBKPP", order=[0, 3, 1, 2, 6, 4, 5, 7, 8])
    assert staying(track, (3 * FRAME, 3 * FRAME + 1)) == [0, 6, 7, 8]
    assert staying(track, (4 * FRAME, 4 * FRAME + 1)) == [0, 1, 2, 3, 6, 7, 8]
    assert staying(track, (6 * FRAME, 6 * FRAME + 1)) == [0, 1, 2, 3]


@pytest.mark.parametrize("codec", ["vp8", "vp9", "av1", "libdav1d"])
def test_codecs_that_hide_later_pictures_lose_those_before_a_span(codec: str) -> None:
    track = film("K" + "P" * 99 + "K" + "P" * 99, codec=codec)
    assert staying(track, (60 * FRAME, 60 * FRAME + 1)) == [
        *range(60 - HIDDEN_PICTURES),
        *range(100, 200),
    ]
    assert staying(track, (100 * FRAME, 100 * FRAME + 1)) == list(range(100)), "a key frame bounds them"


def test_sound_goes_with_what_overlaps_it() -> None:
    def kept(codec: str, *sizes: int) -> list[int]:
        return [at for at, each in enumerate(spare(sound(codec, *sizes), [(101, 119)])) if each]

    assert kept("pcm_s16le", *[400] * 9) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert kept("aac", *[400] * 9) == [0, 1, 2, 3, 6, 7, 8]
    assert kept("mp3float", *[700] * 9) == [0, 1, 2, 6, 7, 8], "511 bytes may lie in the frames before"
    assert kept("mp3float", *[400] * 9) == [0, 1, 6, 7, 8]
    assert kept("mp3float", 900, 100, 900, *[400] * 6) == [0, 1, 6, 7, 8]
    assert kept("mp3float", *[100] * 9) == [6, 7, 8]


def test_captions_go_with_any_part_of_them() -> None:
    cues = [
        Sample(0, 50, True, 9),
        Sample(50, 100, True, 9),
        Sample(200, 0, True, 9),
        Sample(300, 0, True, 9),
    ]
    track = Track("subtitle", "subrip", cues)
    assert spare(track, [(49, 50)]) == [False, True, True, True]
    assert spare(track, [(140, 190)]) == [True, False, True, True]
    assert spare(track, [(290, 299)]) == [True, True, False, True], "of no told length: until the next"
    assert spare(track, [(4_000_000, 4_000_001)]) == [True, True, True, False]


def test_what_has_no_time_never_stays() -> None:
    blind = [Sample(0, 40, True, 9), Sample(None, 40, False, 9), Sample(80, 40, False, 9)]
    assert spare(Track("video", "h264", blind), []) == [True, False, False]
    assert spare(Track("audio", "aac", blind), []) == [True, False, True]


@given(
    keys=st.sets(st.integers(0, 59)),
    spans=st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 2600))),
    codec=st.sampled_from(["h264", "vp9"]),
)
def test_what_stays_is_not_seen_in_a_span_and_can_be_decoded(
    keys: set[int], spans: list[tuple[int, int]], codec: str
) -> None:
    track = film("".join("K" if at == 0 or at in keys else "P" for at in range(60)), codec=codec)
    merged = merge(spans)
    kept = set(staying(track, *merged))
    for at in kept:
        assert not any(start < (at + 1) * FRAME and at * FRAME < end for start, end in merged)
        key = max(each for each in {0, *keys} if each <= at)
        assert set(range(key, at)) <= kept
    if not merged:
        assert len(kept) == 60
