"""Lay a reading out: prefix, passages, question, one after another; and run what is new in it at once.

Every passage has a header of its own, always new: it says what passage this is, and read in its place it
takes the attention that the passage's first tokens would draw when read alone (EPIC, Hu et al. 2024). The
first tokens of a passage may be read again behind it, and others that are chosen (``reader.blending``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from reader.attention.function import Attends
from reader.attention.rotary import Rotary
from reader.attention.slots import BLOCK, Segment, Shape, Slots, cut_tiles
from reader.passages import Memory, place

TILE = 32
"""Queries that choose together, at most."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens that are read anew, tokens of the text, and what is remembered of the text.

    ``again`` are offsets in the text of tokens that are read again, where all are remembered.
    """

    header: Sequence[int]
    body: Sequence[int]
    memory: Memory | None
    again: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A reading in its slots, and the tokens that are to be run, in one segment."""

    slots: Slots
    tokens: list[int]
    segment: Segment
    end: int
    """The position after the last token."""


Passing = Callable[[Placed, Attends], object]
"""Runs a pass of the model over what is laid out, in which something else attends."""


def lay_out(
    shape: Shape,
    rotary: Rotary,
    prefix: Passage,
    passages: Sequence[Passage],
    question: Sequence[int],
    *,
    again: int = 0,
    spare: int = 0,
    tile: int = TILE,
) -> Placed:
    """Return a reading with every memory in its place; where there is none, its tokens are read.

    ``again`` first tokens of each passage are read again, of a compacted one those that all heads kept;
    ``spare`` slots are left for an answer.
    """
    sizes = [_size(one) for one in (prefix, *passages)]
    slots = Slots(shape, sum(-(-size // BLOCK) for size in sizes) + -(-(len(question) + spare) // BLOCK))
    tokens: list[int] = []
    places: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    runs: list[int] = []
    at = 0

    def take(count: int, passage: int) -> torch.Tensor:
        nonlocal at
        at += count
        return slots.place(torch.arange(at - count, at, device=shape.device), passage=passage)

    def read(new: Sequence[int], passage: int) -> int:
        if new:
            places.append(take(len(new), passage))
            positions.append(torch.arange(at - len(new), at, device=shape.device))
            tokens.extend(new)
        return len(new)

    for number, one in enumerate((prefix, *passages), start=-1):
        count = read(one.header, number)
        if one.memory is None:
            count += read(one.body, number)
        else:
            start = at
            held = slots.place(_spread(one.memory, start, shape.device), passage=number)
            place(one.memory, slots, held, rotary, start)
            slots.remembered[held] = number >= 0
            first = 0 if number < 0 else min(again, one.memory.first)
            anew = sorted({*range(first), *one.again})
            if anew:
                chosen = torch.tensor(anew, device=shape.device)
                places.append(held[chosen])
                positions.append(chosen + start)
                tokens.extend(one.body[offset] for offset in anew)
                count += len(anew)
            at = start + one.memory.length
        runs.append(count)
        slots.close_block()
    slots.end_memory()
    runs.append(read(question, -1))
    segment = Segment(slots, 0, torch.cat(places), torch.cat(positions), cut_tiles(runs, tile))
    return Placed(slots, tokens, segment, at)


def _size(passage: Passage) -> int:
    return len(passage.header) + (len(passage.body) if passage.memory is None else passage.memory.kept)


def _spread(memory: Memory, start: int, device: torch.device) -> torch.Tensor:
    """Return rising positions for a memory's slots, within its passage: who comes later sees them all."""
    if memory.offsets is None:
        return torch.arange(start, start + memory.length, device=device)
    rest = torch.linspace(memory.first, memory.length - 1, memory.kept - memory.first, device=device)
    return start + torch.cat((torch.arange(memory.first, device=device), rest.long()))
