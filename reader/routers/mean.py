"""A block scored by the mean of its keys, a tile by the mean of its queries.

SpargeAttention (Zhang et al. 2025) estimates attention so; with ``Rule``, which keeps the union of a least
number of blocks and of those that hold a share of the estimate, it is SpargeAttention2's choice (Zhang et al.
2026).
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import Segment
from reader.routers.tiles import keys_by_block, pool, share_out


def mean(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``): a mean's stands for all its keys'."""
    keys, there = keys_by_block(segment.slots, layer, int(segment.blocks.max()))
    counts = there.sum(1)
    means = (keys * there).sum(2) / counts.clamp_min(1)
    logits = how.of(pool(queries, segment), means[:, None]) + counts[:, 0].log()
    return share_out(logits, segment)
