"""The attention itself, summed by block: what all other scores estimate."""

from __future__ import annotations

import torch

from reader.attention.dense import Logits, visible
from reader.attention.slots import BLOCK, Segment
from reader.routers.tiles import probe

PROBES = 8
"""So many of a tile's queries are asked, evenly spread."""

_MOST = 1 << 23
"""Logits at a time: what bounds the memory."""


def exact(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``)."""
    slots = segment.slots
    asking, asked = probe(queries, segment, PROBES)
    sees = segment.blocks.tolist()
    heads, tiles, groups, probes, dim = asking.shape
    shares = torch.zeros(tiles, heads, max(sees), device=queries.device)
    each = heads * groups * probes * max(sees) * BLOCK
    step = max(1, _MOST // each)
    for first in range(0, tiles, step):
        some = slice(first, first + step)
        blocks = max(sees[some])
        count = blocks * BLOCK
        logits = how.of(asking[:, some].reshape(heads, -1, dim), slots.keys[layer][:, :count])
        if slots.bias is not None:
            logits += slots.bias[layer][:, None, :count]
        logits = logits.reshape(heads, -1, groups, probes, count)
        logits.masked_fill_(~visible(asked[some], slots.positions[:count], None)[:, None], -torch.inf)
        by_block = logits.softmax(-1).reshape(*logits.shape[:-1], blocks, BLOCK).sum(-1)
        shares[some, :, :blocks] = by_block.mean((2, 3)).transpose(0, 1)
    return shares
