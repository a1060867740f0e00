"""The attention itself, summed by block: what all other scores estimate."""

from __future__ import annotations

import torch

from reader.attention.dense import Logits, visible
from reader.attention.slots import BLOCK, Slots, Tile

PROBES = 8
"""So many of a tile's queries are asked, evenly spread."""


def exact(
    queries: torch.Tensor, slots: Slots, layer: int, tile: Tile, asked: torch.Tensor, how: Logits
) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``)."""
    step = -(-queries.shape[2] // PROBES)
    queries, asked = queries[:, :, ::step], asked[::step]
    keys = slots.keys[layer][:, : tile.end]
    logits = how.of(queries.flatten(1, 2), keys)
    if slots.bias is not None:
        logits += slots.bias[layer][:, None, : tile.end]
    seen = visible(asked, slots.positions[: tile.end], None)
    logits.masked_fill_(~seen.repeat(queries.shape[1], 1), -torch.inf)
    shares = logits.softmax(dim=-1)
    padded = torch.nn.functional.pad(shares, (0, -tile.end % BLOCK))
    heads, asking, count = padded.shape
    return padded.reshape(heads, asking, count // BLOCK, BLOCK).sum(3).mean(1)
