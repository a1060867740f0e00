"""Guesses save steps and change no word."""

import pytest
import torch

from memory.errors import InvalidInputError, UnavailableError
from reader.draft import DraftModel
from reader.guessing import GUESSED_TOKENS, either
from reader.language_model import Cut, LanguageModelWriter
from reader.lookup import look_up
from reader.writing import Spent
from tests.reader.tiny import tiny_model, tiny_tokenizer

PROMPT = [7, 8, 9, 10, 7, 8, 11, 12, 30, 31]


def write(draft: DraftModel | None, seed: int) -> tuple[list[int], int]:
    """Return what is written after a prompt, and in how many steps."""
    writer = LanguageModelWriter(
        tiny_model(seed=seed), tiny_tokenizer(), name="tiny", most_new_tokens=40, draft=draft
    )
    steps = list(writer._iter_tokens(Cut((), (), PROMPT), Spent(), None))
    return [token for step in steps for token in step], len(steps)


@pytest.mark.parametrize("seed", range(3))
def test_a_draft_changes_no_token(seed: int) -> None:
    """Whatever it guesses; one that thinks as the model does saves steps."""
    tokenizer = tiny_tokenizer()
    expected, steps = write(None, seed)

    other = DraftModel(tiny_model("llama", seed=seed + 5), tokenizer)
    same = DraftModel(tiny_model(seed=seed), tokenizer)

    assert write(other, seed)[0] == expected
    guessed, fewer = write(same, seed)
    assert guessed == expected
    assert fewer < steps


def test_a_draft_guesses_what_it_would_write() -> None:
    """Over a history that goes another way than it guessed, too."""
    model = tiny_model(seed=4)
    guess = DraftModel(model, tiny_tokenizer()).begin(30)
    history = list(PROMPT)
    for new in ([], [40, 41], [42], [43, 44, 45]):
        history += new
        expected = list(history)
        model.set_attn_implementation("sdpa")
        for _ in range(GUESSED_TOKENS):
            with torch.inference_mode():
                expected.append(int(model(input_ids=torch.tensor([expected])).logits[0, -1].argmax()))
        model.set_attn_implementation("lethe_slots")
        assert guess(history) == expected[len(history) :]


def test_a_draft_is_silent_where_it_cannot_read() -> None:
    draft = DraftModel(tiny_model(context=64), tiny_tokenizer())
    assert draft.begin(30)([5] * 60) == []


def test_a_draft_that_cannot_run_guesses_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer goes on without it."""
    draft = DraftModel(tiny_model("llama", seed=5), tiny_tokenizer())
    asked = []

    def fail(*given: object) -> torch.Tensor:
        asked.append(given)
        raise UnavailableError("out of memory")

    monkeypatch.setattr(draft.batch, "run", fail)

    assert write(draft, 0)[0] == write(None, 0)[0]
    assert len(asked) == 1


def test_a_draft_of_other_tokens_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["harbour"])
    draft = DraftModel(tiny_model(), tokenizer)
    with pytest.raises(InvalidInputError, match="another tokenizer"):
        LanguageModelWriter(tiny_model(), tiny_tokenizer(), name="tiny", draft=draft)


def test_words_are_looked_up_where_they_were_last() -> None:
    assert look_up([1, 2, 3, 1, 2, 4, 5, 1, 2]) == [4, 5, 1, 2]
    assert look_up([1, 2, 3, 4]) == []
    assert look_up([1]) == []
    assert look_up([1, 1, 1]) == [1]


def test_the_second_guesses_where_the_first_has_none() -> None:
    guess = either(look_up, lambda history: [len(history)])
    assert guess([1, 2, 3, 1, 2]) == [3, 1, 2]
    assert guess([1, 2, 3]) == [3]
