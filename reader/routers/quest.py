"""A block scored by the most that any key in it could give (Quest, Tang et al. 2024).

The bound is that of a box around the keys: for each channel the greater of its two ends' products.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import BLOCK, Slots, Tile


def quest(
    queries: torch.Tensor, slots: Slots, layer: int, tile: Tile, asked: torch.Tensor, how: Logits
) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``): those of the bounds."""
    blocks = -(-tile.end // BLOCK)
    empty = (slots.positions[: blocks * BLOCK] < 0).reshape(blocks, BLOCK, 1)
    keys = slots.keys[layer][:, : blocks * BLOCK].float().reshape(-1, blocks, BLOCK, queries.shape[-1])
    low = keys.masked_fill(empty, torch.inf).amin(2)
    high = keys.masked_fill(empty, -torch.inf).amax(2)
    asking = queries.float().flatten(1, 2)
    # The greater end of each channel: the high one where the query is positive, the low one elsewhere.
    bounds = how.of(asking.clamp_min(0), high) + how.of(asking.clamp_max(0), low)
    none = empty.all(1)[:, 0]
    return bounds.masked_fill(none, -torch.inf).softmax(-1).mean(1)
