"""A film made for measuring: cards of text at known times on a slowly moving picture, and speech where
``espeak-ng`` is installed. The same seed gives the same cards, times and words.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, RATE = 640, 360, 5
SOUND_RATE = 16_000
KEY_SECONDS = 5
"""So often a picture stands for itself, as cameras have it."""
SEED = 6
BETWEEN = (12, 40)
"""Seconds from one card to the next."""
SHOWN = 6
EVERY_SPOKEN = 60
"""A sentence is said so often, in seconds."""
ADJECTIVES = [
    "amber",
    "brisk",
    "copper",
    "dusty",
    "eager",
    "frozen",
    "gentle",
    "hollow",
    "ivory",
    "jolly",
    "keen",
    "lunar",
    "mellow",
    "narrow",
]
NOUNS = [
    "anchor",
    "bridge",
    "candle",
    "dragon",
    "engine",
    "falcon",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lantern",
    "mirror",
]
PLACES = [
    "Aberdeen",
    "Bergen",
    "Calais",
    "Dover",
    "Esbjerg",
    "Faro",
    "Gdansk",
    "Hamburg",
    "Izmir",
    "Jersey",
    "Kiel",
    "Lisbon",
    "Malmo",
]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Card:
    """What is shown from ``start_ms`` for ``SHOWN`` seconds."""

    start_ms: int
    text: str


def make_cards(seconds: int) -> list[Card]:
    """Return the cards of a film of so many seconds; no two have the same text."""
    chance, cards, at = random.Random(SEED), [], 4
    while at + SHOWN < seconds:
        words = chance.choice(ADJECTIVES), chance.choice(NOUNS), chance.choice(PLACES)
        cards.append(Card(1000 * at, f"The {words[0]} {words[1]} of {words[2]} {len(cards) + 101}"))
        at += chance.randint(*BETWEEN)
    return cards


def make_film(path: Path, seconds: int, *, speaks: bool = True) -> list[Card]:
    """Write a Matroska file and return its cards. MPEG-4 and MP2, which every FFmpeg writes."""
    cards = make_cards(seconds)
    voice = _speak("The ferry to the island leaves at nine in the morning.") if speaks else None
    with av.open(str(path), "w", format="matroska") as writer:
        video = writer.add_stream("mpeg4", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate, video.gop_size = 400_000, RATE * KEY_SECONDS
        audio = writer.add_stream("mp2", rate=SOUND_RATE, layout="mono")
        for second in range(seconds):
            for at in range(RATE):
                frame = av.VideoFrame.from_ndarray(_draw(second + at / RATE, cards), format="rgb24")
                frame.pts, frame.time_base = second * RATE + at, Fraction(1, RATE)
                writer.mux(video.encode(frame))
            for heard in _heard(second, voice):
                writer.mux(audio.encode(heard))
        writer.mux(video.encode())
        writer.mux(audio.encode())
    return cards


def _draw(second: float, cards: list[Card]) -> Pixels:
    """Return a picture: a grey sea that hardly moves, a lamp that blinks, and the card that is up."""
    picture: Pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    level = 300 + int(4 * np.sin(second / 3))
    picture[level:] = (30, 60, 90)
    if int(second) % 2:
        cv2.circle(picture, (600, 40), 6, (200, 180, 60), -1)
    card = next((one for one in cards if one.start_ms <= 1000 * second < one.start_ms + 1000 * SHOWN), None)
    if card is not None:
        cv2.putText(picture, card.text, (30, 180), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (240, 240, 240), 2)
    return picture


def _heard(second: int, voice: npt.NDArray[np.int16] | None) -> Iterator[av.AudioFrame]:
    """Yield a second of sound: silence but for the sentence that is said once in a while."""
    sound = np.zeros(SOUND_RATE, np.int16)
    if voice is not None:
        since = second % EVERY_SPOKEN * SOUND_RATE
        said = voice[since : since + SOUND_RATE]
        sound[: len(said)] = said
    frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, second * SOUND_RATE, Fraction(1, SOUND_RATE)
    yield frame


def can_speak() -> bool:
    """Say whether there is a voice on this machine."""
    return shutil.which("espeak-ng") is not None


def _speak(text: str) -> npt.NDArray[np.int16] | None:
    """Return a sentence as samples, ``None`` where nobody can say it."""
    if not can_speak():
        return None
    made = subprocess.run(["espeak-ng", "--stdout", text], check=True, capture_output=True).stdout
    with wave.open(BytesIO(made)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    at = np.arange(0, len(samples), rate / SOUND_RATE)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
