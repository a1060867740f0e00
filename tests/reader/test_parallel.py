"""Sharper and scaled attention over memory, against a plain reference."""

from __future__ import annotations

import pytest
import torch

from memory.errors import InvalidInputError
from reader.attention.dense import Logits
from reader.attention.function import run, use_slots
from reader.attention.parallel import Parallel
from reader.attention.rotary import Rotary
from reader.attention.slots import BLOCK, Segment, Shape, Slots
from reader.passages import compress, read_alone
from tests.reader.families import build
from tests.reader.test_attention import PASSAGES, PREFIX, place_all

SHAPE = Shape(layers=1, kv_heads=2, dim=8, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (0.8, 1.0), (0.9, 0.7)])
def test_memory_is_sharper_and_weighed_less(temperature: float, scale: float) -> None:
    """Memory's softmax at the temperature, joined with the rest's by its whole weight to the power."""
    made = torch.Generator().manual_seed(3)
    slots = Slots(SHAPE, 3)
    slots.place(torch.arange(10))
    slots.close_block()
    slots.remembered[slots.place(torch.arange(10, 50), passage=0)] = True
    slots.end_memory()
    places = slots.place(torch.arange(50, 56))
    slots.keys[:] = torch.randn(slots.keys.shape, generator=made)
    slots.values[:] = torch.randn(slots.values.shape, generator=made)
    segment = Segment(slots, 0, places, torch.arange(50, 56), (0, 6))
    queries = torch.randn(2, 3, 6, 8, generator=made)

    found = Parallel(temperature=temperature, scale=scale).attend(0, queries, segment, Logits(0.5))

    for head in range(2):
        for group in range(3):
            for number in range(6):
                query = queries[head, group, number]
                rest = [*range(10), *range(2 * BLOCK, 2 * BLOCK + number + 1)]
                memory = list(range(BLOCK, BLOCK + 40))
                logits = slots.keys[0, head] @ query * 0.5
                sharp = logits[memory] / temperature
                weight = torch.exp(scale * sharp.logsumexp(0))
                total = weight + logits[rest].exp().sum()
                seen = (logits[rest].exp() @ slots.values[0, head, rest]) / total
                seen = seen + weight / total * (sharp.softmax(0) @ slots.values[0, head, memory])
                assert torch.allclose(found[head, group, number], seen, atol=1e-5)


def test_a_model_reads_through_it() -> None:
    """At one and one all is as without; a temperature changes what the question makes of memory."""
    model = build("qwen2")
    shape, rotary = use_slots(model), Rotary(model)
    memories = [compress(*read_alone(model, shape, rotary, PREFIX, body)) for _, body in PASSAGES]

    def read(router: Parallel | None) -> torch.Tensor:
        placed = place_all(model, memories, again=8)
        return run(model, placed.tokens, [placed.segment], keep=4, router=router)

    plain = read(None)
    assert torch.equal(read(Parallel()), plain)
    assert torch.allclose(read(Parallel(temperature=1.0 + 1e-7)), plain, atol=1e-4)
    assert not torch.allclose(read(Parallel(temperature=0.5)), plain, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"scale": -1.0}])
def test_only_what_is_above_zero_is_taken(wrong: dict[str, float]) -> None:
    """Nothing can be divided by zero."""
    with pytest.raises(InvalidInputError):
        Parallel(**wrong)
