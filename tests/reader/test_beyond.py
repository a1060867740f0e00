"""What is chosen by summaries is what the attention that they stand for would choose; windows are kept."""

import math

import pytest
import torch

from reader import beyond
from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.beyond import Overview, ask, choose, lay_out_all, summarise, summarise_unread
from reader.compaction.method import Listener
from reader.passages import WholeMemory, compress, read_alone, take_out
from reader.placing import Passage, lay_out
from tests.reader.families import build

OPENING, BEFORE, QUESTION = [5, 6, 7], [8, 9], [31, 41, 59]
PASSAGES = ([11, 12, 13, 14, 15], [21], [30, 31, 32, 33, 34, 35, 36, 37])


@pytest.mark.parametrize("family", ["llama-yarn", "qwen2", "gemma2"])
@pytest.mark.parametrize(("at_once", "bits"), [(7, torch.uint8), (1 << 15, torch.float8_e4m3fn)])
def test_masses_are_those_of_attention_in_one_place(family, at_once, bits, monkeypatch):
    """Plain reference: one query after another where it stands, every key turned to that same position."""
    monkeypatch.setattr(beyond, "_AT_ONCE", at_once)
    model = build(family)
    shape, rotary = use_slots(model), Rotary(model)
    layer = 3
    opening = Passage((), OPENING, WholeMemory(*read_alone(model, shape, rotary, (), OPENING)))
    memories = [compress(*read_alone(model, shape, rotary, OPENING, tokens), bits) for tokens in PASSAGES]

    asked = ask(model, shape, rotary, opening, BEFORE, QUESTION, [layer])[layer]
    found = Overview([summarise(memory, layer) for memory in memories]).masses(asked)

    groups = asked.queries.shape[1] // len(QUESTION)
    expected = torch.zeros(len(memories))
    for head in range(shape.kv_heads):
        for row in range(groups * len(QUESTION)):
            stands = len(OPENING) + len(BEFORE) + row % len(QUESTION)
            query = rotary.turn(asked.queries[head, row][None], torch.tensor([stands]), layer)
            weights = []
            for memory in memories:
                keys = memory.restore()[0][layer, head]
                turned = rotary.turn(keys, torch.full((len(keys),), stands), layer)
                weights.append(asked.how.of(query, turned).exp().sum())
            expected += torch.stack(weights) / sum(weights)
    assert torch.allclose(found, expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("family", ["llama-yarn", "qwen2", "gemma2"])
@pytest.mark.parametrize(("layer", "bits"), [(0, torch.uint8), (2, torch.uint8), (2, torch.float8_e4m3fn)])
def test_summaries_need_no_more_than_the_layers_before(family, layer, bits):
    """Read up to their layer, passages have the summaries of what is remembered of them."""
    model = build(family)
    shape, rotary = use_slots(model), Rotary(model)
    opening = Passage((), OPENING, WholeMemory(*read_alone(model, shape, rotary, (), OPENING)))
    deeper = []
    model.get_decoder().layers[layer + 1].register_forward_hook(lambda *_: deeper.append(layer))

    found = summarise_unread(model, shape, rotary, opening, BEFORE, PASSAGES, layer, bits=bits)
    assert not deeper

    tokens, laid = lay_out_all(shape, rotary, opening, BEFORE, PASSAGES)
    run(model, tokens, [one.segment for one in laid], keep=1)
    for summary, one, text in zip(found, laid, PASSAGES, strict=True):
        places = one.segment.places[-len(text) :]
        whole = summarise(compress(*take_out(one.slots, rotary, places), bits), layer)
        for name in ("keys", "low", "step"):
            assert torch.equal(getattr(summary, name).float(), getattr(whole, name).float())


def test_queries_are_those_of_the_question_alone():
    """Turned to where they stand, they are what the layer asked with; the words before leave none."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    placed = lay_out(shape, rotary, Passage((), OPENING, None), [], [*BEFORE, *QUESTION])
    listener = Listener()
    run(model, placed.tokens, [placed.segment], keep=1, router=listener)
    heard = listener.heard[1][0][:, :, -len(QUESTION) :]

    asked = ask(model, shape, rotary, Passage((), OPENING, None), BEFORE, QUESTION, [1])[1]

    positions = placed.segment.positions[-len(QUESTION) :]
    turned = rotary.turn(asked.queries.reshape(heard.shape), positions, 1)
    assert torch.allclose(turned, heard, atol=1e-5)


def test_what_is_chosen_fits():
    """The best that fit together, whatever the room; one that is too long lets shorter ones in."""
    masses = torch.tensor([0.5, 0.3, 0.15, 0.05])
    lengths = [40, 70, 10, 20]

    assert choose(masses, None, lengths, 100) == [0, 2, 3]
    assert choose(masses, None, lengths, 110) == [0, 1]
    for room in range(0, 150, 7):
        assert sum(lengths[number] for number in choose(masses, None, lengths, room)) <= room


def test_belief_weighs_beside_attention():
    """0 leaves recall out, a great weight leaves attention out; alone, each ranks by itself."""
    masses, beliefs = torch.tensor([0.6, 0.3, 0.1]), [0.1, 0.2, 0.9]
    lengths = [1, 1, 1]

    def best(belief: float) -> list[int]:
        return choose(masses, beliefs, lengths, 3, belief=belief)

    assert best(0.0) == choose(masses, None, lengths, 3) == [0, 1, 2]
    assert best(9.0) == choose(None, beliefs, lengths, 3) == [2, 1, 0]
    expected = sorted(range(3), key=lambda n: -(math.log(masses[n]) + 0.5 * math.log(beliefs[n])))
    assert best(0.5) == expected


def test_what_recall_did_not_find_is_not_ruled_out():
    """No probability is taken for a very small one: attention alone may choose it still."""
    assert choose(torch.tensor([1.0, 1e-30]), [0.0, 1e-3], [1, 1], 1, belief=0.5) == [0]
