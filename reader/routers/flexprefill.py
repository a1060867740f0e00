"""Two patterns, one chosen for each head (FlexPrefill, Lai et al. 2025).

The last tile's attention is worked out. Where means of queries and keys estimate it well, the head looks at
what its queries ask for, and every tile is estimated so; elsewhere it looks along lines: at the same blocks
from every tile ("vertical") and at the same distances ("slash"), as the last tile does. The paper keeps as
many blocks as cover γ of the estimate, which is ``Rule.mass``.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import Segment
from reader.routers.exact import exact
from reader.routers.mean import mean

APART = 0.1
"""The estimate is good where the root of its Jensen-Shannon divergence (in nats) is less: the paper's τ."""


def flexprefill(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``)."""
    asked_for = mean(queries, segment, layer, how)
    tile = segment.tiles[-1]
    own = slice(tile.start, tile.stop)
    last = Segment(segment.slots, 0, segment.places[own], segment.positions[own], (0, tile.stop - tile.start))
    shown = exact(queries[:, :, own], last, layer, how)[0]
    good = _apart(asked_for[-1], shown) < APART
    return torch.where(good[:, None], asked_for, _lines(shown, segment.blocks))


def _apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the root of the Jensen-Shannon divergence of two rows of shares."""
    between = (one + other) / 2
    either = torch.stack((one, other))
    parts = torch.xlogy(either, either / between.clamp_min(1e-30)).sum(-1)
    return parts.mean(0).clamp_min(0).sqrt()


def _lines(shown: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """Return shares along lines, (tiles, kv_heads, blocks), of the last tile's, (kv_heads, blocks)."""
    blocks = shown.shape[-1]
    numbers = torch.arange(blocks, device=sees.device)
    # A tile's last block is as far from its own as the last tile's last block is from its.
    same_distance = (numbers + int(sees[-1]) - sees[:, None]).clamp(0, blocks - 1)
    shares = shown[None] + shown[:, same_distance].transpose(0, 1)
    shares = shares.masked_fill((numbers >= sees[:, None])[:, None], 0.0)
    return shares / shares.sum(-1, keepdim=True)
