"""Attention over slots gives what the models' own gives, whatever is remembered, moved, padded or routed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from memory.errors import CorruptionError
from reader.anchors import routable
from reader.attention.function import run, use_slots, windows_of
from reader.attention.rotary import Rotary
from reader.passages import WholeMemory, compress, from_bytes, read_alone
from reader.placing import Passage, Placed, lay_out
from reader.routers.exact import exact
from reader.routing import Anchors, Router, Rule, choose
from tests.reader.families import FAMILIES, WORDS, build

CLOSE = 1e-5


def draw(count: int, seed: int) -> list[int]:
    """Return random tokens."""
    made = torch.randint(1, WORDS, (count,), generator=torch.Generator().manual_seed(seed))
    return [int(token) for token in made]


PREFIX = draw(10, 1)
PASSAGES = [(draw(5, 2), draw(70, 3)), (draw(6, 4), draw(130, 5)), (draw(4, 6), draw(64, 7))]
QUESTION = draw(21, 8)
WHOLE = [*PREFIX, *(token for header, body in PASSAGES for token in (*header, *body)), *QUESTION]


def plain(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits of the model's own attention."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return found


def place_all(model: Any, memories: Sequence[Any], *, again: int = 0) -> Placed:
    """Lay the passages out with what is remembered of them."""
    shape = use_slots(model)
    passages = [Passage(h, b, memory) for (h, b), memory in zip(PASSAGES, memories, strict=True)]
    return lay_out(shape, Rotary(model), Passage((), PREFIX, None), passages, QUESTION, again=again)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_at_once_is_what_the_model_reads(family: str) -> None:
    """Empty slots, tiles, windows and grouped heads change nothing."""
    model = build(family)
    expected = plain(model, WHOLE)

    placed = place_all(model, [None] * 3)
    found = run(model, placed.tokens, [placed.segment], keep=0)

    assert placed.tokens == WHOLE
    assert (found - expected).abs().max() < CLOSE


def in_blocks(model: Any) -> torch.Tensor:
    """Return the logits of the model's own attention when no passage's text sees what is before it."""
    count = len(WHOLE)
    seen = torch.ones(count, count, dtype=torch.bool).tril()
    at = len(PREFIX)
    for header, body in PASSAGES:
        at += len(header)
        seen[at : at + len(body), :at] = False
        at += len(body)
    mask = torch.zeros(count, count).masked_fill(~seen, torch.finfo(torch.float32).min)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        found: torch.Tensor = model(
            input_ids=torch.tensor([WHOLE]), attention_mask=mask[None, None], use_cache=False
        ).logits[0]
    return found


def remember_whole(model: Any) -> list[WholeMemory]:
    """Read every passage by itself."""
    shape, rotary = use_slots(model), Rotary(model)
    return [WholeMemory(*read_alone(model, shape, rotary, [], body)) for _, body in PASSAGES]


@pytest.mark.parametrize("family", ["llama", "llama-yarn", "qwen2", "qwen3"])
def test_what_was_read_alone_can_stand_anywhere(family: str) -> None:
    """Keys turned to where they are placed give what a mask over the whole gives."""
    model = build(family)
    expected = in_blocks(model)[-len(QUESTION) :]

    placed = place_all(model, remember_whole(model))
    found = run(model, placed.tokens, [placed.segment], keep=len(QUESTION))

    assert len(placed.tokens) == len(WHOLE) - sum(len(body) for _, body in PASSAGES)
    assert (found - expected).abs().max() < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_all_read_again_is_all_read_at_once(family: str) -> None:
    """What is read again takes the place of what was remembered, whatever that is."""
    model = build(family)
    expected = plain(model, WHOLE)[-len(QUESTION) :]
    nonsense = [WholeMemory(memory.keys * 3, memory.values + 1) for memory in remember_whole(model)]

    placed = place_all(model, nonsense, again=1000)
    found = run(model, placed.tokens, [placed.segment], keep=len(QUESTION))

    assert (found - expected).abs().max() < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_readings_in_one_pass_do_not_see_each_other(family: str) -> None:
    """A row of two readings gives each what it gets alone."""
    model = build(family)
    memories = remember_whole(model)
    alone = []
    for again in (0, 20):
        placed = place_all(model, memories, again=again)
        alone.append(run(model, placed.tokens, [placed.segment], keep=1)[-1])

    first, second = (place_all(model, memories, again=again) for again in (0, 20))
    together = run(
        model,
        first.tokens + second.tokens,
        [first.segment, second.segment.moved(len(first.tokens))],
        keep=0,
    )

    assert (together[len(first.tokens) - 1] - alone[0]).abs().max() < CLOSE
    assert (together[-1] - alone[1]).abs().max() < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_bits_are_near(family: str) -> None:
    """A memory in bytes, written and read back, is within half a step of what it was made of."""
    model = build(family)
    shape, rotary = use_slots(model), Rotary(model)
    body = PASSAGES[1][1]
    keys, values = read_alone(model, shape, rotary, PREFIX, body)

    memory = from_bytes(compress(*read_alone(model, shape, rotary, PREFIX, body)).to_bytes(), shape.device)

    near_keys, near_values = memory.restore()
    assert ((near_keys - keys).abs() <= 0.5001 * memory.key_step + 1e-6).all()
    assert ((near_values - values).abs() <= 0.5001 * memory.value_step + 1e-6).all()
    assert memory.length == memory.kept == len(body)


@pytest.mark.parametrize("payload", [b"", b"x" * 100, WholeMemory.__name__.encode()])
def test_bytes_of_something_else_are_no_memory(payload: bytes) -> None:
    """Torn bytes are noticed."""
    with pytest.raises(CorruptionError):
        from_bytes(payload, torch.device("cpu"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("again", [0, 8])
def test_all_blocks_routed_is_dense(family: str, again: int) -> None:
    """A rule that keeps everything changes nothing, through gathered blocks, too."""
    model = build(family)
    memories = remember_whole(model)
    placed = place_all(model, memories, again=again)
    expected = run(model, placed.tokens, [placed.segment], keep=len(QUESTION))

    placed = place_all(model, memories, again=again)
    anchors = Anchors(routable(windows_of(model)))
    router = Router(exact, anchors, Rule(mass=1.0, least=10_000, share=1.0, trust=0.0, short=0))
    found = run(model, placed.tokens, [placed.segment], keep=len(QUESTION), router=router)

    assert bool(router.told.chosen) == bool(anchors.layers)
    assert (found - expected).abs().max() < CLOSE


def test_fewer_blocks_are_the_heavier_ones() -> None:
    """What is kept holds at least as much of the attention as any other choice of as many blocks."""
    masses = torch.tensor([[0.05, 0.1, 0.5, 0.02, 0.3, 0.03]])
    passages = torch.tensor([-1, 0, 0, 1, 1, 1])
    always = torch.tensor([True, False, False, False, False, False])

    chosen, kept = choose(masses, passages, always, Rule(mass=0.5, least=1, share=1.0))

    # Block 2 and the first of its passage, and the prefix.
    assert chosen.nonzero()[:, 1].tolist() == [0, 1, 2]
    assert kept.tolist() == pytest.approx([0.65])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("routed", [False, True])
def test_the_last_layer_looks_only_for_what_is_kept(family: str, routed: bool) -> None:
    """The kept tokens' logits, and all keys and values, are those of a pass in which it looks for all."""
    model = build(family)
    memories = remember_whole(model)
    told = []
    for whole in (True, False):
        first, second = (place_all(model, memories, again=again) for again in (30, 20))
        rule = Rule(mass=0.5, least=1, share=0.4, trust=0.0, short=0)
        # One anchor: the last layer takes over what an earlier one chose for more tiles.
        router = Router(exact, Anchors(routable(windows_of(model))[:1]), rule) if routed else None
        asked: list[int] = []
        count = len(first.tokens) + len(second.tokens)
        with torch.no_grad(), listening(model, asked):
            logits = run(
                model,
                first.tokens + second.tokens,
                [first.segment, second.segment.moved(len(first.tokens))],
                keep=torch.tensor([len(first.tokens) - 1, count - 2, count - 1]),
                router=router,
                whole=whole,
            )
        told.append((logits, first.slots, second.slots))
        assert (asked[-1] == count) == whole

    (expected, *before), (found, *after) = told
    assert (found - expected).abs().max() < CLOSE
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


@contextmanager
def listening(model: Any, counts: list[int]) -> Iterator[None]:
    """Note how many tokens the last layer's feed-forward part is run for."""
    last = model.get_decoder().layers[-1].mlp
    hook = last.register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[1]))
    yield
    hook.remove()


def test_a_piece_that_keeps_nothing_writes_all_the_same() -> None:
    """All keys and values are there where no logits are wanted, and the last layer looks for one tile."""
    model = build("qwen2")
    placed = place_all(model, [None] * 3)
    asked: list[int] = []
    expected = place_all(model, [None] * 3)
    run(model, expected.tokens, [expected.segment], keep=1)

    with listening(model, asked):
        logits = run(
            model, placed.tokens, [placed.segment], keep=torch.tensor([], dtype=torch.long), whole=False
        )

    assert logits.shape == (0, WORDS)
    assert asked == [len(QUESTION)]
    assert torch.equal(placed.slots.keys, expected.slots.keys)
