"""What is to be read in the pictures of a film: beside what is said, or alone; with its times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from embedding.encoder import TextEncoder
from embedding.screen_text import RapidScreenText
from memory.errors import InvalidInputError, LeftError, NothingToReadError
from memory.parsed import check_parsed, dump_parsed, load_parsed
from memory.ports import Pixels
from memory.values import Attributes, Content, Parsed, Place, TextLine, Utterance
from service.ingest import Recipes
from service.media import HEARING, MediaParser
from service.models import make_screen_text
from service.settings import Settings
from sources.captions import Cue
from sources.guard import GuardedParser
from sources.media import Audio
from sources.parse import parse_cues
from sources.stills import Looked, Still
from tests.service.harness import TENANT, House
from tests.service.test_media_parser import SAID, SOUND, VIDEO, FakeSource, FakeSpeech
from tests.sources.checks import check, data
from tests.sources.moving import make_media
from tests.sources.painted import draw_page, draw_scene, film

CARD, NOTE = "Harbour news", "A storm is coming"


class FakeScreenText:
    """Reads what each picture's first byte names."""

    name, digest = "fake", "e" * 64

    def __init__(self, *texts: Sequence[str]) -> None:
        self.texts = texts
        self.closed = False

    def read(self, picture: Pixels) -> tuple[TextLine, ...]:
        told = self.texts[int(picture[0, 0, 0])]
        return tuple(TextLine(text, 0.9, 0, 0, 9, 9) for text in told)

    def close(self) -> None:
        self.closed = True


class FakeFilm(FakeSource):
    """Brings captions, sound or an error, and a still a second."""

    def __init__(self, media: Parsed | Audio | InvalidInputError, stills: int, part: int = 100) -> None:
        super().__init__(media)  # type: ignore[arg-type]
        self.stills, self.part = stills, part

    def parse_media(self, content: Content) -> Parsed | Audio:
        if isinstance(self.media, InvalidInputError):
            raise self.media
        return self.media

    def look(self, content: Content, start: int = 0) -> Looked:
        first = start // 1_000
        last = min(first + self.part, self.stills)
        stills = tuple(
            Still(2, 2, bytes([number]) * 12, Place("time", number * 1_000, number * 1_000 + 1_000))
            for number in range(first, last)
        )
        return Looked(stills, last * 1_000 if last < self.stills else None, "A film", ("a piece is missing",))


def test_what_is_heard_and_what_is_seen_are_sections_of_one_text() -> None:
    seen = FakeScreenText([], [CARD], [CARD, NOTE])
    parsed = MediaParser(FakeFilm(SOUND, 3), FakeSpeech(*SAID), seen).parse(VIDEO)
    check_parsed(load_parsed(dump_parsed(parsed)))
    check(parsed)
    assert [(section.heading, section.parent) for section in parsed.sections] == [
        ((), None),
        (("Spoken",), 0),
        (("On screen",), 0),
    ]
    told = [(parsed.text[each.start : each.end], each.place, each.heading) for each in parsed.passages[-2:]]
    assert told == [
        (CARD, Place("time", 1_000, 3_000), ("On screen",)),
        (NOTE, Place("time", 2_000, 3_000), ("On screen",)),
    ]
    assert parsed.passages[0].heading == ("Spoken",)
    assert parsed.passages[0].context == "A talk > Spoken"
    assert parsed.passages[-1].context == "A film > On screen"
    start = parsed.text.index(NOTE)
    assert parsed.times.find(start, start + 3) == Place("time", 2_000, 3_000)
    spoken = parsed.text.index("Workers")
    assert parsed.times.find(spoken, spoken + 3) == Place("time", 9_000, 9_900)
    assert "a piece is missing" in parsed.warnings
    assert "what its pictures say was read by fake, which may misread" in parsed.warnings


def test_captions_keep_their_name_and_the_given_title_stands_once() -> None:
    content = Content("document", "video/mp4", b"", Attributes(title="Evening"), "a.mp4")
    captions = parse_cues(content, [Cue(0, 900, "from the captions")])
    parsed = MediaParser(FakeFilm(captions, 1), None, FakeScreenText([CARD])).parse(content)
    assert [passage.context for passage in parsed.passages] == ["Evening > Captions", "Evening > On screen"]


@pytest.mark.parametrize("media", [SOUND, NothingToReadError("there are neither captions nor sound in it")])
def test_on_screen_text_alone_is_enough(media: Audio | InvalidInputError) -> None:
    parsed = MediaParser(FakeFilm(media, 2), FakeSpeech(), FakeScreenText([CARD], [CARD])).parse(VIDEO)
    assert parsed.text == CARD
    assert [section.heading for section in parsed.sections] == [()]
    assert any("nobody is heard" in each or "neither captions" in each for each in parsed.warnings)


def test_a_film_in_which_nothing_is_said_or_seen_is_refused() -> None:
    with pytest.raises(NothingToReadError, match="nobody is heard"):
        MediaParser(FakeFilm(SOUND, 2), FakeSpeech(), FakeScreenText([], [])).parse(VIDEO)
    with pytest.raises(InvalidInputError, match="LETHE_SPEECH"):
        MediaParser(FakeFilm(SOUND, 1), None, FakeScreenText([])).parse(VIDEO)
    with pytest.raises(InvalidInputError, match="damaged"):
        MediaParser(FakeFilm(InvalidInputError("it is damaged"), 1), None, FakeScreenText([CARD])).parse(
            VIDEO
        )


def test_what_is_only_said_is_as_without_a_look() -> None:
    spoken = MediaParser(FakeFilm(SOUND, 2), FakeSpeech(*SAID), FakeScreenText([], [])).parse(VIDEO)
    assert spoken == MediaParser(FakeSource(SOUND), FakeSpeech(*SAID)).parse(VIDEO)


def test_a_film_is_looked_at_in_parts_and_a_text_goes_on_over_them() -> None:
    texts = [[CARD]] * 7 + [[NOTE]]
    whole = MediaParser(FakeFilm(SOUND, 8), FakeSpeech(), FakeScreenText(*texts)).parse(VIDEO)
    parts = MediaParser(FakeFilm(SOUND, 8, part=3), FakeSpeech(), FakeScreenText(*texts)).parse(VIDEO)
    assert parts == whole
    assert [passage.place for passage in whole.passages] == [
        Place("time", 0, 7_000),
        Place("time", 7_000, 8_000),
    ]


class BrokenFilm(FakeFilm):
    """Refuses to be looked at from a time on, as the guard does when its time is up."""

    def __init__(self, media: Parsed | Audio | InvalidInputError, breaks_ms: int) -> None:
        super().__init__(media, 4, part=2)
        self.breaks_ms = breaks_ms

    def look(self, content: Content, start: int = 0) -> Looked:
        if start >= self.breaks_ms:
            raise InvalidInputError("it takes too long")
        return super().look(content, start)


def test_words_are_kept_when_the_pictures_cannot_be_looked_at() -> None:
    parser = MediaParser(BrokenFilm(SOUND, 0), FakeSpeech(*SAID), FakeScreenText([CARD]))
    parsed, spoken = parser.parse(VIDEO), MediaParser(FakeSource(SOUND), FakeSpeech(*SAID)).parse(VIDEO)
    assert parsed.text == spoken.text and parsed.passages == spoken.passages
    assert parsed.warnings == (
        *spoken.warnings,
        "its pictures could not be looked at: it takes too long",
    )


def test_without_words_it_is_refused_for_what_is_wrong_with_its_pictures() -> None:
    with pytest.raises(InvalidInputError, match="takes too long"):
        MediaParser(BrokenFilm(SOUND, 0), FakeSpeech(), FakeScreenText([CARD])).parse(VIDEO)


def test_what_was_read_until_the_pictures_broke_off_is_kept() -> None:
    seen = FakeScreenText([CARD], [CARD], [NOTE], [NOTE])
    parsed = MediaParser(BrokenFilm(SOUND, 2_000), FakeSpeech(*SAID), seen).parse(VIDEO)
    assert CARD in parsed.text and NOTE not in parsed.text and "A spectre" in parsed.text
    assert "its pictures were looked at up to second 2: it takes too long" in parsed.warnings
    alone = MediaParser(BrokenFilm(SOUND, 2_000), FakeSpeech(), seen).parse(VIDEO)
    assert alone.text == CARD


def test_reading_pictures_says_that_it_goes_on_and_ends_when_nobody_waits() -> None:
    shares: list[float] = []
    film = FakeFilm(SOUND, 4, part=2)
    parser = MediaParser(film, FakeSpeech(*SAID), FakeScreenText(*[[CARD]] * 4))
    parser.parse(VIDEO, shares.append)
    assert shares == [HEARING / 2, *[HEARING] * 4]

    def refuse(share: float) -> None:
        if share == HEARING:
            raise LeftError

    with pytest.raises(LeftError):
        parser.parse(VIDEO, refuse)


def test_closing_closes_what_looks_too() -> None:
    seen = FakeScreenText()
    MediaParser(FakeFilm(SOUND, 0), None, seen).close()
    assert seen.closed


def test_the_recipe_names_what_reads_pictures(house: House) -> None:
    speech = FakeSpeech(Utterance(0, 1, "a"))
    heard, both = Recipes.of(house.encoder, speech), Recipes.of(house.encoder, speech, FakeScreenText())
    assert both.timed.parameters["screen_text_digest"] == "e" * 64
    assert heard.timed.digest != both.timed.digest and heard.parse == both.parse


def test_the_setting_switches_it_off_and_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_screen_text(Settings(screen_text="none")) is None
    assert isinstance(make_screen_text(Settings()), RapidScreenText)
    monkeypatch.setattr("service.models.is_installed", lambda: False)
    with pytest.raises(InvalidInputError, match="LETHE_SCREEN_TEXT"):
        make_screen_text(Settings())


def test_cards_in_a_film_are_read_through_the_guard_at_their_times() -> None:
    page = draw_page("The ferry leaves at nine")
    scene = draw_scene(1, (720, 240))
    body = film([page] * 30 + [scene] * 25 + [draw_page("and returns at noon")] * 30)
    parser = MediaParser(GuardedParser(processes=1), None, RapidScreenText())
    try:
        parsed = parser.parse(Content("document", "video/mp4", body))
        again = parser.parse(Content("document", "video/mp4", body))
        with pytest.raises(InvalidInputError):
            parser.parse(Content("document", "audio/wav", make_media("wav")))
    finally:
        parser.close()
    assert again == parsed
    told = [(parsed.text[each.start : each.end], each.place) for each in parsed.passages]
    (ferry, first), (noon, second) = told
    assert (ferry, noon) == ("The ferry leaves at nine", "and returns at noon")
    assert first == Place("time", 0, 1_200)
    assert second is not None and abs(second.first - 2_200) <= 40


def test_the_captions_burned_into_a_trailer_are_found_at_their_times() -> None:
    body = data("video/trailer_bbb.mp4").read_bytes()
    parser = MediaParser(GuardedParser(processes=1), None, RapidScreenText())
    try:
        parsed = parser.parse(Content("document", "video/mp4", body))
    finally:
        parser.close()
    for at_ms, words in (
        (5_000, ["Blender", "Peach Project"]),
        (12_000, ["An unlucky bird"]),
        (18_000, ["A (slightly overweight) bunny"]),
        (34_000, ["And three rodent pests"]),
        (52_500, ["Made with"]),
    ):
        found = [each for each in parsed.passages if words[0] in parsed.text[each.start : each.end]]
        assert len(found) == 1, words
        passage = found[0]
        assert all(word in parsed.text[passage.start : passage.end] for word in words)
        place = passage.place
        assert place is not None and place.first - 1_500 <= at_ms <= place.last + 1_500
        assert place.last - place.first < 8_000


def test_an_image_of_text_is_a_document() -> None:
    done, made = cv2.imencode(".png", draw_page("The ferry leaves at nine", "and returns at noon"))
    assert done
    content = Content("document", "image/png", made.tobytes(), filename="board.png")
    parser = MediaParser(GuardedParser(processes=1), None, RapidScreenText())
    try:
        parsed = parser.parse(content)
        with pytest.raises(NothingToReadError, match="no text is to be seen"):
            done, made = cv2.imencode(".png", draw_page())
            parser.parse(Content("document", "image/png", made.tobytes()))
        with pytest.raises(InvalidInputError, match="damaged"):
            parser.parse(Content("document", "image/png", content.body[:50]))
    finally:
        parser.close()
    assert parsed.title == "board"
    assert parsed.text.replace("\n\n", "\n") == "The ferry leaves at nine\nand returns at noon"
    assert parsed.warnings == ("what it says was read by rapidocr, which may misread",)


def test_another_reader_of_pictures_reads_images_again_and_no_text(
    tmp_path: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, made = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
    assert done
    readers = [FakeScreenText(["The ferry leaves at nine."])]
    monkeypatch.setattr("service.wiring.make_screen_text", lambda _: readers[-1])
    monkeypatch.setattr("service.wiring.make_speech", lambda *_: None)
    house = House(tmp_path / "data", encoder, guarded=True)

    def texts() -> set[str]:
        return {hit.text for hit in house.lethe.recall(TENANT, "ferry lighthouse", limit=9).hits}

    try:
        note = Content("document", "text/plain", b"The lighthouse was lit in 1790.")
        house.lethe.remember(TENANT, [note, Content("document", "image/png", made.tobytes())])
        house.waker.drain()
        assert texts() == {"The lighthouse was lit in 1790.", "The ferry leaves at nine."}
        house.restart()
        house.waker.drain()
        assert len(texts()) == 2
        readers.append(FakeScreenText(["The ferry leaves at noon."]))
        readers[-1].digest = "d" * 64
        house.restart()
        house.waker.drain()
        assert texts() == {"The lighthouse was lit in 1790.", "The ferry leaves at noon."}
    finally:
        house.close()
