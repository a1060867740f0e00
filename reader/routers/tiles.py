"""What routers ask of tiles' queries, and what they make of blocks' logits: for all tiles at once."""

from __future__ import annotations

import torch

from reader.attention.slots import BLOCK, Segment, Slots


def probe(queries: torch.Tensor, segment: Segment, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``count`` queries of each tile, evenly spread, and their positions.

    ``queries`` are (kv_heads, groups, tokens, dim); returned are (kv_heads, tiles, groups, probes, dim) and
    (tiles, probes). A tile of fewer queries has some twice; there are no more than the longest has.
    """
    starts = torch.tensor([tile.start for tile in segment.tiles], device=queries.device)
    lengths = torch.tensor([tile.stop - tile.start for tile in segment.tiles], device=queries.device)
    count = min(count, int(lengths.max()))
    at = starts[:, None] + torch.arange(count, device=queries.device) * lengths[:, None] // count
    return queries[:, :, at].transpose(1, 2), segment.positions[at]


def pool(queries: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return the means of each tile's queries in float32, (kv_heads, tiles, groups, dim)."""
    lengths = torch.tensor([tile.stop - tile.start for tile in segment.tiles], device=queries.device)
    of = torch.repeat_interleave(torch.arange(len(lengths), device=queries.device), lengths)
    heads, groups, _, dim = queries.shape
    sums = torch.zeros(heads, groups, len(lengths), dim, device=queries.device)
    sums.index_add_(2, of, queries.float())
    return (sums / lengths[:, None]).transpose(1, 2)


def keys_by_block(slots: Slots, layer: int, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's first keys in float32, (kv_heads, blocks, 64, dim), and which slots are not empty.

    These are (blocks, 64, 1).
    """
    count = blocks * BLOCK
    keys = slots.keys[layer][:, :count].float()
    there = slots.positions[:count] >= 0
    return keys.reshape(len(keys), blocks, BLOCK, -1), there.reshape(blocks, BLOCK, 1)


def share_out(logits: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return shares of attention, (tiles, kv_heads, blocks), of logits of blocks.

    ``logits`` are (kv_heads, tiles, queries, blocks); a tile's queries share out what it sees, nothing
    falls on what it does not see, and the mean of its queries counts.
    """
    numbers = torch.arange(logits.shape[-1], device=logits.device)
    unseen = numbers >= segment.blocks[:, None]
    shares = logits.masked_fill(unseen[:, None], -torch.inf).softmax(-1)
    return shares.mean(2).transpose(0, 1)


def rank(scores: torch.Tensor) -> torch.Tensor:
    """Return how many in its last dimension are before each, the highest first; of equals the earlier is."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    numbers = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, numbers)
