"""A block scored by means of its keys in two bands of the rotary embedding (after Prism, Wang et al. 2026).

Fast frequencies turn within a block, so that a mean cancels them out; slow ones keep their direction. Each
band is scored by itself, the fast one made as strong as if its means had kept their length, and the two are
averaged.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import BLOCK, Segment
from reader.routers.tiles import keys_by_block, pool, share_out


class Prism:
    """A ``reader.routing.Score`` that knows the model's frequencies."""

    def __init__(self, fast: torch.Tensor) -> None:
        """``fast`` marks the channels that turn by more than half a circle within a block, shape (dim,)."""
        self._fast = fast

    def __call__(self, queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
        """Return shares of attention by block."""
        keys, there = keys_by_block(segment.slots, layer, int(segment.blocks.max()))
        counts = there.sum(1)
        means = (keys * there).sum(2) / counts.clamp_min(1)
        pooled = pool(queries, segment)
        shares = []
        for band in (self._fast, ~self._fast):
            if not band.any():
                continue
            own, own_keys = pooled[..., band], means[..., band]
            if band is self._fast:
                squares = (keys[..., band].square() * there).sum((2, 3))
                lost = squares.div(counts[:, 0].clamp_min(1)).sqrt() / own_keys.norm(dim=-1).clamp_min(1e-6)
                own_keys = own_keys * lost.clamp_max(_MOST)[..., None]
            shares.append(share_out(how.of(own, own_keys[:, None]) + counts[:, 0].log(), segment))
        return torch.stack(shares).mean(0)


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
