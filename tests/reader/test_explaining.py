"""What a reading tells of itself: whether the model knew, what it was shown, what the evidence disputes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing

import pytest

from memory.errors import BusyError, UnavailableError
from memory.values import Citation, ClosedBook, Conflict, Evidence, Explanation, PassageId, SourceId
from reader.checked import CheckedReader
from reader.confidence import ABSTAIN_BELOW
from reader.extractive import ExtractiveReader
from reader.places import Places
from reader.prompt import Prompt
from reader.relay import RelayReader
from reader.switch import SwitchingReader
from reader.writing import Spent

QUESTION = "When did the harbour bridge open?"
TRUE = "The harbour bridge opened in March 1932."
FALSE = "The harbour bridge opened in March 1999."
EVIDENCE = [
    Evidence(PassageId(name), text, source_id=SourceId(name)) for name, text in (("a", TRUE), ("b", FALSE))
]


class Told:
    """Writes one thing from passages and another without any; ``None``: it cannot be reached then."""

    name = "told"
    most_prompt_tokens = 1000
    reserved: Sequence[str] = ()
    mark = None

    def __init__(self, alone: str | None, written: str = TRUE) -> None:
        self.alone, self.written = alone, written
        self.asked = 0
        self.places = Places(1, waiting=0)

    def count_tokens(self, prompt: Prompt) -> int:
        return 10

    def place(self) -> AbstractContextManager[None]:
        return self.places.take()

    def iter_text(self, prompt: Prompt, spent: Spent, shelf: object = None) -> Generator[str, None, None]:
        self.asked += 1
        has_passages = any(TRUE in message.content for message in prompt.messages)
        text = self.written if has_passages else self.alone
        if text is None:
            raise UnavailableError("the model is gone")
        yield text


def test_nothing_is_told_and_nothing_more_asked_unless_it_is_wanted() -> None:
    writer = Told("1932")
    reading = CheckedReader(writer).read(QUESTION, EVIDENCE)
    assert reading.explanation is None
    assert writer.asked == 1
    assert ExtractiveReader().read(QUESTION, EVIDENCE).explanation is None


@pytest.mark.parametrize(("alone", "knew"), [("In March 1932.", True), ("I do not know.", False)])
def test_a_written_answer_is_explained(alone: str, knew: bool) -> None:
    reader = CheckedReader(Told(alone))
    plain = reader.read(QUESTION, EVIDENCE)

    reading = reader.read(QUESTION, EVIDENCE, explain=True)

    assert (reading.claims, reading.confidence) == (plain.claims, plain.confidence)
    told = reading.explanation
    assert told is not None
    assert told.model == "told"
    assert told.closed_book == ClosedBook(alone, knew)
    assert sorted(told.shown) == [0, 1]
    assert told.answerable >= told.abstain_below == ABSTAIN_BELOW
    assert set(told.signals) == {"answerability", "belief", "lead", "agreement", "carried"}
    sides = tuple(Citation(at, 0, len(piece.text), piece.text) for at, piece in enumerate(EVIDENCE))
    assert told.conflicts == (Conflict(sides, None, None),)
    assert _end_of(reader.iter_claims(QUESTION, EVIDENCE, explain=True)) == told


def test_an_abstention_tells_what_the_model_would_have_said() -> None:
    told = CheckedReader(Told("Lactase.")).read("Which enzyme digests lactose?", EVIDENCE, explain=True)
    assert told.abstained
    assert told.explanation is not None
    assert (told.explanation.shown, told.explanation.closed_book) == ((), ClosedBook("Lactase.", knew=False))


def test_an_answer_stands_when_the_model_cannot_be_asked_again() -> None:
    reading = CheckedReader(Told(None)).read(QUESTION, EVIDENCE, explain=True)
    assert not reading.abstained
    assert reading.explanation is not None
    assert (reading.explanation.model, reading.explanation.closed_book) == ("told", None)


def test_the_model_is_asked_again_in_the_place_that_the_answer_was_written_in() -> None:
    """Nobody waits a second time, and nobody is refused for it."""
    writer = Told("In March 1932.")
    reader = CheckedReader(writer)
    claims = reader.iter_claims(QUESTION, EVIDENCE, explain=True)
    next(claims)
    with pytest.raises(BusyError):
        CheckedReader(writer).read(QUESTION, EVIDENCE)
    told = _end_of(claims)
    assert isinstance(told, Explanation) and told.closed_book is not None

    assert reader.read(QUESTION, EVIDENCE, explain=True).explanation == told, "the place was given back"


def test_an_abstention_stands_when_too_many_wait_for_the_model() -> None:
    writer = Told("Lactase.")
    with closing(CheckedReader(writer).iter_claims(QUESTION, EVIDENCE)) as other:
        next(other)
        told = CheckedReader(writer).read("Which enzyme digests lactose?", EVIDENCE, explain=True)
    assert told.abstained
    assert told.explanation is not None
    assert told.explanation.closed_book is None


def test_a_reader_that_quotes_says_that_no_model_was_asked() -> None:
    told = ExtractiveReader().read(QUESTION, EVIDENCE, explain=True).explanation
    assert told is not None
    assert (told.model, told.closed_book, told.shown) == (None, None, ())
    assert len(told.conflicts) == 1
    assert told.conflicts[0].holds is None


def test_readers_in_turn_explain_the_reading_that_is_taken() -> None:
    unsure, sure = CheckedReader(Told("1932", "I do not know.")), CheckedReader(Told("In March 1932."))
    switch = SwitchingReader(ExtractiveReader(), lambda: RelayReader(unsure, sure))
    switch.start()
    assert switch.wait(10)
    told = switch.read(QUESTION, EVIDENCE, explain=True).explanation
    assert told is not None
    assert told.closed_book == ClosedBook("In March 1932.", knew=True)
    assert _end_of(switch.iter_claims(QUESTION, EVIDENCE, explain=True)) == told


def _end_of(claims: Generator[object, None, object]) -> object:
    while True:
        try:
            next(claims)
        except StopIteration as end:
            return end.value.explanation
