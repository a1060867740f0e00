"""Routers estimate the attention's spread over blocks; anchors and heads are those that keep the most of

it.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from reader.anchors import Recorder, choose_anchors
from reader.attention.dense import Logits
from reader.attention.function import run, use_slots, windows_of
from reader.attention.rotary import Rotary
from reader.attention.slots import BLOCK, Segment, Shape, Slots, cut_tiles
from reader.routers.exact import exact
from reader.routers.flexprefill import flexprefill
from reader.routers.mean import mean
from reader.routers.moba import moba
from reader.routers.prism import Prism, fast_channels
from reader.routers.quest import quest
from reader.routing import Anchors, Router, Rule
from tests.reader.families import WORDS, build

SHAPE = Shape(layers=1, kv_heads=2, dim=8, dtype=torch.float32, device=torch.device("cpu"))
HOW = Logits(8**-0.5)
PLAIN = torch.zeros(8, dtype=torch.bool)


def filled(seed: int = 0, blocks: int = 6) -> tuple[Slots, torch.Tensor, Segment]:
    """Return slots with random keys, the last block half empty, and four queries after them."""
    drawn = torch.Generator().manual_seed(seed)
    slots = Slots(SHAPE, blocks)
    count = blocks * BLOCK - BLOCK // 2
    places = slots.place(torch.arange(count))
    slots.write(
        0, places, torch.randn(2, count, 8, generator=drawn), torch.randn(2, count, 8, generator=drawn)
    )
    queries = torch.randn(2, 3, 4, 8, generator=drawn)
    return slots, queries, Segment(slots, 0, places[-4:], torch.arange(count, count + 4), (0, 4))


SCORES: list[Any] = [exact, mean, quest, moba, flexprefill, Prism(PLAIN)]


@pytest.mark.parametrize("score", SCORES)
def test_shares_are_shares(score: Any) -> None:
    """Every head's shares sum to one, and a tile gives nothing to what it does not see."""
    slots, queries, _ = filled()
    positions = torch.tensor([100, 101, 300, 301])
    segment = Segment(slots, 0, positions, positions, (0, 2, 4))

    shares = score(queries, segment, 0, HOW)

    assert shares.shape == (2, 2, 5)
    assert torch.allclose(shares.sum(2), torch.ones(2, 2))
    assert not shares[0, :, 2:].any()


@pytest.mark.parametrize("score", [exact, mean, quest, moba, Prism(PLAIN)])
def test_tiles_are_scored_each_by_itself(score: Any) -> None:
    """All tiles at once, of unequal lengths, get what each gets alone."""
    slots, _, _ = filled()
    queries = torch.randn(2, 3, 19, 8, generator=torch.Generator().manual_seed(2))
    positions = torch.cat((torch.arange(60, 69), torch.arange(200, 210)))
    segment = Segment(slots, 0, positions, positions, (0, 9, 19))

    shares = score(queries, segment, 0, HOW)

    for number, (first, last) in enumerate(((0, 9), (9, 19))):
        own = positions[first:last]
        alone = score(queries[:, :, first:last], Segment(slots, 0, own, own, (0, last - first)), 0, HOW)[0]
        assert torch.allclose(shares[number, :, : alone.shape[1]], alone, atol=1e-6)


def test_the_exact_score_is_the_attention() -> None:
    """Against the softmax written out."""
    slots, queries, segment = filled()
    count = segment.tiles[0].end
    weights = (queries @ slots.keys[0][:, None, :count].transpose(2, 3) * HOW.scaling).softmax(-1)
    padded = torch.nn.functional.pad(weights, (0, -count % BLOCK)).reshape(2, 12, 6, BLOCK)

    shares = exact(queries, segment, 0, HOW)[0]

    assert torch.allclose(shares, padded.sum(3).mean(1), atol=1e-6)


def test_quest_is_a_bound() -> None:
    """No key of a block gives a query more than its box does: with one query the order cannot hide a key."""
    slots, queries, segment = filled()
    keys = slots.keys[0].reshape(2, 6, BLOCK, 8)
    there = slots.positions.reshape(6, BLOCK) >= 0
    low = keys.masked_fill(~there[..., None], torch.inf).amin(2)
    high = keys.masked_fill(~there[..., None], -torch.inf).amax(2)
    one = queries[:, :1, :1]
    best = (one[:, 0] @ keys.flatten(1, 2).transpose(1, 2)).reshape(2, 6, BLOCK)
    best = best.masked_fill(~there, -torch.inf).amax(2)
    bound = torch.maximum(one[:, 0] * low, one[:, 0] * high).sum(-1)
    shares = quest(one, first_query(segment), 0, HOW)[0]

    assert (bound + 1e-5 >= best).all()
    assert torch.allclose((bound * HOW.scaling).softmax(-1), shares, atol=1e-6)


def first_query(segment: Segment) -> Segment:
    """Return a segment of the first of its queries."""
    return Segment(segment.slots, 0, segment.places[:1], segment.positions[:1], (0, 1))


def test_a_key_that_stands_out_is_found() -> None:
    """All scores see a block whose keys all answer the query; a single key is seen by Quest's, too."""
    slots, _, segment = filled()
    wanted = torch.ones(2, 1, 1, 8)
    slots.keys[0, :, 2 * BLOCK : 3 * BLOCK] = 4.0
    for score in SCORES:
        assert score(wanted, first_query(segment), 0, HOW)[0].argmax(1).tolist() == [2, 2]
    slots, _, segment = filled()
    slots.keys[0, :, 4 * BLOCK + 7] = 6.0
    for score in (exact, quest):
        assert score(wanted, first_query(segment), 0, HOW)[0].argmax(1).tolist() == [4, 4]


def test_lines_are_followed_where_means_mislead() -> None:
    """FlexPrefill's other pattern: the blocks that the last tile looks at, from an earlier tile, too."""
    slots, _, _ = filled()
    slots.keys[0, :, BLOCK + 7] = 9.0  # alone among sixty-four: the mean hides it
    positions = torch.tensor([250, 300])
    segment = Segment(slots, 0, positions, positions, (0, 1, 2))

    shares = flexprefill(torch.ones(2, 1, 2, 8), segment, 0, HOW)

    assert (shares[..., 1] > 0.4).all()


def test_fast_channels_come_in_pairs() -> None:
    """A channel is fast when it turns by more than half a circle within a block."""
    frequencies = torch.tensor([1.0, 0.01])

    assert fast_channels(frequencies, 6).tolist() == [True, False, True, False, False, False]


def test_anchors_keep_the_most() -> None:
    """The program finds what trying all finds."""
    drawn = torch.Generator().manual_seed(3)
    masses = {layer: torch.randn(3, 2, 40, generator=drawn).mul(3).softmax(2) for layer in range(2, 8)}

    def worth(layers: tuple[int, ...]) -> float:
        total = 0.0
        for layer in masses:
            anchor = max(each for each in layers if each <= layer)
            total += sum(
                max(
                    sum(
                        float(own[head][other[from_head].topk(4).indices].sum())
                        for own, other in zip(masses[layer], masses[anchor], strict=True)
                    )
                    for from_head in range(2)
                )
                for head in range(2)
            )
        return total

    found = choose_anchors(masses, 3)

    others = [(2, *rest) for rest in itertools.combinations(range(3, 8), 2)]
    assert worth(tuple(found.layers)) == pytest.approx(max(worth(other) for other in others))
    assert set(found.heads) == set(masses) - set(found.layers)


def test_routing_keeps_most_of_what_it_leaves_out_little_of() -> None:
    """At ever more blocks a routed pass comes nearer to the plain one, and says how much it kept."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    tokens = torch.randint(1, WORDS, (64 * 24,), generator=torch.Generator().manual_seed(5)).tolist()
    del rotary

    def read(router: Router | Recorder | None) -> torch.Tensor:
        slots = Slots(shape, 25)
        before = torch.arange(len(tokens) - 16)
        places = slots.place(before, passage=0)
        slots.passages[:24] = torch.arange(24) // 4
        run(model, tokens[:-16], [Segment(slots, 0, places, before, cut_tiles([len(before)], 64))], keep=1)
        slots.end_memory()
        asked = torch.arange(len(tokens) - 16, len(tokens))
        segment = Segment(slots, 0, slots.place(asked), asked, cut_tiles([16], 16))
        return run(model, tokens[-16:], [segment], keep=16, router=router)

    recorder = Recorder()
    everything = Rule(mass=1.0, least=1000, share=1.0, trust=0.0, short=0)
    routed = [layer for layer, window in enumerate(windows_of(model)) if window is None and layer >= 2]
    read(Router(recorder, Anchors(routed), everything))
    anchors = choose_anchors(recorder.masses, 2)
    plain = read(None)
    away, kept = [], []
    for share in (0.1, 0.4, 0.8):
        router = Router(exact, anchors, Rule(mass=1.0, least=1, share=share, trust=0.0, short=0))
        away.append(float((read(router) - plain).abs().mean()))
        kept.append(router.told.kept / router.told.looks)

    assert away[0] > away[1] > away[2]
    assert kept[0] < kept[1] < kept[2] <= 1.0
