"""Choose which blocks of memory a tile of queries looks at, and look at those alone.

At a few anchor layers a score says how much of the attention falls on each block; the layers up to the next
anchor reuse the choice, head by head through a map (Kascade, Deshmukh et al. 2025). Heads of a key/value
group share a choice. What recall believed of a passage may count beside (``Rule.belief``): it selects, and
never enters the softmax. Where too little of the attention would be seen, all blocks are. Scores:
``reader.routers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from reader.attention.dense import Logits, attend
from reader.attention.slots import BLOCK, Segment, Slots, Tile

Blocks = torch.Tensor
"""Numbers of blocks, ascending, shape (kv_heads, chosen); -1 where a head chose fewer than others."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How many blocks are kept: as many as hold ``mass`` of the attention, ``least`` at least.

    Not more than ``share`` of those that can be seen. All are seen when what is kept is below ``trust`` of
    the attention, or when only ``short`` blocks are there. ``belief`` weighs the logarithm of recall's
    probability of a block's passage against that of its attention; it was measured, and 0 leaves recall out.
    """

    mass: float = 0.95
    least: int = 4
    share: float = 0.2
    trust: float = 0.9
    short: int = 16
    belief: float = 0.0


class Score(Protocol):
    """Estimates how the attention of a tile is spread over blocks. One method, one file."""

    def __call__(
        self, queries: torch.Tensor, slots: Slots, layer: int, tile: Tile, asked: torch.Tensor, how: Logits
    ) -> torch.Tensor:
        """Return shares of attention, shape (kv_heads, blocks that the tile can see), float32, sums of 1.

        ``queries`` are the tile's, (kv_heads, groups, queries, dim), at positions ``asked``.
        """


@dataclass(frozen=True, slots=True)
class Anchors:
    """The layers where choices are made, ascending, and whose choice the heads of other layers take.

    Layers before the first see everything. ``heads`` maps a layer to the head of the anchor before it, for
    each of its own; a layer that is not in it takes what the anchor's heads chose on the average.
    """

    layers: Sequence[int]
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)


def spread_anchors(windows: Sequence[int | None], count: int = 4) -> Anchors:
    """Return anchors evenly spread over a model's layers, none among the first two.

    ``windows`` are the layers' sliding windows, ``None`` where they see everything: only these are routed.
    """
    routed = [layer for layer, window in enumerate(windows) if window is None and layer >= UNROUTED]
    step = max(1, -(-len(routed) // count))
    return Anchors(routed[::step])


UNROUTED = 2
"""So many layers look at everything: their attention is spread wide."""


@dataclass(slots=True)
class Told:
    """What a router did: for figures."""

    chosen: int = 0
    seen: int = 0
    kept: list[float] = field(default_factory=list)


class Router:
    """Routes layers from the first anchor on. Keeps nothing between readings but what it tells."""

    def __init__(
        self, score: Score, anchors: Anchors, rule: Rule, *, beliefs: Mapping[int, float] | None = None
    ) -> None:
        """``beliefs`` are recall's probabilities by passage, for ``rule.belief``."""
        self.score = score
        self.anchors = anchors
        self.rule = rule
        self.beliefs = dict(beliefs or {})
        self.told = Told()
        self._at = frozenset(anchors.layers)
        self._first = min(anchors.layers, default=1 << 30)

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Take no note."""

    def routes(self, layer: int, segment: Segment) -> bool:
        """Say whether a layer looks at a choice of blocks."""
        return layer >= self._first and segment.slots.routed > self.rule.short

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Return what queries see of the blocks chosen for them; shapes as in ``attention.dense.attend``."""
        out = torch.empty_like(queries)
        for number, tile in enumerate(segment.tiles):
            part = queries[:, :, tile.start : tile.stop]
            asked = segment.positions[tile.start : tile.stop]
            if layer in self._at:
                masses = self.score(part, segment.slots, layer, tile, asked, how)
                segment.masses[number] = masses
            out[:, :, tile.start : tile.stop] = self._attend(
                layer, part, segment.slots, tile, asked, how, segment.masses, number
            )
        return out

    def _attend(
        self,
        layer: int,
        queries: torch.Tensor,
        slots: Slots,
        tile: Tile,
        asked: torch.Tensor,
        how: Logits,
        seen: dict[int, torch.Tensor],
        number: int,
    ) -> torch.Tensor:
        bias = None if slots.bias is None else slots.bias[layer]
        chosen = self._choose(layer, slots, tile, seen, number)
        if chosen is None:
            part = slice(0, tile.end)
            keys, values = slots.keys[layer][:, part], slots.values[layer][:, part]
            positions = slots.positions[part]
            bias = None if bias is None else bias[:, part]
        else:
            keys, values, positions, bias = gather(slots, layer, chosen, tile.end, bias)
        return attend(queries, keys, values, asked, positions, how=how, bias=bias)

    def _choose(
        self, layer: int, slots: Slots, tile: Tile, seen: dict[int, torch.Tensor], number: int
    ) -> Blocks | None:
        """Return the blocks for a layer's heads; what one anchor's heads chose is worked out once."""
        masses = seen[number]
        heads = self.anchors.heads.get(layer)
        if layer not in self._at:
            masses = masses.mean(0, keepdim=True).expand_as(masses) if heads is None else masses[list(heads)]
        blocks = masses.shape[1]
        if blocks <= self.rule.short:
            return None
        passages = slots.passages[:blocks]
        always = passages < 0  # prefix, question and answer
        memory = min(blocks, slots.routed)
        always[max(0, memory - 2) : memory] = True
        chosen, kept = choose(masses, passages, always, self.rule, self._weights(passages))
        # What stands beyond memory is seen anyway.
        chosen = chosen.masked_fill(chosen >= slots.routed, -1)
        chosen = chosen[:, : int((chosen >= 0).sum(1).max())]
        self.told.seen += blocks * len(masses)
        if float(kept.min()) < self.rule.trust:
            self.told.chosen += blocks * len(masses)
            return None
        self.told.chosen += int((chosen >= 0).sum())
        self.told.kept.append(float(kept.mean()))
        return chosen

    def _weights(self, passages: torch.Tensor) -> torch.Tensor | None:
        if self.rule.belief == 0.0 or not self.beliefs:
            return None
        known = [self.beliefs.get(number, 1.0) for number in passages.tolist()]
        return self.rule.belief * torch.tensor(known, device=passages.device).clamp_min(1e-6).log()


def choose(
    masses: torch.Tensor,
    passages: torch.Tensor,
    always: torch.Tensor,
    rule: Rule,
    weights: torch.Tensor | None = None,
) -> tuple[Blocks, torch.Tensor]:
    """Return the blocks that each head keeps and the share of its attention that falls on them, (kv_heads,).

    ``masses`` are shares of attention, (kv_heads, blocks); ``always`` marks blocks that are kept whatever
    they score. With a block its passage's first one is kept, which holds what the passage's text is read by.
    """
    heads, blocks = masses.shape
    scores = masses.clamp_min(1e-30).log()
    if weights is not None:
        scores = scores + weights
    scores = scores.masked_fill(always, torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    held = masses.gather(1, order).cumsum(1)
    enough = (held < rule.mass * held[:, -1:]).sum(1) + 1
    fixed = int(always.sum())
    most = max(fixed + rule.least, int(rule.share * blocks))
    counts = enough.clamp(min(fixed + rule.least, blocks), min(most, blocks))
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(blocks, device=order.device).expand(heads, blocks))
    kept = rank < counts[:, None]
    kept |= _first_blocks(kept, passages)
    share = (masses * kept).sum(1) / masses.sum(1)
    width = int(kept.sum(1).max())
    # Kept blocks first, in their order; a head that keeps fewer is filled up with -1.
    numbers = torch.arange(blocks, device=order.device).expand(heads, blocks).masked_fill(~kept, blocks)
    chosen = numbers.sort(dim=1).values[:, :width]
    return chosen.masked_fill(chosen == blocks, -1), share


def gather(
    slots: Slots, layer: int, chosen: Blocks, end: int, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return (keys, values, positions, bias) of chosen blocks, and of all beyond memory before ``end``."""
    heads = torch.arange(len(chosen), device=chosen.device)[:, None]
    held = chosen.clamp_min(0)

    def pick(rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(len(rows), -1, BLOCK, *rows.shape[2:])[heads, held].flatten(1, 2)

    tail = slice(slots.routed * BLOCK, max(end, slots.routed * BLOCK))
    positions = slots.positions.reshape(-1, BLOCK)[held].masked_fill((chosen < 0)[..., None], -1)
    beyond = slots.positions[tail].expand(len(chosen), -1)
    return (
        torch.cat((pick(slots.keys[layer]), slots.keys[layer][:, tail]), dim=1),
        torch.cat((pick(slots.values[layer]), slots.values[layer][:, tail]), dim=1),
        torch.cat((positions.flatten(1, 2), beyond), dim=1),
        None if bias is None else torch.cat((pick(bias), bias[:, tail]), dim=1),
    )


def _first_blocks(kept: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """Mark the first block of every passage of which a block is kept."""
    first = torch.ones_like(passages, dtype=torch.bool)
    first[1:] = passages[1:] != passages[:-1]
    number = first.cumsum(0) - 1
    touched = torch.zeros_like(kept, dtype=torch.int32)
    touched.scatter_add_(1, number.expand_as(kept), kept.int())
    return (touched.gather(1, number.expand_as(kept)) > 0) & first
