"""A block scored by means of its keys in two bands of the rotary embedding (after Prism, Wang et al. 2026).

Fast frequencies turn within a block, so that a mean cancels them out; slow ones keep their direction. Each
band is scored by itself, the fast one made as strong as if its means had kept their length, and the two are
averaged.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import BLOCK, Slots, Tile


class Prism:
    """A ``reader.routing.Score`` that knows the model's frequencies."""

    def __init__(self, fast: torch.Tensor) -> None:
        """``fast`` marks the channels that turn by more than half a circle within a block, shape (dim,)."""
        self._fast = fast

    def __call__(
        self, queries: torch.Tensor, slots: Slots, layer: int, tile: Tile, asked: torch.Tensor, how: Logits
    ) -> torch.Tensor:
        """Return shares of attention by block."""
        blocks = -(-tile.end // BLOCK)
        there = slots.positions[: blocks * BLOCK].reshape(blocks, BLOCK, 1) >= 0
        keys = slots.keys[layer][:, : blocks * BLOCK].float().reshape(-1, blocks, BLOCK, queries.shape[-1])
        counts = there.sum(1).clamp_min(1)
        means = (keys * there).sum(2) / counts
        pooled = queries.float().mean(2)
        shares = []
        for band in (self._fast, ~self._fast):
            if not band.any():
                continue
            own, own_keys = pooled[..., band], means[..., band]
            if band is self._fast:
                length = (keys[..., band].square() * there).sum((2, 3)).div(counts[:, 0]).sqrt()
                lost = length / own_keys.norm(dim=-1).clamp_min(1e-6)
                own_keys = own_keys * lost.clamp_max(_MOST)[..., None]
            shares.append((how.of(own, own_keys) + counts[:, 0].log()).softmax(-1))
        return torch.stack(shares).mean(0).mean(1)


_MOST = 8.0
"""A mean that has all but vanished says nothing, however much it is drawn out."""


def fast_channels(frequencies: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the channels, shape (dim,), that turn by more than half a circle within a block.

    ``frequencies`` are radians a position of the pairs (i, i + half) of the rotated channels.
    """
    fast = frequencies * BLOCK > torch.pi
    whole = torch.zeros(dim, dtype=torch.bool, device=frequencies.device)
    whole[: 2 * len(fast)] = torch.cat((fast, fast))
    return whole
