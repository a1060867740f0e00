"""Tiles batched by shape see what each would see by itself, whatever was chosen for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reader.attention.chosen import Chosen, attend_chosen
from reader.attention.dense import Logits
from reader.attention.flex import attend_in_place
from reader.attention.function import run, use_slots
from reader.attention.linear import Fit, see_rest
from reader.attention.slots import BLOCK, Segment, Shape, Slots, cut_tiles
from reader.routers.exact import exact
from reader.routing import Anchors, Router, Rule
from tests.reader.families import WORDS, build

HEADS, GROUPS, DIM = 2, 3, 8
CLOSE = 1e-5


def reading(seed: int = 0, dim: int = DIM) -> tuple[Segment, torch.Tensor]:
    """Return a prefix, passages with empty ends, of each the first tokens new, a question; and queries."""
    drawn = torch.Generator().manual_seed(seed)
    slots = Slots(Shape(1, HEADS, dim, torch.float32, torch.device("cpu")), 24)
    places, positions, runs, at = [], [], [], 0
    for passage, (length, new) in enumerate([(50, 0), (130, 9), (100, 20), (190, 9), (70, 37), (128, 1)], -1):
        taken = slots.place(torch.arange(at, at + length), passage=passage)
        slots.close_block()
        places.append(taken[:new])
        positions.append(torch.arange(at, at + new))
        runs.append(new)
        at += length
    slots.end_memory()
    places.append(slots.place(torch.arange(at, at + 30)))
    positions.append(torch.arange(at, at + 30))
    segment = Segment(slots, 0, torch.cat(places), torch.cat(positions), cut_tiles([*runs, 30], 16))
    slots.keys.normal_(generator=drawn)
    slots.values.normal_(generator=drawn)
    return segment, torch.randn(HEADS, GROUPS, len(segment.positions), dim, generator=drawn)


def draw_marks(segment: Segment, biased: bool) -> torch.Tensor:
    """Return marks of random blocks and of each tile's last one; with biases for all slots, if wanted."""
    drawn = torch.Generator().manual_seed(9)
    if biased:
        places = torch.arange(len(segment.slots.positions))
        segment.slots.set_bias(places, torch.randn(1, HEADS, len(places), generator=drawn))
    sees = segment.blocks
    numbers = torch.arange(int(sees.max()))
    marks = torch.rand(len(sees), HEADS, len(numbers), generator=drawn) < 0.4
    marks |= (numbers >= (sees - 1)[:, None])[:, None]
    return marks & (numbers < sees[:, None])[:, None]


def plainly(queries: torch.Tensor, segment: Segment, chosen: torch.Tensor, how: Logits) -> torch.Tensor:
    """Return what queries see: tile by tile and head by head, every slot masked that is not of a block."""
    slots, out = segment.slots, torch.empty_like(queries)
    for number, tile in enumerate(segment.tiles):
        asked = segment.positions[tile.start : tile.stop, None]
        for head in range(HEADS):
            allowed = torch.zeros(len(slots.positions), dtype=torch.bool)
            for block in chosen[number, head].nonzero()[:, 0].tolist():
                allowed[block * BLOCK : (block + 1) * BLOCK] = True
            logits = how.of(queries[head, :, tile.start : tile.stop], slots.keys[0, head])
            if slots.bias is not None:
                logits = logits + slots.bias[0, head]
            seen = allowed & (slots.positions >= 0) & (slots.positions <= asked)
            shares = logits.masked_fill(~seen, -torch.inf).softmax(-1)
            out[head, :, tile.start : tile.stop] = shares @ slots.values[0, head]
    return out


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("most", [1, 1 << 22])
def test_batches_are_tiles_by_themselves(
    cap: float | None, biased: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices of any width, with biases and capped logits, in few batches or in one a row."""
    monkeypatch.setattr("reader.attention.chosen._MOST", most)
    segment, queries = reading()
    how = Logits(DIM**-0.5, cap)
    marks = draw_marks(segment, biased)

    chosen = Chosen(marks, segment, GROUPS)
    found = attend_chosen(0, queries, segment, chosen, how)

    assert (len(chosen.batches) == len(segment.tiles) * HEADS) == (most == 1)
    assert (found - plainly(queries, segment, marks, how)).abs().max() < CLOSE


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("biased", [False, True])
def test_a_kernel_walks_the_same_blocks(
    cap: float | None, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention's mask says what the gathered blocks say; as it is written, on any machine."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    segment, queries = reading()
    how = Logits(DIM**-0.5, cap)
    marks = draw_marks(segment, biased)
    chosen = Chosen(marks, segment, GROUPS)

    found = attend_in_place(0, queries, segment.slots, chosen.walk, how)

    assert (found - plainly(queries, segment, marks, how)).abs().max() < CLOSE
    mask = chosen.walk.mask
    assert mask.full_kv_num_blocks is not None and mask.full_kv_num_blocks.sum() > 0
    rows = torch.tensor([-(-GROUPS * (tile.stop - tile.start) // 64) for tile in segment.tiles])
    listed = mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()
    assert listed == (marks.sum((1, 2)) * rows).sum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("biased", [False, True])
def test_a_compiled_kernel_walks_the_same_blocks(cap: float | None, biased: bool) -> None:
    """On a CUDA device the routed attention is FlexAttention's kernel, and gives what tiles give alone."""
    segment, queries = reading(dim=64)
    how = Logits(64**-0.5, cap)
    marks = draw_marks(segment, biased)
    expected = plainly(queries, segment, marks, how)
    slots = segment.slots
    for name in ("keys", "values", "positions", "reached", "passages"):
        setattr(slots, name, getattr(slots, name).cuda())
    slots.bias = None if slots.bias is None else slots.bias.cuda()
    cuts = [segment.tiles[0].start, *(tile.stop for tile in segment.tiles)]
    there = Segment(slots, 0, segment.places.cuda(), segment.positions.cuda(), cuts)

    found = attend_chosen(0, queries.cuda(), there, Chosen(marks.cuda(), there, GROUPS), how)

    # Products are in TF32 where the device has it.
    assert (found.cpu() - expected).abs().max() < 5e-3


def by_hand(shares: torch.Tensor, segment: Segment, rule: Rule) -> torch.Tensor:
    """Return the rule's choice of one tile and head after another."""
    passages = segment.slots.passages.tolist()
    routed = segment.slots.routed
    kept = torch.zeros(shares.shape, dtype=torch.bool)
    for number, sees in enumerate(segment.blocks.tolist()):
        own = [block for block in range(sees) if passages[block] == passages[sees - 1] and block >= 1]
        near = min(own[0], routed)
        always = {block for block in range(sees) if passages[block] < 0 or block >= near - 2}
        for head in range(HEADS):
            row = shares[number, head, :sees].tolist()
            others = sorted(set(range(sees)) - always, key=lambda block: -row[block])
            chosen = [*sorted(always, key=lambda block: -row[block]), *others]
            held, enough = 0.0, 0
            while enough < sees and held < rule.mass * sum(row):
                held += row[chosen[enough]]
                enough += 1
            least = len(always) + rule.least
            some = chosen[: min(max(enough, least), max(least, int(rule.share * sees)))]
            some += [passages.index(passages[block]) for block in some if passages[block] >= 0]
            is_asking = sees > routed
            if (is_asking and sum(row[block] for block in set(some)) < rule.trust) or sees <= rule.short:
                some = list(range(sees))
            kept[number, head, some] = True
            kept[number, head, routed:sees] = True
    return kept


@pytest.mark.parametrize(
    "rule",
    [
        Rule(mass=0.8, least=1, share=0.7, trust=0.0, short=0),
        Rule(mass=1.0, least=2, share=0.3, trust=0.0, short=0),
        Rule(mass=0.6, least=1, share=0.9, trust=0.7, short=4),
        Rule(mass=0.6, least=1, share=0.3, trust=1.0, short=0),
    ],
)
def test_routing_is_the_rule_for_each_tile(rule: Rule) -> None:
    """All tiles at once choose what each chooses by itself, and see it."""
    segment, queries = reading(1)
    how = Logits(1.0)
    router = Router(exact, Anchors([0]), rule)
    chosen = by_hand(exact(queries, segment, 0, how), segment, rule)

    found = router.attend(0, queries, segment, how)

    assert (found - plainly(queries, segment, chosen, how)).abs().max() < CLOSE
    assert router.told.chosen == int(chosen.sum())
    assert router.told.seen == int(segment.blocks.sum()) * HEADS


def counting(score: Callable[..., torch.Tensor]) -> tuple[Any, list[int]]:
    """Return a score, and the layers it was asked about."""
    asked: list[int] = []

    def count(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
        asked.append(layer)
        return score(queries, segment, layer, how)

    return count, asked


def test_decoding_chooses_anew_every_few_steps() -> None:
    """Steps between take the choice over, see what was written since, and another reading has its own."""
    model = build("llama")
    shape = use_slots(model)
    score, asked = counting(exact)
    everything = Rule(mass=1.0, least=1000, share=1.0, trust=0.0, short=0, steps=4)
    routers = [Router(score, Anchors([2]), everything), None]
    written = torch.randint(1, WORDS, (66,), generator=torch.Generator().manual_seed(3)).tolist()

    logits = []
    for router in routers:
        slots = Slots(shape, 5)
        before = torch.arange(130)
        places = slots.place(before, passage=0)
        run(model, [5] * 130, [Segment(slots, 0, places, before, (0, 130))], keep=1)
        slots.end_memory()
        for at, token in enumerate(written, 130):
            step = Segment(slots, 0, slots.place(torch.tensor([at])), torch.tensor([at]), (0, 1))
            told = run(model, [token], [step], keep=1, router=router)
        logits.append(told)

    assert len(asked) == -(-len(written) // 4)
    assert (logits[0] - logits[1]).abs().max() < CLOSE


def test_what_is_left_out_is_seen_from_afar() -> None:
    """The branch is linear attention over the slots of blocks without marks, written out."""
    segment, queries = reading(2)
    marks = draw_marks(segment, biased=False)
    sparse = plainly(queries, segment, marks, Logits(1.0))
    slots = segment.slots

    rest = see_rest(0, queries, segment, marks, sparse)

    for number, tile in enumerate(segment.tiles):
        asking = queries[:, :, tile.start : tile.stop].softmax(-1)
        for head in range(HEADS):
            sees = int(segment.blocks[number])
            left = (~marks[number, head, :sees]).repeat_interleave(BLOCK) & (
                slots.positions[: sees * BLOCK] >= 0
            )
            weights = asking[head] @ slots.keys[0, head, : sees * BLOCK][left].softmax(-1).T
            expected = weights / weights.sum(-1, keepdim=True) @ slots.values[0, head, : sees * BLOCK][left]
            if not left.any():
                expected = sparse[head, :, tile.start : tile.stop]
            assert (rest[head, :, tile.start : tile.stop] - expected).abs().max() < CLOSE


def test_the_branch_is_off_at_nothing_and_fitted_brings_nearer() -> None:
    """With α of 0 what is chosen is all there is; a fitted one is no further from what all blocks give."""
    segment, queries = reading(4)
    how = Logits(0.05)  # attention is spread wide: what is left out counts
    rule = Rule(mass=1.0, least=1, share=0.2, trust=0.0, short=0)
    sparse = Router(exact, Anchors([0]), rule).attend(0, queries, segment, how)
    marks = Router(exact, Anchors([0]), rule).look(0, queries, segment, how).marks
    numbers = torch.arange(marks.shape[-1])
    everything = (numbers < segment.blocks[:, None])[:, None].expand_as(marks)
    full = plainly(queries, segment, everything, how)
    fit = Fit()
    fit.add(0, full, sparse, see_rest(0, queries, segment, marks, sparse))

    off = Router(exact, Anchors([0]), rule, alphas={0: [0.0] * HEADS}).attend(0, queries, segment, how)
    on = Router(exact, Anchors([0]), rule, alphas=fit.alphas()).attend(0, queries, segment, how)

    assert torch.equal(off, sparse)
    assert all(0 < alpha < 1 for alpha in fit.alphas()[0])
    assert (on - full).square().sum() < (sparse - full).square().sum()
