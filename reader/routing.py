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
from weakref import WeakKeyDictionary

import torch

from reader.attention.chosen import Chosen, attend_chosen
from reader.attention.dense import Logits
from reader.attention.linear import mix_in
from reader.attention.slots import BLOCK, Segment, Slots
from reader.routers.tiles import rank


@dataclass(frozen=True, slots=True)
class Rule:
    """How many blocks are kept: as many as hold ``mass`` of the attention, ``least`` at least.

    Not more than ``share`` of those that can be seen. All are seen when only ``short`` blocks are there, and
    by a question and its answer when what is kept is below ``trust`` of their attention: at 1 they see all.
    They are few, and the twentieth that .95 leaves out may be what tells the answer. The first tokens of
    passages, which are read again to know where they stand, are content with what is kept, as are passages
    that are read anew: each sees all of its own text besides. ``belief`` weighs
    the logarithm of recall's probability of a block's passage against that of its attention; 0 leaves recall
    out.
    Steps of decoding choose anew every ``steps``.
    """

    mass: float = 0.95
    least: int = 0
    share: float = 0.05
    trust: float = 1.0
    short: int = 16
    belief: float = 0.0
    steps: int = 8


class Score(Protocol):
    """Estimates how the attention of tiles is spread over blocks. One method, one file."""

    def __call__(self, queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
        """Return shares of attention, shape (tiles, kv_heads, blocks), float32, sums of 1.

        ``queries`` are the segment's, (kv_heads, groups, tokens, dim). There are as many blocks as the tile
        that sees the most sees; a share is 0 where a tile sees nothing of a block.
        """


@dataclass(frozen=True, slots=True)
class Anchors:
    """The layers where choices are made, ascending, and whose choice the heads of other layers take.

    Layers before the first see everything. ``heads`` maps a layer to the head of the anchor before it, for
    each of its own; a layer that is not in it takes what the anchor's heads chose on the average.
    """

    layers: Sequence[int]
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)


UNROUTED = 2
"""So many layers look at everything: their attention is spread wide."""


@dataclass(slots=True)
class Told:
    """What a router did, for figures: blocks looked at of those in sight; shares kept, summed over looks."""

    chosen: int = 0
    seen: int = 0
    kept: float = 0.0
    looks: int = 0
    rows: int = 0
    opened: int = 0
    """Of so many rows (a tile and a head), those that see everything since too little would be kept."""


@dataclass(slots=True)
class _Choice:
    """What an anchor chose for the tiles of a segment, by each of its heads and, last, by their mean."""

    kept: torch.Tensor
    """Marks blocks, (tiles, kv_heads + 1, blocks)."""
    held: torch.Tensor
    """The shares of attention that fall on them, (tiles, kv_heads + 1)."""
    opened: torch.Tensor
    """Where everything is seen, (tiles, kv_heads + 1)."""
    is_step: bool
    """Whether it was made for a single tile behind all memory, as those of decoding are."""
    age: int = 0
    by_heads: WeakKeyDictionary[Segment, dict[tuple[int, ...], Chosen]] = field(
        default_factory=WeakKeyDictionary
    )


class Router:
    """Routes layers from the first anchor on. What it chose for a reading lasts as long as its slots."""

    def __init__(
        self,
        score: Score,
        anchors: Anchors,
        rule: Rule,
        *,
        beliefs: Mapping[int, float] | None = None,
        alphas: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        """``beliefs`` are recall's probabilities by passage, for ``rule.belief``.

        ``alphas`` are shares of a linear branch over what is not chosen (``attention.linear``), by layer and
        key/value head; without them there is none.
        """
        self.score = score
        self.anchors = anchors
        self.rule = rule
        self.beliefs = dict(beliefs or {})
        self.alphas = dict(alphas or {})
        self.told = Told()
        self._at = sorted(anchors.layers)
        self._chosen: WeakKeyDictionary[Slots, dict[int, _Choice]] = WeakKeyDictionary()

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Take no note."""

    def routes(self, layer: int, segment: Segment) -> bool:
        """Say whether a layer looks at a choice of blocks."""
        if not self._at or layer < self._at[0] or segment.slots.routed <= self.rule.short:
            return False
        # The question alone, or a step of decoding, sees everything: there is nothing to choose.
        return self.rule.trust < 1.0 or segment.tiles[0].end <= segment.slots.routed * BLOCK

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Return what queries see of the blocks chosen for them; shapes as in ``attention.dense.attend``."""
        chosen = self.look(layer, queries, segment, how)
        seen = attend_chosen(layer, queries, segment, chosen, how)
        if layer in self.alphas:
            return mix_in(layer, queries, segment, chosen.marks, seen, self.alphas[layer])
        return seen

    def look(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> Chosen:
        """Return what a layer's tiles look at; anchors choose it."""
        choices = self._chosen.setdefault(segment.slots, {})
        if layer in self._at and not self._lasts(choices.get(layer), segment):
            choices[layer] = self._choose(self.score(queries, segment, layer, how), segment)
        choice = choices[max(anchor for anchor in self._at if anchor <= layer)]
        heads, groups = queries.shape[:2]
        own = range(heads) if layer in self._at else self.anchors.heads.get(layer, [heads] * heads)
        return self._by_heads(choice, segment, tuple(own), groups)

    def _lasts(self, choice: _Choice | None, segment: Segment) -> bool:
        """Say whether a step of decoding takes over what an earlier one chose; count it."""
        if choice is None or not (choice.is_step and _is_step(segment)):
            return False
        choice.age += 1
        return choice.age < self.rule.steps

    def _choose(self, shares: torch.Tensor, segment: Segment) -> _Choice:
        """Return what is kept of these shares: by each head of the anchor, and by all on the average."""
        slots, rule = segment.slots, self.rule
        sees = segment.blocks
        passages = slots.passages[: shares.shape[-1]]
        shares = torch.cat((shares, shares.mean(1, keepdim=True)), dim=1)
        numbers = torch.arange(len(passages), device=sees.device)
        sighted = numbers < sees[:, None]
        always = sighted & ((passages < 0) | _near(passages, sees, slots.routed))
        kept, held = choose(
            shares, passages, always[:, None], rule, sighted=sighted[:, None], weights=self._weights(passages)
        )
        asking = sees > slots.routed
        opened = (held < rule.trust) & asking[:, None] | (sees <= rule.short)[:, None]
        return _Choice(kept, held, opened, _is_step(segment))

    def _by_heads(self, choice: _Choice, segment: Segment, heads: tuple[int, ...], groups: int) -> Chosen:
        """Return what a layer looks at whose heads take these of the anchor's choices; made once each."""
        made = choice.by_heads.setdefault(segment, {})
        sees, at = segment.blocks, list(heads)
        # In a model's last layer only the last tiles may look (``attention.tail``).
        opened = choice.opened[-len(sees) :, at]
        if heads not in made:
            numbers = torch.arange(int(sees.max()), device=sees.device)
            kept = choice.kept[-len(sees) :, at] | opened[..., None]
            kept = torch.nn.functional.pad(kept[..., : len(numbers)], (0, len(numbers) - kept.shape[-1]))
            # What stands beyond memory is seen anyway: more of it than when the choice was made.
            marks = (kept | (numbers >= segment.slots.routed)) & (numbers < sees[:, None])[:, None]
            made[heads] = Chosen(marks, segment, groups)
        told = self.told
        told.seen += int(sees.sum()) * len(at)
        told.chosen += int(made[heads].marks.sum())
        told.rows += opened.numel()
        told.opened += int(opened.sum())
        told.kept += float(choice.held[-len(sees) :, at].masked_fill(opened, 1.0).mean())
        told.looks += 1
        return made[heads]

    def _weights(self, passages: torch.Tensor) -> torch.Tensor | None:
        if self.rule.belief == 0.0 or not self.beliefs:
            return None
        known = [self.beliefs.get(number, 1.0) for number in passages.tolist()]
        return self.rule.belief * torch.tensor(known, device=passages.device).clamp_min(1e-6).log()


def _is_step(segment: Segment) -> bool:
    if segment.is_part:  # of a question: its next tile asks for itself
        return False
    return len(segment.tiles) == 1 and bool(segment.places[0] >= segment.slots.routed * BLOCK)


def choose(
    masses: torch.Tensor,
    passages: torch.Tensor,
    always: torch.Tensor,
    rule: Rule,
    *,
    sighted: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which blocks are kept, in the shape of ``masses``, and what share of the attention they hold.

    ``masses`` are shares of attention, (..., blocks). ``always`` marks blocks that are kept whatever they
    score, ``sighted`` those that can be seen at all; both broadcast. With a block its passage's first one is
    kept, which holds what the passage's text is read by.
    """
    sighted = masses.new_ones(1, dtype=torch.bool) if sighted is None else sighted
    always, sighted = always.expand_as(masses), sighted.expand_as(masses)
    scores = masses.clamp_min(1e-30).log()
    if weights is not None:
        scores = scores + weights
    scores = scores.masked_fill(always, torch.inf).masked_fill(~sighted, -torch.inf)
    ranks = rank(scores)
    held = torch.zeros_like(masses).scatter_(-1, ranks, masses).cumsum(-1)
    enough = (held < rule.mass * held[..., -1:]).sum(-1) + 1
    least = always.sum(-1) + rule.least
    most = (rule.share * sighted.sum(-1)).long().maximum(least)
    kept = (ranks < enough.maximum(least).minimum(most)[..., None]) & sighted
    kept |= _first_blocks(kept, passages)
    return kept, (masses * kept).sum(-1) / masses.sum(-1)


def _first_blocks(kept: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """Mark the first block of every passage of which a block is kept."""
    first = _begin(passages)
    number = (first.cumsum(0) - 1).expand_as(kept)
    touched = torch.zeros_like(kept, dtype=torch.int32)
    touched.scatter_add_(-1, number, kept.int())
    return (touched.gather(-1, number) > 0) & first


def _near(passages: torch.Tensor, sees: torch.Tensor, routed: int) -> torch.Tensor:
    """Mark, (tiles, blocks), what a tile's own passage has of memory, and the two blocks before that."""
    numbers = torch.arange(len(passages), device=passages.device)
    starts = numbers.masked_fill(~_begin(passages), 0).cummax(0).values
    own = starts[sees - 1].clamp_max(routed)
    return numbers >= (own - 2)[:, None]


def _begin(passages: torch.Tensor) -> torch.Tensor:
    """Mark the first block of each passage."""
    first = torch.ones_like(passages, dtype=torch.bool)
    first[1:] = passages[1:] != passages[:-1]
    return first
