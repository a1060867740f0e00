"""Media files through the service's parser: captions first, else what is heard, with its times."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

from embedding.models import ModelStore
from memory.errors import InvalidInputError, NotFoundError
from memory.ports import Samples
from memory.telling import Told, unheard
from memory.values import Content, Parsed, Transcript, Utterance
from service.media import MediaParser
from service.models import make_speech
from service.settings import Settings
from sources.captions import Cue
from sources.media import RATE, Audio
from sources.parse import SourceParser, parse_cues

VIDEO = Content("document", "video/mp4", b"of no matter", filename="talk.mp4")
SAID = (Utterance(1_000, 2_500, "A spectre is haunting Europe."), Utterance(9_000, 9_900, "Workers, unite!"))


class FakeSpeech:
    """Hears what it was told to, and notes how many samples it was given."""

    name, digest = "fake", "f" * 64

    def __init__(self, *said: Utterance) -> None:
        self.said = said
        self.heard: list[int] = []
        self.closed = False

    def transcribe(
        self, samples: Samples, *, language: str | None = None, told: Told = unheard
    ) -> Transcript:
        self.heard.append(len(samples))
        told(0.5)
        return Transcript(self.said, "en", ("one stretch could not be made out",))

    def close(self) -> None:
        self.closed = True


class FakeSource(SourceParser):
    """Brings captions or sound without opening anything."""

    def __init__(self, media: Parsed | Audio) -> None:
        self.media = media
        self.closed = False

    def parse_media(self, content: Content) -> Parsed | Audio:
        return self.media

    def close(self) -> None:
        self.closed = True


SOUND = Audio(bytes(2 * RATE * 10), 10_000, "A talk", ("a piece was damaged",))


def test_what_is_heard_has_its_times_title_and_warnings() -> None:
    speech = FakeSpeech(*SAID)
    shares: list[float] = []
    parsed = MediaParser(FakeSource(SOUND), speech).parse(VIDEO, shares.append)
    assert speech.heard == [10 * RATE] and shares == [0.5]
    assert parsed.title == "A talk"
    assert all(said.text in parsed.text for said in SAID)
    places = [passage.place for passage in parsed.passages]
    assert places[0] is not None and places[-1] is not None
    assert (places[0].kind, places[0].first, places[-1].last) == ("time", 1_000, 9_900)
    assert parsed.warnings == (
        "a piece was damaged",
        "its words were heard by fake, which may mishear",
        "one stretch could not be made out",
    )


def test_captions_are_preferred_and_nothing_is_heard() -> None:
    speech = FakeSpeech(*SAID)
    captions = parse_cues(VIDEO, [Cue(0, 900, "from the captions")])
    assert MediaParser(FakeSource(captions), speech).parse(VIDEO) is captions
    assert speech.heard == []


def test_other_contents_pass_by() -> None:
    parser = MediaParser(FakeSource(SOUND), FakeSpeech())
    note = Content("document", "text/plain", b"A plain note.")
    assert parser.parse(note) == SourceParser().parse(note)


def test_a_file_in_which_nobody_speaks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="in its 10 s nobody is heard"):
        MediaParser(FakeSource(SOUND), FakeSpeech()).parse(VIDEO)


def make_wav() -> bytes:
    """A second of silence in a file."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(2 * RATE))
    return made.getvalue()


def test_without_a_speech_model_the_refusal_names_the_setting() -> None:
    with pytest.raises(InvalidInputError, match="LETHE_SPEECH"):
        SourceParser().parse(Content("document", "audio/wav", make_wav()))


def test_closing_closes_both() -> None:
    source, speech = FakeSource(SOUND), FakeSpeech()
    MediaParser(source, speech).close()
    assert source.closed and speech.closed


def test_the_setting_chooses_what_hears_and_fetches_nothing(tmp_path: Path) -> None:
    def choose(name: str) -> str | None:
        speech = make_speech(Settings(speech=name), store)
        return None if speech is None else speech.digest

    store = ModelStore(tmp_path, offline=True)
    assert choose("none") is None
    assert str(choose("whisper-base")).startswith("d01c3014")
    assert str(choose("whisper-tiny.en")).startswith("1a5afae0")
    with pytest.raises(InvalidInputError, match="embedder"):
        choose("all-minilm-l6-v2")
    with pytest.raises(NotFoundError):
        choose("whisper-of-no-size")
    with pytest.raises(InvalidInputError, match=r"model\.bin"):
        choose(f"hf:{tmp_path}")
    (tmp_path / "model.bin").write_bytes(b"weights")
    first = choose(f"hf:{tmp_path}")
    (tmp_path / "model.bin").write_bytes(b"other weights")
    assert first not in {None, choose(f"hf:{tmp_path}")}
    assert not (tmp_path / "blobs").exists()
