"""A block scored by the most that any key in it could give (Quest, Tang et al. 2024).

The bound is that of a box around the keys: for each channel the greater of its two ends' products.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import Segment
from reader.routers.tiles import keys_by_block, probe, share_out

PROBES = 8
"""So many of a tile's queries are asked, evenly spread."""


def quest(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``): those of the bounds."""
    keys, there = keys_by_block(segment.slots, layer, int(segment.blocks.max()))
    none = ~there.any(1)[:, 0]
    low = keys.masked_fill(~there, torch.inf).amin(2).masked_fill(none[:, None], 0.0)
    high = keys.masked_fill(~there, -torch.inf).amax(2).masked_fill(none[:, None], 0.0)
    asking = probe(queries, segment, PROBES)[0].float().flatten(2, 3)
    # The greater end of each channel: the high one where the query is positive, the low one elsewhere.
    bounds = how.of(asking.clamp_min(0), high[:, None]) + how.of(asking.clamp_max(0), low[:, None])
    return share_out(bounds.masked_fill(none, -torch.inf), segment)
