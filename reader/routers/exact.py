"""The attention itself, summed by block: what all other scores estimate."""

from __future__ import annotations

import torch

from reader.attention.dense import Logits, visible
from reader.attention.slots import BLOCK, Segment
from reader.routers.tiles import probe

PROBES = 4
"""So many of a tile's queries are asked, evenly spread: eight kept no more of the attention."""

_MOST = 1 << 20
"""Logits at a time: few enough to stay in the caches, one head after another."""


def exact(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``)."""
    slots = segment.slots
    asking, asked = probe(queries, segment, PROBES)
    sees = segment.blocks.tolist()
    heads, tiles, groups, probes, dim = asking.shape
    shares = torch.zeros(tiles, heads, max(sees), device=queries.device)
    # In float32: half as many passes over the logits, and products are faster but where there is AMX.
    keys = slots.keys[layer][:, : max(sees) * BLOCK].float()
    step = max(1, _MOST // (groups * probes * max(sees) * BLOCK))
    for first in range(0, tiles, step):
        some = slice(first, first + step)
        blocks = max(sees[some])
        count = blocks * BLOCK
        seen = visible(asked[some], slots.positions[:count], None)
        added = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
        for head in range(heads):
            logits = how.of(asking[head, some].float().reshape(-1, dim), keys[head, :count])
            if slots.bias is not None:
                logits += slots.bias[layer, head, :count]
            by_tile = logits.reshape(-1, groups, probes, count)
            by_tile += added[:, None]
            spread = by_tile.softmax(-1).mean((1, 2))
            shares[some, head, :blocks] = spread.reshape(-1, blocks, BLOCK).sum(-1)
    return shares
