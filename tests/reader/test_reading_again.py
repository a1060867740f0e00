"""Options of how a writer reads what it remembers: more of it again, or looked at more sharply."""

import pytest
import torch

from reader.attention.function import run
from reader.attention.parallel import Parallel
from reader.language_model import READ_AGAIN, Cut, LanguageModelWriter
from reader.placing import Passage, Placed
from reader.placing import lay_out as place
from reader.prompt import build_prompt, draw_mark
from tests.reader.test_language_model import QUESTION, WHOLE, DictShelf
from tests.reader.tiny import tiny_model, tiny_tokenizer


def writer(**options) -> LanguageModelWriter:
    return LanguageModelWriter(tiny_model(), tiny_tokenizer(), name="t", mark="m4rk", **options)


def cut(one: LanguageModelWriter) -> Cut:
    return one.cut(build_prompt(QUESTION, WHOLE, draw_mark, one.reserved, mark=one.mark))


def lay_out(one: LanguageModelWriter, shelf: DictShelf | None) -> Placed:
    return one._lay_out(cut(one), shelf)


def lay_out_again(one: LanguageModelWriter, shelf: DictShelf, number: int) -> Placed:
    """Place all memories, and have one passage read again in full over its own."""
    prompt = cut(one)
    memories = one._recall(prompt.texts, shelf)
    passages = [
        Passage(text.header, text.body, memories[text.of], range(len(text.body)) if at == number else ())
        for at, text in enumerate(prompt.texts)
    ]
    opening = Passage((), prompt.opening, one._read_opening(prompt.opening))
    return place(one._shape, one._rotary, opening, passages, prompt.rest, again=READ_AGAIN, spare=64)


def logits(one: LanguageModelWriter, placed: Placed) -> torch.Tensor:
    return one._batch.run(placed.tokens, placed.segment, 1)


def test_what_is_blended_in_full_is_read_in_full():
    """A share of one leaves nothing of the memories: what is read is what is read without a shelf."""
    blending = writer(blended=1.0)

    with_memories, without = lay_out(blending, DictShelf()), lay_out(blending, None)

    assert with_memories.tokens == without.tokens
    assert torch.allclose(logits(blending, with_memories), logits(blending, without), atol=1e-5)


def test_a_share_is_read_again():
    """Beside the first tokens of each passage, which are read again whatever is blended."""
    shelf = DictShelf()
    count = len(lay_out(writer(), shelf).tokens)
    lengths = [len(tiny_tokenizer()(piece.text)["input_ids"]) for piece in WHOLE]

    more = len(lay_out(writer(blended=0.5), shelf).tokens) - count

    assert 0.5 * sum(lengths) - READ_AGAIN * len(WHOLE) <= more <= 0.5 * sum(lengths) + 99


def test_the_last_passages_are_read_whole_and_not_remembered():
    """They are read as without a shelf, and only the others are kept on it."""
    shelf, one = DictShelf(), writer(whole=1)
    count = len(lay_out(writer(), DictShelf()).tokens)
    lengths = [len(text.body) for text in cut(one).texts]

    placed = lay_out(one, shelf)

    assert {passage for _, passage in shelf.payloads} == {piece.passage_id for piece in WHOLE[:-1]}
    assert len(placed.tokens) == count + lengths[-1] - READ_AGAIN


def test_where_all_passages_are_read_whole_nothing_is_remembered():
    """Not even where there are fewer than are to be read whole: the same is read as without a shelf."""
    shelf, one = DictShelf(), writer(whole=len(WHOLE) + 1)

    with_memories, without = lay_out(one, shelf), lay_out(one, None)

    assert not shelf.payloads
    assert with_memories.tokens == without.tokens
    assert torch.equal(logits(one, with_memories), logits(one, without))


def test_what_is_read_whole_is_read_behind_memories_as_behind_what_they_hold():
    """Reading the last passage again in full over its own memory comes to the same."""
    one, other = writer(whole=1), writer()
    again = lay_out_again(other, DictShelf(), len(WHOLE) - 1)

    placed = lay_out(one, DictShelf())

    assert again.tokens == placed.tokens
    assert torch.allclose(logits(one, placed), logits(other, again), atol=1e-5)


def test_memories_are_looked_at_with_a_temperature():
    """As ``reader.attention.parallel`` does; at one, as the plain attention does."""
    shelf, sharp = DictShelf(), {"temperature": 0.5, "scale": 0.8}
    plain, sharper = writer(), writer(**sharp)
    expected = lay_out(plain, shelf)
    model = tiny_model()
    model.set_attn_implementation(plain._model.config._attn_implementation)

    found = logits(sharper, lay_out(sharper, shelf))
    alike = run(model, expected.tokens, [expected.segment], keep=1, router=Parallel(**sharp))

    assert torch.allclose(found, alike, atol=1e-5)
    assert not torch.allclose(found, logits(plain, lay_out(plain, shelf)), atol=1e-5)


@pytest.mark.parametrize("options", [{"blended": 0.1, "kept": 0.5}, {"routed": True, "scale": 0.5}])
def test_what_excludes_each_other_is_refused(options):
    with pytest.raises(ValueError):
        writer(**options)
