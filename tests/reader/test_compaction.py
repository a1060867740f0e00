"""Compacted memories keep what later queries read; each method is tried on the smallest real model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from memory.errors import InvalidInputError
from reader.attention.dense import Logits
from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.compaction.attention_matching import (
    _HOLD_FACTORS,
    _MOST_BIAS,
    _fit_factors,
    _ridged,
    match_attention,
)
from reader.compaction.expected_attention import expect_attention
from reader.compaction.method import EXEMPT, Asked, compact, count_kept
from reader.compaction.most_attended import keep_most_attended
from reader.compaction.reconstruction import keep_for_reconstruction
from reader.passages import WholeMemory, compress, from_bytes, read_alone
from reader.placing import Passage, lay_out
from tests.reader.families import build
from tests.reader.test_attention import PREFIX, QUESTION, draw

METHODS = (match_attention, expect_attention, keep_most_attended, keep_for_reconstruction)
BODY = draw(150, 20)
HOW = Logits(0.25)


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return random keys and values, (2, 90, 16), and queries that ask for a few things, (2, 1, 200, 16)."""
    made = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, 90, 16, generator=made) * 2 for _ in range(2))
    directions = torch.randn(2, 1, 5, 16, generator=made)
    queries = torch.randn(2, 1, 200, 5, generator=made) @ directions
    return keys, values, queries


def asked(queries: torch.Tensor) -> Asked:
    """Return queries that look at little else."""
    return Asked(queries, torch.zeros(queries.shape[:3]), HOW)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_tokens_and_as_many_as_asked_are_kept(method: Any) -> None:
    """Ascending, each once, the first sixteen among them."""
    keys, values, queries = drawn(0)
    kept = method(keys, values, asked(queries), 40)

    assert kept.chosen.shape == (2, 40)
    assert (kept.chosen[:, 1:] > kept.chosen[:, :-1]).all()
    assert kept.chosen[:, :EXEMPT].tolist() == [list(range(EXEMPT))] * 2


def test_matching_reads_what_all_keys_say() -> None:
    """Bias and values bring what is read nearer than kept keys alone, for queries of no fitting, too."""
    keys, values, queries = drawn(1)
    fitted, held_back = queries[:, :, :150], queries[:, 0, 150:]
    kept = match_attention(keys, values, asked(fitted), 45)
    spread = kept.chosen[..., None].expand(-1, -1, 16)
    own = keys.gather(1, spread)
    assert kept.bias is not None and kept.values is not None

    wanted = HOW.of(held_back, keys).softmax(-1) @ values
    matched = (HOW.of(held_back, own) + kept.bias[:, None]).softmax(-1) @ kept.values
    alone = HOW.of(held_back, own).softmax(-1) @ values.gather(1, spread)

    assert (matched - wanted).square().mean() < 0.85 * (alone - wanted).square().mean()


def test_biases_make_up_for_the_weight_of_what_is_left_out() -> None:
    """With them the kept keys weigh what all do, within a few hundredths on the average."""
    keys, values, queries = drawn(2)
    kept = match_attention(keys, values, asked(queries), 45)
    assert kept.bias is not None
    queries = queries[:, 0]
    own = HOW.of(queries, keys.gather(1, kept.chosen[..., None].expand(-1, -1, 16)))
    total = HOW.of(queries, keys).logsumexp(-1)

    with_bias = ((own + kept.bias[:, None]).logsumexp(-1) - total).abs().mean()

    assert with_bias < 0.6 * (own.logsumexp(-1) - total).abs().mean()


@pytest.mark.parametrize("family", ["llama", "llama-yarn", "qwen2", "qwen3"])
def test_all_but_one_token_is_nearly_all(family: str) -> None:
    """A compacted memory stands where the whole one would: bias, offsets by head and bytes come through."""
    model = build(family)
    shape, rotary = use_slots(model), Rotary(model)

    def read(memory: Any) -> torch.Tensor:
        placed = lay_out(
            shape, rotary, Passage(draw(40, 21), (), None), [Passage(draw(4, 22), BODY, memory)], QUESTION
        )
        return run(model, placed.tokens, [placed.segment], keep=len(QUESTION)).log_softmax(-1)

    whole = read(compress(*read_alone(model, shape, rotary, PREFIX, BODY)))
    errors = []
    for kept in (149, 75, 30):
        memory = compact(
            model,
            shape,
            rotary,
            Passage((), PREFIX, None),
            [],
            BODY,
            draw(30, 23),
            method=match_attention,
            kept=kept,
        )
        back = from_bytes(memory.to_bytes(), shape.device)
        assert (back.kept, back.length) == (kept, 150)
        errors.append(float((read(back) - whole).abs().mean()))

    assert errors[0] < 0.02
    assert errors[0] < errors[2]


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_windows_are_not_compacted(family: str) -> None:
    """A layer that sees a window of a memory cannot be fitted to all of it: said, not done badly."""
    model = build(family)
    with pytest.raises(InvalidInputError):
        compact(
            model,
            use_slots(model),
            Rotary(model),
            Passage((), PREFIX, None),
            [],
            BODY,
            [1],
            method=match_attention,
            kept=20,
        )


def test_keeping_everything_is_no_compaction() -> None:
    """As many tokens as there are is a mistake of the caller."""
    model = build("llama")
    with pytest.raises(ValueError, match="no fewer"):
        compact(
            model,
            use_slots(model),
            Rotary(model),
            Passage((), PREFIX, None),
            [],
            BODY,
            [1],
            method=match_attention,
            kept=len(BODY),
        )


def test_more_than_what_is_kept_always_is_kept() -> None:
    """A share of a short passage is still more than its first tokens, and never more than all."""
    assert [count_kept(tokens, 0.5) for tokens in (8, 17, 20, 100)] == [8, 17, 17, 50]
    assert count_kept(100, 1.0) == 100


def test_each_head_turns_its_own_keys() -> None:
    """Where heads kept different tokens, each key is turned to where its token stands; the first read again."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    memory = compact(
        model,
        shape,
        rotary,
        Passage((), PREFIX, None),
        [],
        BODY,
        BODY,
        method=keep_for_reconstruction,
        kept=40,
    )
    assert memory.offsets is not None and memory.first >= EXEMPT

    placed = lay_out(shape, rotary, Passage((), PREFIX, None), [Passage([], BODY, memory)], [], again=64)
    held = slice(64, 64 + 40)
    keys, _ = memory.restore()
    for layer in range(len(keys)):
        for head in range(keys.shape[1]):
            at = memory.offsets[layer, head] + len(PREFIX)
            turned = rotary.turn(keys[layer, head], at, layer)
            assert torch.allclose(placed.slots.keys[layer, head, held], turned, atol=1e-6)
    again = placed.tokens[len(PREFIX) :]
    assert again == BODY[: memory.first]
    assert placed.segment.positions[len(PREFIX) :].tolist() == [
        len(PREFIX) + place for place in range(memory.first)
    ]


def test_what_is_remembered_whole_is_not_read_again() -> None:
    """The same is kept of it, and only what asks is run."""
    model = build("qwen2")
    shape, rotary = use_slots(model), Rotary(model)
    opening, header, asking = Passage((), PREFIX, None), draw(4, 22), draw(30, 23)
    whole = WholeMemory(*read_alone(model, shape, rotary, [*PREFIX, *header], BODY))
    run_through: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, given, made: run_through.append(given[0].numel())
    )

    def made(memory: WholeMemory | None) -> Any:
        return compact(
            model, shape, rotary, opening, header, BODY, asking, method=match_attention, kept=60, whole=memory
        )

    anew, known = made(None), made(whole)
    hook.remove()

    assert torch.equal(known.offsets, anew.offsets)
    assert torch.allclose(known.bias, anew.bias, atol=1e-3)
    for ours, theirs in zip(known.restore(), anew.restore(), strict=True):
        assert (ours - theirs).abs().mean() < 1e-3
    assert run_through[1] == run_through[0] - len(BODY)


def test_factors_are_the_best_within_their_bounds() -> None:
    """Where some would go beyond: no small step that stays within comes nearer."""
    made = torch.Generator().manual_seed(7)
    parts = torch.rand(2, 200, 24, generator=made, dtype=torch.float64) ** 8
    left = parts @ torch.tensor([60.0, 0.0, -4.0, 1.0] * 6, dtype=torch.float64)
    low, high = math.exp(-_MOST_BIAS), math.exp(_MOST_BIAS)

    factors = _fit_factors(parts, left)

    assert (factors == low).any() and (factors == high).any()

    def error(tried: torch.Tensor) -> torch.Tensor:
        missed = ((parts @ tried[..., None])[..., 0] - left).square().sum(1)
        ridge = _ridged(parts, _HOLD_FACTORS) - parts.transpose(1, 2) @ parts
        return missed + (ridge.diagonal(dim1=1, dim2=2) * (tried - 1.0).square()).sum(1)

    for at in range(24):
        for step in (1e-3, -1e-3):
            tried = factors.clone()
            tried[:, at] = (tried[:, at] + step).clamp(low, high)
            assert (error(tried) >= error(factors)).all()
