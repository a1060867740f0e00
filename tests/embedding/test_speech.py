"""Whisper on a real reading: few words are wrong, and they stand at their times.

The weights are fetched by no test: lethe models get whisper-base, or whisper-tiny.en.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench.transcribed import list_words, word_error_rate
from embedding.models import ModelStore, default_cache
from embedding.speech import WhisperSpeech
from embedding.utterances import MOST_MS
from memory.errors import UnavailableError
from memory.values import Content, Parsed, Transcript
from sources.captions import _cues
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


def transcribe_manifesto(name: str) -> Transcript:
    speech = get_speech(name)
    path = VIDEO / "manifesto.mp4"
    if not path.exists():
        pytest.skip("manifesto.mp4 is not among the shared data")
    audio = SourceParser().parse_media(Content("document", "video/mp4", path.read_bytes()))
    assert not isinstance(audio, Parsed)
    return speech.transcribe(np.frombuffer(audio.samples, "<i2"))


@pytest.mark.models
@pytest.mark.parametrize("name", BOUNDS)
def test_a_reading_is_heard_with_few_errors_at_its_times(name: str) -> None:
    transcript = transcribe_manifesto(name)
    cues = list(_cues((VIDEO / "manifesto.srt").read_text(encoding="utf-8")))
    told = [word for cue in cues for word in list_words(cue.text)]
    rate = word_error_rate(told, list_words(" ".join(said.text for said in transcript.utterances)))
    print(f"{name}: word error rate {rate:.3f} over {len(told)} words")
    assert rate <= BOUNDS[name]
    assert transcript.language == "en"
    assert all(said.end_ms - said.start_ms <= MOST_MS for said in transcript.utterances)
    [spectre] = [said for said in transcript.utterances if "haunting" in said.text.lower()]
    [cue] = [cue for cue in cues if "haunting europe" in cue.text]
    assert spectre.start_ms < cue.end_ms and cue.start_ms < spectre.end_ms


def test_silence_loads_no_weights() -> None:
    def locate() -> Path:
        raise AssertionError("nobody speaks")

    speech = WhisperSpeech(locate, name="w", digest="d")
    assert speech.transcribe(np.zeros(48_000, np.int16)) == Transcript(())


def test_weights_that_are_none_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording waits for better ones; it is not refused."""
    monkeypatch.setattr("embedding.speech.hear_voice", lambda samples: np.ones(100, np.float32))
    speech = WhisperSpeech(lambda: tmp_path, name="w", digest="d")
    with pytest.raises(UnavailableError, match="'w' cannot be loaded"):
        speech.transcribe(np.zeros(51_200, np.int16))
