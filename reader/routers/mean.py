"""A block scored by the mean of its keys (SpargeAttention, Zhang et al. 2025; MoBA, Lu et al. 2025)."""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import BLOCK, Slots, Tile


def mean(
    queries: torch.Tensor, slots: Slots, layer: int, tile: Tile, asked: torch.Tensor, how: Logits
) -> torch.Tensor:
    """Return shares of attention by block: those of means, each for all its keys

    (``reader.routing.Score``).
    """
    blocks = -(-tile.end // BLOCK)
    there = slots.positions[: blocks * BLOCK].reshape(blocks, BLOCK, 1) >= 0
    keys = slots.keys[layer][:, : blocks * BLOCK].float().reshape(-1, blocks, BLOCK, queries.shape[-1])
    counts = there.sum(1)
    means = (keys * there).sum(2) / counts.clamp_min(1)
    pooled = queries.float().mean(2)
    logits = how.of(pooled, means) + counts[:, 0].log()
    return logits.softmax(-1).mean(1)
