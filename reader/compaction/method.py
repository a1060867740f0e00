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
from reader.attention.dense import Logits
from reader.attention.function import run, windows_of
from reader.attention.rotary import Rotary
from reader.attention.slots import Segment, Shape
from reader.passages import PassageMemory, compress
from reader.placing import Passage, lay_out

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


class Method(Protocol):
    """Chooses among one layer's keys."""

    def __call__(
        self, keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor, how: Logits, kept: int
    ) -> Kept:
        """Keep ``kept`` of the keys, (kv_heads, tokens, dim), for queries such as ``queries``.

        These are (kv_heads, queries, dim), of all heads of a group; queries and keys are turned to where they
        stand.
        """


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
) -> PassageMemory:
    """Return what is kept of a passage with ``kept`` of its tokens in each head.

    It is read behind ``opening`` and ``header``, and ``asking`` behind it: its queries, and those of the
    passage's second half, say what is looked for. Raises ``InvalidInputError`` for a model with sliding
    windows.
    """
    if any(window is not None for window in windows_of(model)):
        raise InvalidInputError("a model with sliding windows sees too little of a memory to compact it")
    if kept >= len(tokens):
        raise ValueError(f"{kept} of {len(tokens)} tokens are no fewer")
    placed = lay_out(shape, rotary, opening, [], [*header, *tokens, *asking])
    slots, listener = placed.slots, Listener()
    run(model, placed.tokens, [placed.segment], keep=1, router=listener)
    end = len(placed.tokens) - len(asking)
    own = placed.segment.places[end - len(tokens) : end]
    positions = slots.positions[own]
    keys, values, offsets, biases = [], [], [], []
    for layer, (queries, how) in sorted(listener.heard.items()):
        asked = queries[:, :, end - len(tokens) // 2 :].flatten(1, 2).float()
        here, meant = slots.keys[layer][:, own].float(), slots.values[layer][:, own].float()
        found = method(here, meant, asked, how, kept)
        spread = found.chosen[..., None].expand(-1, -1, here.shape[-1])
        before = rotary.turn_back(here, positions, layer)
        keys.append(before.gather(1, spread))
        values.append(meant.gather(1, spread) if found.values is None else found.values)
        offsets.append(found.chosen)
        biases.append(
            torch.zeros_like(found.chosen, dtype=torch.float32) if found.bias is None else found.bias
        )
    made = compress(torch.stack(keys), torch.stack(values))
    return replace(made, length=len(tokens), offsets=torch.stack(offsets), bias=torch.stack(biases))


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
