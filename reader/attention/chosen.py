"""Attention of tiles over the blocks that were chosen for them: gathered, many tiles at a time.

A row is one tile and one key/value head. Rows of as many queries and about as many blocks go together into
one call of torch's scaled dot product; how much is gathered at a time is bounded, heads and tiles taking
their turns (as Untied Ulysses, Ghadia et al. 2026, does with heads on many devices). Nothing here knows why
blocks were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reader.attention.dense import Logits, attend
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


def make_batches(segment: Segment, chosen: torch.Tensor, groups: int) -> list[Batch]:
    """Return the rows of a segment in batches; ``chosen`` marks blocks, (tiles, kv_heads, blocks)."""
    heads, blocks = chosen.shape[1:]
    rows = chosen.flatten(0, 1)
    widths = rows.sum(1).tolist()
    lengths = [tile.stop - tile.start for tile in segment.tiles for _ in range(heads)]
    starts = torch.tensor([tile.start for tile in segment.tiles], device=chosen.device)
    # The chosen blocks' numbers first, ascending.
    numbers = torch.arange(blocks, device=chosen.device).expand_as(rows).masked_fill(~rows, blocks)
    numbers = numbers.sort(dim=1).values
    numbers = numbers.masked_fill(numbers == blocks, -1)
    order = sorted(range(len(rows)), key=lambda row: (lengths[row], widths[row]))
    batches: list[Batch] = []
    while order:
        length, width = lengths[order[0]], widths[order[0]]
        count = 0
        for row in order:
            wider = widths[row]
            full = (count + 1) * wider * BLOCK * groups * length > _MOST
            if lengths[row] != length or width < (1 - _WASTE) * wider or (full and count):
                break
            count += 1
        together, order = order[:count], order[count:]
        at = torch.tensor(together, device=chosen.device)
        batches.append(
            Batch(
                at % heads,
                starts[at // heads][:, None] + torch.arange(length, device=chosen.device),
                numbers[at, : widths[together[-1]]],
            )
        )
    return batches


def attend_chosen(
    layer: int, queries: torch.Tensor, segment: Segment, batches: list[Batch], how: Logits
) -> torch.Tensor:
    """Return what queries see of the blocks chosen for them; shapes as in ``attention.dense.attend``."""
    slots = segment.slots
    keys, values = (_by_block(rows[layer]) for rows in (slots.keys, slots.values))
    bias = None if slots.bias is None else _by_block(slots.bias[layer])
    each = slots.positions.reshape(-1, BLOCK)
    count = len(each)
    out = torch.empty_like(queries)
    for batch in batches:
        rows, width = batch.blocks.shape
        held = batch.blocks.clamp_min(0)
        at = (batch.heads[:, None] * count + held).flatten()
        heads = batch.heads[:, None]
        positions = each[held].masked_fill((batch.blocks < 0)[..., None], -1).flatten(1)
        seen = attend(
            queries[heads, :, batch.queries].transpose(1, 2),
            keys.index_select(0, at).reshape(rows, width * BLOCK, -1),
            values.index_select(0, at).reshape(rows, width * BLOCK, -1),
            segment.positions[batch.queries],
            positions,
            how=how,
            bias=None if bias is None else bias.index_select(0, at).reshape(rows, -1),
        )
        out[heads, :, batch.queries] = seen.transpose(1, 2)
    return out


def _by_block(rows: torch.Tensor) -> torch.Tensor:
    """Return (kv_heads, slots, ...) as one row a block, (kv_heads x blocks, ...)."""
    return rows.reshape(len(rows) * (rows.shape[1] // BLOCK), -1)
