"""Clips, and what stands around cutting: the guard, damaged files, and what is written is read back."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from memory.errors import InvalidInputError, UnsupportedMediaError
from memory.values import Content
from sources import cutting, remuxing
from sources.guard import GuardedParser
from sources.media import RATE, Clip, Cut
from sources.parse import SourceParser, guess_media_type
from tests.sources.moving import CODECS, CUES, make_film, make_media
from tests.sources.playing import CLOSED, OPEN, content_of, hear, loudness, shown

SOUNDS = sorted(CODECS)
FILMS = ("mp4", "mov", "mkv", "ts")


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedParser]:
    opened = GuardedParser(processes=1, seconds=20)
    yield opened
    opened.close()


# Clips


@pytest.mark.parametrize("kind", FILMS)
def test_a_clip_begins_at_the_key_frame_before_and_plays_from_zero(kind: str) -> None:
    body = make_film(kind, options=CLOSED)
    first = shown(body)[0][0]

    made = cutting.clip(body, 1000, 1500)

    assert made.start_ms <= 1000 and made.start_ms >= 960 - 25 + first
    assert 1500 <= made.end_ms <= 1750
    found = shown(made.body)
    assert [number for _, number in found][:13] == list(range(24, 37))
    assert found[-1][1] <= 41
    assert all(abs(at + made.start_ms - first - number * 40) <= 2 for at, number in found)
    sound = hear(made.body)
    assert loudness(sound, 100, 450) == pytest.approx(8000 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_clip_of_sound_is_as_long_as_was_asked(kind: str, guarded: GuardedParser) -> None:
    body = make_media(kind, seconds=3.0)
    made = guarded.clip(content_of(body), 1000, 2000)
    assert made == cutting.clip(body, 1000, 2000)
    assert 1000 <= made.start_ms <= 1110 and 2000 <= made.end_ms <= 2110
    assert len(hear(made.body)) == pytest.approx((made.end_ms - made.start_ms) * RATE // 1000, abs=RATE // 10)


def test_a_clip_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nothing to see or hear from 9000 to 9500 ms"):
        cutting.clip(make_film("mp4", options=CLOSED), 9000, 9500)


def test_a_clip_has_no_captions_and_no_tags_of_words() -> None:
    body = make_film("mkv", options=CLOSED, captions=("subrip", CUES), tags={"comment": "SECRET"})
    made = cutting.clip(body, 0, 2000)
    assert b"ferry" not in made.body and b"SECRET" not in made.body


# Behind the guard


def test_the_guard_says_what_is_said_without_it(guarded: GuardedParser) -> None:
    content = content_of(make_film("mkv", options=OPEN))
    assert guarded.cut(content, [(1000, 1200)]) == SourceParser().cut(content, [(1000, 1200)])
    assert guarded.clip(content, 1000, 1200) == SourceParser().clip(content, 1000, 1200)
    assert guarded.cut(content, [(0, 10_000)]) is None
    captions = Content("document", "text/vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\nOne\n")
    for spans in ([(5_000, 1 << 53)], [(0, 1 << 53)]):
        assert guarded.cut(captions, spans) == SourceParser().cut(captions, spans)
    text = Content("document", "text/plain", b"words")
    for parser in (guarded, SourceParser()):
        with pytest.raises(UnsupportedMediaError):
            parser.cut(text, [(0, 1)])
        with pytest.raises(UnsupportedMediaError):
            parser.clip(text, 0, 1)
        with pytest.raises(InvalidInputError, match="this is no MP4"):
            parser.cut(Content("document", "video/mp4", b"no film"), [(0, 1)])


def damage(body: bytes, seed: int) -> bytes:
    """Return it with some bytes changed, and sometimes its end cut off."""
    chance = random.Random(seed)
    changed = bytearray(body)
    for _ in range(chance.choice((1, 5, 40))):
        at = (
            chance.randrange(len(changed))
            if chance.random() < 0.5
            else chance.randrange(min(600, len(changed)))
        )
        changed[at] = chance.randrange(256)
    return bytes(changed[: chance.randrange(len(changed))] if chance.random() < 0.3 else changed)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "webm", "ogg", "flac", "wav", "mp3"])
def test_damaged_files_are_cut_or_refused(kind: str, guarded: GuardedParser) -> None:
    body = (
        make_film(kind, options=CLOSED, captions=("mov_text", CUES) if kind == "mp4" else None, pictures=40)
        if kind in ("mp4", "mkv", "ts")
        else make_media(kind)
    )
    refused = 0
    for seed in range(12):
        content = Content("document", guess_media_type(None, body[:4096]), damage(body, seed))
        for ask in (
            lambda: guarded.cut(content, [(200, 400)]),  # noqa: B023
            lambda: guarded.clip(content, 200, 400),  # noqa: B023
            lambda: guarded.picture(content, 300),  # noqa: B023
        ):
            try:
                made = ask()
            except InvalidInputError as error:
                assert "does not foresee" not in str(error), (kind, seed, str(error))
                assert "ended the process" not in str(error), (kind, seed, str(error))
                refused += 1
                continue
            if isinstance(made, Cut | Clip):
                assert made.body
    assert refused < 36


def test_a_cut_that_is_read_back_otherwise_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container cannot keep the times, another is taken; where none can, the file stays whole."""
    body = make_film("mp4", options=CLOSED)
    real = remuxing._holds
    tried: list[int] = []

    def holds(written: bytes, expected: list[list[int]]) -> bool:
        tried.append(len(written))
        return len(tried) > 1 and real(written, expected)

    monkeypatch.setattr(remuxing, "_holds", holds)
    made = cutting.cut(body, [(0, 100)])
    assert made is not None and made.media_type == "video/x-matroska"
    monkeypatch.setattr(remuxing, "_holds", lambda written, expected: False)
    with pytest.raises(InvalidInputError, match="it can only be kept whole"):
        cutting.cut(body, [(0, 100)])
    monkeypatch.undo()
    assert not real(body, [[0], [0]])
    moved = [[start + 5_000 for start in starts] for starts in expected_starts(body)]
    assert real(body, expected_starts(body)) and not real(body, moved)


def expected_starts(body: bytes) -> list[list[int]]:
    tracks = remuxing.read_tracks(body)
    return [[sample.start or 0 for sample in track.samples] for track in tracks.values()]
