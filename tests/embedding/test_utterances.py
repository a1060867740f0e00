"""Words become utterances: none lost, in order, short enough, cut where speech halts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedding.utterances import MOST_MS, PAUSE_MS, Word, cut_utterances
from memory.values import Utterance

TEXTS = st.sampled_from([" so", " Karl", " Marx.", " well,", " yes!", " 2", " –", " Dr.", "我们", "。", " …"])


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    words: list[Word] = []
    now = 0
    for text in draw(st.lists(TEXTS, max_size=60)):
        start = now + draw(st.sampled_from([0, 0, 50, 300, PAUSE_MS, 5_000]))
        now = start + draw(st.sampled_from([0, 120, 400, 9_000]))
        words.append(Word(start, now, text))
    return words


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@given(spoken())
def test_no_letter_is_lost_and_times_are_in_order(words: list[Word]) -> None:
    made = list(cut_utterances(words))
    assert letters("".join(said.text for said in made)) == letters("".join(word.text for word in words))
    times = [time for said in made for time in (said.start_ms, said.end_ms)]
    assert times == sorted(times)
    starts, ends = {word.start_ms for word in words}, {word.end_ms for word in words}
    assert all(said.start_ms in starts and said.end_ms in ends for said in made)


@given(spoken())
def test_none_lasts_too_long_but_a_single_word(words: list[Word]) -> None:
    for said in cut_utterances(words):
        within = [word for word in words if said.start_ms <= word.start_ms and word.end_ms <= said.end_ms]
        longest = max(word.end_ms - word.start_ms for word in within)
        assert said.end_ms - said.start_ms <= max(MOST_MS, longest)


def speak(text: str, *, each_ms: int = 300) -> list[Word]:
    return [Word(at * each_ms, (at + 1) * each_ms, f" {word}") for at, word in enumerate(text.split())]


def test_sentences_stand_alone_and_titles_end_none() -> None:
    made = list(cut_utterances(speak("Dr. Marx wrote it. Nobody read it.")))
    assert made == [Utterance(0, 1200, "Dr. Marx wrote it."), Utterance(1200, 2100, "Nobody read it.")]


def test_a_pause_ends_an_utterance() -> None:
    words = [Word(0, 400, " workers"), Word(400 + PAUSE_MS, 2000, " unite")]
    assert [said.text for said in cut_utterances(words)] == ["workers", "unite"]


def test_a_long_sentence_is_cut_at_a_comma_near_its_middle() -> None:
    text = (
        "all the powers of old Europe have entered into it, "
        + "pope and tsar and all the others of that kind"
    )
    made = list(cut_utterances(speak(text, each_ms=500)))
    assert [said.text for said in made] == [
        "all the powers of old Europe have entered into it,",
        "pope and tsar and all the others of that kind",
    ]
