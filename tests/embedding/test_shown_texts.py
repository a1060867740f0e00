"""What is read in one key frame after another becomes texts with their times."""

import random
import string
import time

import pytest

from embedding.shown_texts import is_clear, merge_seen
from memory.values import Place, TextLine, Utterance


def line(text: str, confidence: float = 0.95) -> TextLine:
    return TextLine(text, confidence, 0, 0, 100, 20)


def seen(*frames: tuple[int, int, list[str]]) -> list[Utterance]:
    return merge_seen(
        (Place("time", start, end), [line(text) for text in texts]) for start, end, texts in frames
    )


def test_a_line_that_stays_is_one_text_from_its_first_frame_to_the_end_of_its_last() -> None:
    assert seen((0, 1_000, []), (1_000, 3_000, ["An unlucky bird"]), (3_000, 4_500, ["An unlucky bird"])) == [
        Utterance(1_000, 4_500, "An unlucky bird")
    ]


def test_readings_that_differ_a_little_are_one_text_and_the_one_most_like_all_is_taken() -> None:
    texts = seen(
        (0, 1_000, ["The ferry leavesat nine"]),
        (1_000, 2_000, ["The ferry leaves at nine"]),
        (2_000, 3_000, ["The ferry leaves at nine"]),
        (3_000, 4_000, ["The fery leaves at nin"]),
    )
    assert texts == [Utterance(0, 4_000, "The ferry leaves at nine")]


def misread(text: str, noise: random.Random) -> str:
    """Return a text with one letter of it read as another."""
    at = noise.choice([index for index, letter in enumerate(text) if letter.isalpha()])
    return text[:at] + noise.choice(string.ascii_lowercase) + text[at + 1 :]


def test_lines_read_differently_in_each_of_thousands_of_frames_take_no_time_and_stay_one_text() -> None:
    noise, lines = (
        random.Random(1),
        ("The ferry leaves the harbour at nine", "and nobody knows when it returns"),
    )
    frames = [
        (number * 1_000, number * 1_000 + 1_000, [misread(each, noise) for each in lines])
        for number in range(2_000)
    ]
    begun = time.process_time()
    (text,) = seen(*frames)
    assert time.process_time() - begun < 2
    assert (text.start_ms, text.end_ms) == (0, 2_000_000)
    for told, line_said in zip(text.text.split("\n"), lines, strict=True):
        assert sum(one != other for one, other in zip(told, line_said, strict=True)) <= 1


def test_a_reading_that_comes_again_outlives_more_different_ones_than_are_kept() -> None:
    noise, said = random.Random(2), "The ferry leaves the harbour at nine"
    noisy = [misread(misread(said, noise), noise) for _ in range(60)]
    texts = [said if number >= 20 and number % 4 == 0 else each for number, each in enumerate(noisy)]
    assert seen(*((at, at + 1, [text]) for at, text in enumerate(texts))) == [Utterance(0, 60, said)]


def test_a_line_is_known_again_after_a_poor_reading_of_it() -> None:
    """The third is too unlike the second, not unlike what is read for sure."""
    said, second, third = "The ferry leaves at nine", "Tne fcrry lcaves at ninc", "The ferny loaxes ot nine"
    texts = [said, said, second, third]
    assert seen(*((at, at + 1, [text]) for at, text in enumerate(texts))) == [Utterance(0, 4, said)]


def test_lines_that_come_and_go_together_are_one_text_others_are_not() -> None:
    title, name, note = "Harbour news", "with the keeper of the light", "A storm is coming"
    assert seen((0, 1_000, [title, name]), (1_000, 2_000, [title, name, note]), (2_000, 3_000, [note])) == [
        Utterance(0, 2_000, f"{title}\n{name}"),
        Utterance(1_000, 3_000, note),
    ]


def test_what_differs_in_its_numbers_is_something_else() -> None:
    assert [text.text for text in seen((0, 1_000, ["Chapter 10"]), (1_000, 2_000, ["Chapter 11"]))] == [
        "Chapter 10",
        "Chapter 11",
    ]


def test_a_line_may_be_overlooked_once_but_what_comes_back_later_is_shown_again() -> None:
    card = ["An unlucky bird"]
    assert seen((0, 1_000, card), (1_000, 2_000, []), (2_000, 3_000, card)) == [Utterance(0, 3_000, *card)]
    again = [Utterance(0, 1_000, *card), Utterance(3_000, 4_000, *card)]
    assert seen((0, 1_000, card), (1_000, 2_000, []), (2_000, 3_000, []), (3_000, 4_000, card)) == again
    late = [Utterance(0, 1_000, *card), Utterance(60_000, 61_000, *card)]
    assert seen((0, 1_000, card), (60_000, 61_000, card)) == late


def test_two_lines_alike_in_one_picture_stay_two() -> None:
    assert seen((0, 1_000, ["Open", "Open"]), (1_000, 2_000, ["Open", "Open"])) == [
        Utterance(0, 2_000, "Open\nOpen")
    ]


@pytest.mark.parametrize(
    ("text", "confidence"), [("福", 0.99), ("...", 0.99), ("An unlucky bird", 0.6), ("", 1.0)]
)
def test_what_is_unsure_or_says_nothing_is_dropped(text: str, confidence: float) -> None:
    assert not is_clear(line(text, confidence))
    assert merge_seen([(Place("time", 0, 1), [line(text, confidence)])]) == []
