"""What a method of compaction is asked and gives, and how a passage is compacted with one.

Each head of each layer keeps keys of its own. The first tokens of a passage are kept always: what is read
later leans on them more than any question shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from memory.errors import InvalidInputError
from reader.attention.dense import Logits, visible
from reader.attention.function import run, windows_of
from reader.attention.rotary import Rotary
from reader.attention.slots import Segment, Shape
from reader.passages import Memory, PassageMemory, compress, take_out
from reader.placing import Passage, Passing, Placed, lay_out

EXEMPT = 16
"""So many first tokens are always kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Numbers of the keys kept, ascending, (kv_heads, kept); and what stands in for the others.

    ``bias`` is added to their logits, (kv_heads, kept), and ``values`` take the place of theirs,
    (kv_heads, kept, dim); ``None`` for none and for their own.
    """

    chosen: torch.Tensor
    bias: torch.Tensor | None = None
    values: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One layer's queries behind a passage, turned to where they stand: (kv_heads, groups, queries, dim).

    ``elsewhere`` is the logarithm of the weight that each gives to all it sees but the passage, (kv_heads,
    groups, queries); ``how`` makes logits.
    """

    queries: torch.Tensor
    elsewhere: torch.Tensor
    how: Logits

    def weigh(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of the passage's keys, and the share of the attention that falls on all of them.

        Shapes are (kv_heads, groups x queries, keys) and (kv_heads, groups x queries). A query that looks
        past the passage says little about it: its share is small.
        """
        logits = self.how.of(self.queries, keys[:, None])
        share = torch.sigmoid(logits.logsumexp(-1) - self.elsewhere)
        return logits.flatten(1, 2), share.flatten(1, 2)


class Method(Protocol):
    """Chooses among one layer's keys."""

    def __call__(self, keys: torch.Tensor, values: torch.Tensor, asked: Asked, kept: int) -> Kept:
        """Keep ``kept`` of the keys, (kv_heads, tokens, dim), for queries such as those of ``asked``.

        Keys are turned to where they stand, as queries are.
        """


def count_kept(tokens: int, share: float) -> int:
    """Return how many of a passage's tokens each head keeps: a share, and more than those kept always."""
    return min(tokens, max(EXEMPT + 1, round(share * tokens)))


def compact(
    model: Any,
    shape: Shape,
    rotary: Rotary,
    opening: Passage,
    header: Sequence[int],
    tokens: Sequence[int],
    asking: Sequence[int],
    *,
    method: Method,
    kept: int,
    whole: Memory | None = None,
    bits: torch.dtype = torch.uint8,
    passing: Passing | None = None,
) -> PassageMemory:
    """Return what is kept of a passage with ``kept`` of its tokens in each head, in eight ``bits``.

    It is read behind ``opening`` and ``header``, if it is not remembered ``whole`` from there, and ``asking``
    behind it, whose queries say what is looked for: the text once more, mostly (KVzip, Kim et al. 2025).
    Queries of the passage itself are not asked: most of its keys stand behind them, where no later query
    finds any. ``passing`` runs the one pass of the model, whole in every layer; the model is called at once
    if it is ``None``. Raises ``InvalidInputError`` for a model with sliding windows.
    """
    if any(window is not None for window in windows_of(model)):
        raise InvalidInputError("a model with sliding windows sees too little of a memory to compact it")
    if kept >= len(tokens):
        raise ValueError(f"{kept} of {len(tokens)} tokens are no fewer")
    if whole is None:
        placed = lay_out(shape, rotary, opening, [], [*header, *tokens, *asking])
    else:
        placed = lay_out(shape, rotary, opening, [Passage(header, tokens, whole)], asking)
    listener = Listener()
    if passing is None:
        run(model, placed.tokens, [placed.segment], keep=1, router=listener)
    else:
        passing(placed, listener)
    end = len(placed.tokens) - len(asking)
    # The text ends where what asks begins, wherever its tokens' slots are.
    until = int(placed.segment.positions[end])
    positions = placed.slots.positions
    own = ((positions >= until - len(tokens)) & (positions < until)).nonzero()[:, 0]
    whole_keys, whole_values = take_out(placed.slots, rotary, own)
    keys, values, chosen, biases = [], [], [], []
    for layer, (queries, how) in sorted(listener.heard.items()):
        here, meant = placed.slots.keys[layer][:, own].float(), whole_values[layer]
        found = method(here, meant, _ask(placed, layer, queries[:, :, end:].float(), own, how), kept)
        spread = found.chosen[..., None].expand(-1, -1, here.shape[-1])
        keys.append(whole_keys[layer].gather(1, spread))
        values.append(meant.gather(1, spread) if found.values is None else found.values)
        chosen.append(found.chosen)
        if found.bias is not None:
            biases.append(found.bias)
    made = compress(torch.stack(keys), torch.stack(values), bits)
    offsets, bias = torch.stack(chosen).int(), torch.stack(biases) if biases else None
    return replace(made, length=len(tokens), offsets=offsets, bias=bias)


def _ask(placed: Placed, layer: int, queries: torch.Tensor, own: torch.Tensor, how: Logits) -> Asked:
    """Return the last queries of a reading with what they give to all slots but ``own``."""
    positions = placed.slots.positions.clone()
    positions[own] = -1
    stood = placed.segment.positions[-queries.shape[2] :]
    logits = how.of(queries, placed.slots.keys[layer][:, None].float())
    elsewhere = logits.masked_fill(~visible(stood, positions, None), -torch.inf).logsumexp(-1)
    return Asked(queries, elsewhere, how)


class Listener:
    """Stands where a router does, looks at everything, and keeps each layer's queries."""

    def __init__(self) -> None:
        self.heard: dict[int, tuple[torch.Tensor, Logits]] = {}
        """By layer: queries, (kv_heads, groups, queries, dim), and how their logits are made."""

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Keep a layer's queries."""
        self.heard[layer] = (queries, how)

    def routes(self, layer: int, segment: Segment) -> bool:
        """Leave everything to the plain attention."""
        return False

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Never asked."""
        raise NotImplementedError


def top(scores: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the numbers of the ``kept`` best keys of each head, ascending; the first ones come first."""
    scores = scores.clone()
    scores[:, :EXEMPT] = torch.inf
    return scores.topk(kept, dim=1).indices.sort(dim=1).values
