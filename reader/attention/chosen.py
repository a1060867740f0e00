"""Attention of tiles over the blocks that were chosen for them: gathered, many tiles at a time.

A row is one tile and one key/value head. Rows of as many queries and about as many blocks go together into
one call of torch's scaled dot product; how much is gathered at a time is bounded, heads and tiles taking
their turns (as Untied Ulysses does with heads on many devices, Ghadia et al. 2026). On CUDA a kernel walks
the chosen blocks where they are (``attention.flex``). Nothing here knows why blocks were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from reader.attention.dense import Logits, attend
from reader.attention.flex import Walk, attend_in_place, make_walk
from reader.attention.slots import BLOCK, Segment

_MOST = 1 << 22
"""Logits at a time, about: what bounds the memory, and keeps it in the caches."""

_WASTE = 0.2
"""Rows that go together have at most this part of blocks less than the longest has."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of equal shape: their heads, (rows,); queries, (rows, queries), and blocks, (rows, blocks).

    Queries are numbers in the segment. Blocks are numbers in the slots, -1 where a row has fewer.
    """

    heads: torch.Tensor
    queries: torch.Tensor
    blocks: torch.Tensor


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
        return make_batches(self.marks, self._tiles, self._groups)

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


def make_batches(marks: torch.Tensor, tiles: list[tuple[int, int]], groups: int) -> list[Batch]:
    """Return rows in batches: ``marks`` of blocks, (tiles, kv_heads, blocks), and the tiles' queries."""
    heads, blocks = marks.shape[1:]
    rows = marks.flatten(0, 1)
    widths = rows.sum(1).tolist()
    lengths = [stop - start for start, stop in tiles for _ in range(heads)]
    starts = torch.tensor([start for start, _ in tiles], device=marks.device)
    # The chosen blocks' numbers first, ascending.
    numbers = torch.arange(blocks, device=marks.device).expand_as(rows).masked_fill(~rows, blocks)
    numbers = numbers.sort(dim=1).values
    numbers = numbers.masked_fill(numbers == blocks, -1)
    order = sorted(range(len(rows)), key=lambda row: (lengths[row], widths[row]))
    batches: list[Batch] = []
    first = 0
    while first < len(order):
        length, width = lengths[order[first]], widths[order[first]]
        last = first + 1
        while last < len(order):
            wider = widths[order[last]]
            full = (last + 1 - first) * wider * BLOCK * groups * length > _MOST
            if full or lengths[order[last]] != length or width < (1 - _WASTE) * wider:
                break
            last += 1
        together = order[first:last]
        at = torch.tensor(together, device=marks.device)
        asking = starts[at // heads][:, None] + torch.arange(length, device=marks.device)
        batches.append(Batch(at % heads, asking, numbers[at, : widths[together[-1]]]))
        first = last
    return batches


def _gather(
    layer: int, queries: torch.Tensor, segment: Segment, batches: list[Batch], how: Logits
) -> torch.Tensor:
    slots = segment.slots
    keys, values = (_by_block(rows[layer]) for rows in (slots.keys, slots.values))
    bias = None if slots.bias is None else _by_block(slots.bias[layer])
    each = slots.positions.reshape(-1, BLOCK)
    out = torch.empty_like(queries)
    for batch in batches:
        rows, width = batch.blocks.shape
        held = batch.blocks.clamp_min(0)
        heads = batch.heads[:, None]
        at = (heads * len(each) + held).flatten()
        seen = attend(
            queries[heads, :, batch.queries].transpose(1, 2),
            keys.index_select(0, at).reshape(rows, width * BLOCK, -1),
            values.index_select(0, at).reshape(rows, width * BLOCK, -1),
            segment.positions[batch.queries],
            each[held].masked_fill((batch.blocks < 0)[..., None], -1).flatten(1),
            how=how,
            bias=None if bias is None else bias.index_select(0, at).reshape(rows, -1),
        )
        out[heads, :, batch.queries] = seen.transpose(1, 2)
    return out


def _by_block(rows: torch.Tensor) -> torch.Tensor:
    """Return (kv_heads, slots, ...) as one row a block, (kv_heads x blocks, ...)."""
    return rows.reshape(len(rows) * (rows.shape[1] // BLOCK), -1)
