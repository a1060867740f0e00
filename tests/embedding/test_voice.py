"""Where somebody speaks: silence and tones are no speech, and windows hold all that is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedding.voice import WINDOW_CHUNKS, Span, find_speech, hear_voice, lay_windows

SECONDS = 3
TIMES = np.arange(SECONDS * 16_000) / 16_000
SOUNDS = {
    "silence": np.zeros(SECONDS * 16_000),
    "a tone": 9_000 * np.sin(2 * np.pi * 440 * TIMES),
    "hiss": np.random.default_rng(3).normal(0, 300, SECONDS * 16_000),
    "nothing": np.zeros(0),
}
HEARD = arrays(np.float32, st.integers(0, 300), elements=st.sampled_from([0, 0.1, 0.4, 0.6, 1]))


@pytest.mark.parametrize("name", SOUNDS)
def test_what_is_no_speech_is_not_heard_as_speech(name: str) -> None:
    samples = SOUNDS[name].astype(np.int16)
    heard = hear_voice(samples)
    assert len(heard) == -(-len(samples) // 512)
    assert find_speech(heard) == []


def test_it_tells_how_far_it_is_and_ends_when_told_to() -> None:
    class StopError(Exception):
        pass

    def stop(share: float) -> None:
        shares.append(share)
        if share > 0.3:
            raise StopError

    shares: list[float] = []
    with pytest.raises(StopError):
        hear_voice(np.zeros(60 * 16_000, np.int16), stop)
    assert shares == pytest.approx([0, 8 / 60, 16 / 60, 24 / 60])


@given(HEARD)
def test_stretches_of_speech_are_apart_and_hold_what_is_long_enough(heard: np.ndarray) -> None:
    spans = find_speech(heard)
    assert all(before.end < after.start for before, after in itertools.pairwise(spans))
    assert all(0 <= span.start < span.end <= len(heard) for span in spans)
    held = {chunk for span in spans for chunk in range(span.start, span.end)}
    for start in range(len(heard) - 8):
        if (heard[start : start + 8] >= 0.5).all():
            assert set(range(start, start + 8)) <= held


@given(HEARD, st.integers(20, 90), st.integers(0, 60))
def test_windows_hold_all_speech_once_and_are_no_longer_than_allowed(
    heard: np.ndarray, most: int, apart: int
) -> None:
    speech = find_speech(heard)
    windows = lay_windows(speech, heard, most=most, apart=apart)
    assert all(0 < window.end - window.start <= most for window in windows)
    assert all(before.end <= after.start for before, after in itertools.pairwise(windows))
    held = {chunk for window in windows for chunk in range(window.start, window.end)}
    assert {chunk for span in speech for chunk in range(span.start, span.end)} <= held


def test_long_speech_is_cut_where_it_is_quietest() -> None:
    heard = np.ones(1_500, np.float32)
    heard[800] = 0.7
    windows = lay_windows(find_speech(heard), heard)
    assert windows == [Span(0, 800), Span(800, 1_500)]
    assert WINDOW_CHUNKS == 937
