"""Whisper on a real reading: few words are wrong, and they stand at their times.

The weights are fetched by no test: lethe models get whisper-base, or whisper-tiny.en.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.transcribed import list_words, word_error_rate
from embedding.models import ModelStore, default_cache
from embedding.speech import WhisperSpeech, _is_invented
from embedding.utterances import MOST_MS
from embedding.voice import find_speech, hear_voice
from memory.errors import UnavailableError
from memory.ports import Samples
from memory.values import Content, Parsed, Transcript
from sources.captions import iter_cues
from sources.parse import SourceParser

VIDEO = Path(__file__).parents[3] / "shared" / "data" / "video"
BOUNDS = {"whisper-base": 0.15, "whisper-tiny.en": 0.15}
"""The share of words that may be wrong; 0013 says what was measured."""


def test_the_word_error_rate_counts_all_three_errors() -> None:
    assert word_error_rate(list("abcd"), list("abcd")) == 0
    assert word_error_rate(list("abcd"), list("axd")) == 0.5
    assert word_error_rate(list("ab"), list("abab")) == 1
    assert word_error_rate(list("ab"), []) == 1


def get_speech(name: str) -> WhisperSpeech:
    store = ModelStore(Path(os.environ.get("LETHE_MODELS_CACHE") or default_cache(os.environ)), offline=True)
    folder = store.find(name)
    if folder is None:
        pytest.skip(f"{name} is not in the model cache (lethe models get {name})")
    return WhisperSpeech(lambda: folder, name=name, digest="of no matter", threads=1)


def read_samples(name: str) -> Samples:
    path = VIDEO / name
    if not path.exists():
        pytest.skip(f"{name} is not among the shared data")
    audio = SourceParser().parse_media(Content("document", "video/mp4", path.read_bytes()))
    assert not isinstance(audio, Parsed)
    return np.frombuffer(audio.samples, "<i2")


@pytest.mark.models
@pytest.mark.parametrize("name", BOUNDS)
def test_a_reading_is_heard_with_few_errors_at_its_times(name: str) -> None:
    transcript = get_speech(name).transcribe(read_samples("manifesto.mp4"))
    cues = list(iter_cues((VIDEO / "manifesto.srt").read_text(encoding="utf-8")))
    told = [word for cue in cues for word in list_words(cue.text)]
    rate = word_error_rate(told, list_words(" ".join(said.text for said in transcript.utterances)))
    print(f"{name}: word error rate {rate:.3f} over {len(told)} words")
    assert rate <= BOUNDS[name]
    assert transcript.language == "en"
    assert all(said.end_ms - said.start_ms <= MOST_MS for said in transcript.utterances)
    [spectre] = [said for said in transcript.utterances if "haunting" in said.text.lower()]
    [cue] = [cue for cue in cues if "haunting europe" in cue.text]
    assert spectre.start_ms < cue.end_ms and cue.start_ms < spectre.end_ms


@pytest.mark.models
@pytest.mark.parametrize("name", BOUNDS)
def test_music_alone_is_no_speech(name: str) -> None:
    """Some of it passes for a voice, of which a model makes a hum, or whole sentences."""
    samples = read_samples("trailer_bbb.mp4")
    assert find_speech(hear_voice(samples)), "the detector is not fooled: this test shows nothing"
    assert get_speech(name).transcribe(samples).utterances == ()


@dataclass
class Segment:
    """What faster-whisper tells of a stretch."""

    no_speech_prob: float
    avg_logprob: float


@pytest.mark.parametrize(
    ("no_speech", "of_words", "invented"),
    [(0.70, 0.40, True), (0.73, 0.30, True), (0.72, 0.92, False), (0.13, 0.76, False), (0.40, 0.30, False)],
)
def test_what_is_said_is_believed_before_that_nobody_speaks(
    no_speech: float, of_words: float, invented: bool
) -> None:
    assert _is_invented(Segment(no_speech, math.log(of_words))) is invented


def test_silence_loads_no_weights() -> None:
    def locate() -> Path:
        raise AssertionError("nobody speaks")

    speech = WhisperSpeech(locate, name="w", digest="d")
    assert speech.transcribe(np.zeros(48_000, np.int16)) == Transcript(())


def test_weights_that_are_none_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording waits for better ones; it is not refused."""
    monkeypatch.setattr("embedding.speech.hear_voice", lambda samples, told: np.ones(100, np.float32))
    speech = WhisperSpeech(lambda: tmp_path, name="w", digest="d")
    with pytest.raises(UnavailableError, match="'w' cannot be loaded"):
        speech.transcribe(np.zeros(51_200, np.int16))


def test_closing_ends_the_search_for_speech() -> None:
    """Hours of it take minutes: who stops the service does not wait for them."""
    speech, shares = WhisperSpeech(lambda: Path("nowhere"), name="w", digest="d"), list[float]()

    def told(share: float) -> None:
        shares.append(share)
        if len(shares) == 2:
            speech.close()

    with pytest.raises(UnavailableError, match="the recording waits"):
        speech.transcribe(np.zeros(80 * 16_000, np.int16), told=told)
    assert shares == pytest.approx([0, 0.2 * 8 / 80])


def test_it_tells_of_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.speech.hear_voice", lambda samples, told: np.ones(4_000, np.float32))
    monkeypatch.setattr("embedding.speech._hear", lambda model, waveform, language: ([], 0))
    monkeypatch.setattr(WhisperSpeech, "_get_model", lambda self: None)
    shares: list[float] = []
    speech = WhisperSpeech(lambda: Path("nowhere"), name="w", digest="d")
    speech.transcribe(np.zeros(4_000 * 512, np.int16), language="en", told=shares.append)
    assert shares[0] == 0.2 and shares == sorted(shares) and len(shares) >= 5 and shares[-1] < 1
