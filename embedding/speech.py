"""The words of recorded speech, by Whisper (Radford et al. 2022) on the CPU.

The only importer of ``faster_whisper``, which runs Whisper on CTranslate2. Weights are loaded for the first
recording that needs them. The same samples give the same words: beams are searched at temperature 0, with no
second try at another. A window knows nothing of the one before: what was misheard is not said on and on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from embedding.utterances import Word, cut_utterances
from embedding.voice import CHUNK_SAMPLES, Span, find_speech, hear_voice, lay_windows
from memory.errors import UnavailableError
from memory.ports import Samples
from memory.telling import Told, unheard
from memory.values import Transcript

RATE = 16_000
BEAMS = 5
REPEATING = 2.4
"""Text that zlib makes so many times smaller goes round in circles (Whisper's own test of a failure)."""
VOICE_SHARE = 0.2
"""Of the work, before any window: where somebody speaks is looked for first."""
LIKELY = 0.5
LANGUAGE_WINDOWS = 3
"""The language is that of the first windows, until one is sure."""

log = structlog.get_logger(__name__)


class WhisperSpeech:
    """A Whisper model in CTranslate2's format, in eight-bit integers. Several threads may use it.

    ``locate`` returns its folder, fetching it if need be; it raises ``UnavailableError`` when it cannot.
    """

    def __init__(
        self, locate: Callable[[], Path], *, name: str, digest: str, threads: int | None = None
    ) -> None:
        self.name = name
        self.digest = digest
        self._locate = locate
        self._threads = threads
        self._model: Any = None
        self._loading = threading.Lock()
        self._closed = False

    def transcribe(
        self, samples: Samples, *, language: str | None = None, told: Told = unheard
    ) -> Transcript:
        """Return what is said, with times in ms from the first sample.

        One window of 30 s is worked on at a time, and ``told`` before each. Raises ``UnavailableError`` when
        the weights cannot be had, and when it is closed meanwhile.
        """

        def tell(share: float) -> None:
            if self._closed:
                raise UnavailableError("the service is stopping; the recording waits")
            told(share)

        heard = hear_voice(samples, lambda share: tell(share * VOICE_SHARE))
        windows = lay_windows(find_speech(heard), heard)
        if not windows:
            return Transcript(())
        model = self._get_model()
        if language is None:
            language = _find_language(model, samples, windows)
        words: list[Word] = []
        unclear = 0
        for number, window in enumerate(windows):
            tell(VOICE_SHARE + (1 - VOICE_SHARE) * number / len(windows))
            found, left_out = _hear(model, _waveform(samples, window), language)
            start_ms = window.start * CHUNK_SAMPLES * 1000 // RATE
            end_ms = window.end * CHUNK_SAMPLES * 1000 // RATE
            words += _place(found, start_ms, end_ms, words[-1].end_ms if words else 0)
            unclear += left_out
        warnings = () if not unclear else (f"{unclear} stretches of its speech could not be made out",)
        return Transcript(tuple(cut_utterances(words)), language, warnings)

    def close(self) -> None:
        """Have what is under way end: after its window, while it looks for speech at once."""
        self._closed = True

    def _get_model(self) -> Any:
        with self._loading:
            if self._model is None:
                folder = self._locate()
                # Deferred: only recordings need it, and it takes a second.
                from faster_whisper import WhisperModel

                try:
                    # A folder is taken as it is; only names that are none would be looked for on the hub.
                    self._model = WhisperModel(
                        str(folder), device="cpu", compute_type="int8", cpu_threads=self._threads or 0
                    )
                except (RuntimeError, ValueError) as error:
                    raise UnavailableError(f"speech model {self.name!r} cannot be loaded: {error}") from error
                log.info("speech model loaded", model=self.name)
            return self._model


def _waveform(samples: Samples, window: Span) -> npt.NDArray[np.float32]:
    taken = samples[window.start * CHUNK_SAMPLES : window.end * CHUNK_SAMPLES]
    return taken.astype(np.float32) / np.float32(32_768)


def _find_language(model: Any, samples: Samples, windows: list[Span]) -> str:
    if not model.model.is_multilingual:
        return "en"
    best, sure = "en", 0.0
    for window in windows[:LANGUAGE_WINDOWS]:
        language, probability, _ = model.detect_language(_waveform(samples, window))
        if probability > sure:
            best, sure = language, probability
        if sure > 0.5:
            break
    return best


def _hear(model: Any, waveform: npt.NDArray[np.float32], language: str) -> tuple[list[Any], int]:
    """Return the words of a window, and how many stretches were left out for going round in circles."""
    segments, _ = model.transcribe(
        waveform,
        language=language,
        beam_size=BEAMS,
        temperature=0.0,
        condition_on_previous_text=False,
        word_timestamps=True,
    )
    told = [segment for segment in segments if not _is_invented(segment)]
    clear = [segment for segment in told if segment.compression_ratio <= REPEATING]
    return [word for segment in clear for word in segment.words or ()], len(told) - len(clear)


def _is_invented(segment: Any) -> bool:
    """Say whether the model thinks it likelier that nobody speaks than that its words were said.

    Of music and noise that passed for a voice. Both are its own probabilities: of the token for no speech,
    and of a token of the text, their geometric mean.
    """
    no_speech = float(segment.no_speech_prob)
    return no_speech > LIKELY and no_speech > math.exp(segment.avg_logprob)


def _place(found: list[Any], start_ms: int, end_ms: int, after_ms: int) -> Iterator[Word]:
    """Yield words on the recording's clock, none before the one before it or outside its window."""
    for word in found:
        start = min(max(start_ms + round(word.start * 1000), after_ms), end_ms)
        end = min(max(start_ms + round(word.end * 1000), start), end_ms)
        yield Word(start, end, word.word)
        after_ms = end
