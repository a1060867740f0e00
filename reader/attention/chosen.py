"""Attention of tiles over the blocks that were chosen for them: gathered, many tiles at a time.

A row is one tile and one key/value head. Rows of as many queries and about as many slots go together into
one call; how much is gathered at a time is bounded, heads and tiles taking
their turns (as Untied Ulysses does with heads on many devices, Ghadia et al. 2026). On CUDA a kernel walks
the chosen blocks where they are (``attention.flex``). Nothing here knows why blocks were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from reader.attention.dense import Logits, attend_behind
from reader.attention.flex import Walk, attend_in_place, make_walk
from reader.attention.slots import BLOCK, Segment

_MOST = 1 << 14
"""Slots gathered at a time, about: what bounds the memory, and keeps it in the caches."""

_WASTE = 0.2
"""Rows that go together see at most this part of slots less than the one that sees the most."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about equal shape: their heads, (rows,), and queries, (rows, queries), numbers in the segment.

    ``past`` are the slots that all of a row's queries see, (rows, slots), and ``own`` the others that were
    chosen, (rows, own slots), both numbers in the slots of all heads, one head's after another's; what rows
    have fewer is filled up. ``filled`` is added to the logits of the past, minus infinity where it is filled
    up, ``None`` where no row is; ``mask`` to those of the own ones, (rows, queries, own slots).
    """

    heads: torch.Tensor
    queries: torch.Tensor
    past: torch.Tensor
    filled: torch.Tensor | None
    own: torch.Tensor
    mask: torch.Tensor


class Chosen:
    """What tiles of a segment look at: ``marks`` are True for blocks, shape (tiles, kv_heads, blocks).

    What attention needs to know of it is worked out once, for all layers that look at the same.
    """

    def __init__(self, marks: torch.Tensor, segment: Segment, groups: int) -> None:
        self.marks = marks
        # The segment itself is not held on to: choices last as long as it does.
        self._tiles = [(tile.start, tile.stop) for tile in segment.tiles]
        self._asked, self._positions = segment.positions, segment.slots.positions
        self._groups = groups

    @cached_property
    def batches(self) -> list[Batch]:
        """The rows, those of equal shape together."""
        return make_batches(self.marks, self._tiles, self._asked, self._positions)

    @cached_property
    def walk(self) -> Walk:
        """The way of a kernel over the blocks."""
        return make_walk(self.marks, self._tiles, self._asked, self._positions, self._groups)


def attend_chosen(
    layer: int, queries: torch.Tensor, segment: Segment, chosen: Chosen, how: Logits
) -> torch.Tensor:
    """Return what queries see of the blocks chosen for them; shapes as in ``attention.dense.attend``."""
    if queries.is_cuda:
        return attend_in_place(layer, queries, segment.slots, chosen.walk, how)
    return _gather(layer, queries, segment, chosen.batches, how)


def make_batches(
    marks: torch.Tensor, tiles: list[tuple[int, int]], asked: torch.Tensor, positions: torch.Tensor
) -> list[Batch]:
    """Return rows in batches: ``marks`` of blocks, (tiles, kv_heads, blocks), and the tiles' queries.

    ``asked`` are the queries' positions, (tokens,), and ``positions`` the slots', (slots,). Empty slots are
    left out: a passage's last block has many.
    """
    device = marks.device
    heads = marks.shape[1]
    starts = torch.tensor([start for start, _ in tiles], device=device)
    lengths = [stop - start for start, stop in tiles for _ in range(heads)]
    taken, seen = _count_slots(asked[starts], positions, marks.shape[-1])
    rows = marks.flatten(0, 1)
    past = (marks * seen[:, None]).flatten(0, 1)
    own = rows * taken - past
    widths, own_widths = past.sum(1), own.sum(1)
    order = sorted(range(len(rows)), key=list(zip(lengths, widths.tolist(), strict=True)).__getitem__)
    at = torch.tensor(order, device=device)
    begin = torch.arange(marks.shape[-1], device=device) * BLOCK
    shift = (at % heads * len(positions))[:, None]
    past_slots = _list_slots(begin + shift, past[at])
    own_slots = _list_slots(begin + shift + past[at], own[at])
    ends, own_ends = widths[at].cumsum(0).tolist(), own_widths[at].cumsum(0).tolist()
    batches: list[Batch] = []
    shapes = [(lengths[row], width) for row, width in zip(order, widths[at].tolist(), strict=True)]
    for first, last in _runs(shapes):
        some = at[first:last]
        asking = starts[some // heads][:, None] + torch.arange(lengths[order[first]], device=device)
        before, own_before = (ends[first - 1], own_ends[first - 1]) if first else (0, 0)
        held, there = _fill_up(past_slots[before : ends[last - 1]], widths[some])
        own_held, own_there = _fill_up(own_slots[own_before : own_ends[last - 1]], own_widths[some])
        standing = positions[own_held % len(positions)]
        sees = own_there[:, None] & (standing[:, None] <= asked[asking][..., None])
        batches.append(
            Batch(
                some % heads,
                asking,
                held,
                None if there.all() else _minus_infinity(there),
                own_held,
                _minus_infinity(sees),
            )
        )
    return batches


def _count_slots(
    first: torch.Tensor, positions: torch.Tensor, blocks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many slots of each block are taken, (blocks,), and stand before ``first``, (..., blocks)."""
    each = positions[: blocks * BLOCK].reshape(blocks, BLOCK)
    taken = (each >= 0).sum(1)
    # Positions rise, and what is empty stands at the ends of blocks.
    before = (each < first[:, None, None]).sum(-1) - (BLOCK - taken)
    return taken, before


def _list_slots(begin: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return runs of numbers one after another: so many, (rows, blocks), each from where it begins."""
    flat = counts.flatten()
    shift = begin.expand_as(counts).flatten() - (flat.cumsum(0) - flat)
    return torch.repeat_interleave(shift, flat).add_(torch.arange(int(flat.sum()), device=counts.device))


def _fill_up(listed: torch.Tensor, widths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of so many of what is listed, (rows, most), zeros behind them, and where they are not."""
    there = torch.arange(int(widths.max()), device=widths.device) < widths[:, None]
    return torch.zeros_like(there, dtype=listed.dtype).masked_scatter_(there, listed), there


def _minus_infinity(seen: torch.Tensor) -> torch.Tensor:
    """Return what is added to logits: 0 where it is seen, minus infinity where it is not."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def _runs(shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield runs of rows that go together, first and last, of lengths and widths in ascending order."""
    first = 0
    while first < len(shapes):
        length, width = shapes[first]
        last = first + 1
        while last < len(shapes):
            other, wider = shapes[last]
            if other != length or (last + 1 - first) * max(wider, 1) > _MOST or width < (1 - _WASTE) * wider:
                break
            last += 1
        yield first, last
        first = last


def _gather(
    layer: int, queries: torch.Tensor, segment: Segment, batches: list[Batch], how: Logits
) -> torch.Tensor:
    slots = segment.slots
    keys, values = (rows[layer].flatten(0, 1) for rows in (slots.keys, slots.values))
    bias = None if slots.bias is None else slots.bias[layer].flatten()
    out = torch.empty_like(queries)
    for batch in batches:
        heads = batch.heads[:, None]
        added, mask = batch.filled, batch.mask
        if bias is not None:
            added = bias[batch.past] if added is None else bias[batch.past] + added
            mask = mask + bias[batch.own][:, None]
        past, own = ((_take(keys, slots_of), _take(values, slots_of)) for slots_of in (batch.past, batch.own))
        seen = attend_behind(
            queries[heads, :, batch.queries].transpose(1, 2), past, own, how=how, added=added, mask=mask
        )
        out[heads, :, batch.queries] = seen.transpose(1, 2)
    return out


def _take(rows: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return rows by their numbers, (..., dim): as one list, which is faster."""
    return rows.index_select(0, numbers.flatten()).reshape(*numbers.shape, rows.shape[-1])
