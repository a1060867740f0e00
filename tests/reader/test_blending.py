"""What is read again is what deviates: read again in full, memories give what reading at once gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.blending import LAYER, blend
from reader.passages import compress, read_alone
from reader.placing import Passage, lay_out
from tests.reader.families import build
from tests.reader.test_attention import PASSAGES, PREFIX, QUESTION, WHOLE, plain


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3_text"])
def test_all_read_again_is_all_read_at_once(family: str) -> None:
    """A share of one leaves nothing of what was remembered apart."""
    model = build(family)
    expected = plain(model, WHOLE)[-len(QUESTION) :]
    shape, rotary = use_slots(model), Rotary(model)
    passages = [
        Passage(header, body, compress(*read_alone(model, shape, rotary, PREFIX, body)))
        for header, body in PASSAGES
    ]
    prefix = Passage((), PREFIX, None)

    blended = blend(model, shape, rotary, prefix, passages, share=1.0)
    placed = lay_out(shape, rotary, prefix, blended, QUESTION)

    assert placed.tokens == WHOLE
    found = run(model, placed.tokens, [placed.segment], keep=len(QUESTION))
    assert (found - expected).abs().max() < 1e-5


def test_what_deviates_most_is_chosen() -> None:
    """The tokens whose keys were spoilt are read again, whatever passage they are of; no others."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    prefix = Passage((), PREFIX, None)
    placed = lay_out(shape, rotary, prefix, [Passage(h, b, None) for h, b in PASSAGES], [])
    run(model, placed.tokens, [placed.segment], keep=1)
    at, passages = len(PREFIX), []
    spoilt = [[3, 40], [], [9]]
    for (header, body), wrong in zip(PASSAGES, spoilt, strict=True):
        own = placed.segment.places[at + len(header) : at + len(header) + len(body)]
        at += len(header) + len(body)
        keys = torch.stack(
            [
                rotary.turn_back(placed.slots.keys[layer][:, own], placed.slots.positions[own], layer)
                for layer in range(shape.layers)
            ]
        )
        keys[LAYER][:, wrong] += 1.0
        passages.append(Passage(header, body, compress(keys, placed.slots.values[:, :, own])))

    total = sum(len(body) for _, body in PASSAGES)
    blended = blend(model, shape, rotary, prefix, passages, share=3 / total)

    assert [list(one.again) for one in blended] == spoilt


def test_compacted_passages_are_not_blended() -> None:
    """They lack tokens: a mistake of the caller."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    header, body = PASSAGES[0]
    whole = compress(*read_alone(model, shape, rotary, PREFIX, body))
    fewer = replace(whole, offsets=torch.zeros(5, 2, len(body), dtype=torch.long))

    with pytest.raises(ValueError, match="compacted"):
        blend(model, shape, rotary, Passage((), PREFIX, None), [Passage(header, body, fewer)])
