"""A model is shown as many passages as it is set to, the most that fit, and long readings are routed."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest

from memory.ports import Shelf
from memory.values import Evidence, PassageId
from reader import language_model
from reader.checked import READ_PASSAGES, CheckedReader
from reader.language_model import LanguageModelWriter
from reader.prompt import Prompt
from reader.routing import Router
from reader.writing import Spent
from tests.reader.families import build
from tests.reader.tiny import tiny_tokenizer

QUESTION = "When did the harbour bridge open?"
EVIDENCE = [
    Evidence(PassageId(str(n)), f"The harbour bridge number {n} opened in {1900 + n}. " + "It is long. " * n)
    for n in range(12)
]


class Silent:
    """Writes nothing, and keeps the prompts; a token is a character."""

    name, mark = "silent", None
    reserved: Sequence[str] = ()

    def __init__(self, most_prompt_tokens: int) -> None:
        self.most_prompt_tokens = most_prompt_tokens
        self.prompts: list[Prompt] = []

    def count_tokens(self, prompt: Prompt) -> int:
        return len(prompt.messages[-1].content)

    def place(self) -> AbstractContextManager[None]:
        return nullcontext()

    def iter_text(
        self, prompt: Prompt, spent: Spent, shelf: Shelf | None = None
    ) -> Generator[str, None, None]:
        self.prompts.append(prompt)
        yield from ()


def shown(passages: int, room: int) -> list[str]:
    writer = Silent(room)
    CheckedReader(writer, passages=passages, draw_mark=lambda: "m4rk").read(QUESTION, EVIDENCE)
    (prompt,) = writer.prompts
    assert writer.count_tokens(prompt) <= room
    return [passage.text for passage in prompt.passages]


@pytest.mark.parametrize("room", [400, 700, 1000, 1500, 2000])
def test_the_most_passages_that_fit_are_shown(room):
    """Those that all together would be, best last, less the worst; one more would not fit."""
    everything = shown(12, 1 << 20)
    found = shown(12, room)

    assert len(everything) == 12
    assert found == everything[-len(found) :]
    one_more = everything[-len(found) - 1 :]
    assert sum(map(len, one_more)) > room - 100 * len(one_more)


def test_two_are_shown_unless_more_are_asked_for():
    assert len(shown(READ_PASSAGES, 1 << 20)) == 2
    assert len(shown(5, 1 << 20)) == 5


def test_long_readings_are_routed_where_that_is_asked_for(monkeypatch):
    """A router is asked at layers behind the first two; in the last only the question looks, at everything."""
    asked: list[int] = []

    class Noted(Router):
        def attend(self, layer, *given):
            asked.append(layer)
            return super().attend(layer, *given)

    monkeypatch.setattr(language_model, "Router", Noted)

    def read(routed: bool) -> None:
        writer = LanguageModelWriter(
            build("llama"), tiny_tokenizer(), name="t", most_new_tokens=2, routed=routed
        )
        CheckedReader(writer, passages=4).read(QUESTION, EVIDENCE)

    read(False)
    assert not asked
    read(True)
    assert set(asked) == {2, 3}
