"""Every query opens its gate to the few blocks whose mean key it likes best (MoBA, Lu et al. 2025).

``mean`` pools a tile's queries and believes the logits; here each query has a say of its own, and only the
order of the blocks counts: a block's share is that of the queries which are open to it.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.attention.slots import Segment
from reader.routers.tiles import keys_by_block, probe, rank

PROBES = 8
"""So many of a tile's queries are asked, evenly spread."""

OPEN = 0.1
"""Each query's gate is open to this part of the blocks it sees, to one at least."""


def moba(queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
    """Return shares of attention by block (``reader.routing.Score``): those of open gates."""
    sees = segment.blocks
    keys, there = keys_by_block(segment.slots, layer, int(sees.max()))
    means = (keys * there).sum(2) / there.sum(1).clamp_min(1)
    asking, _ = probe(queries, segment, PROBES)
    gates = how.of(asking.float().flatten(2, 3), means[:, None])
    closed = torch.arange(len(there), device=sees.device) >= sees[:, None]
    closed = closed | ~there.any(1)[:, 0]
    gates.masked_fill_(closed[:, None], -torch.inf)
    opened = (OPEN * sees).long().clamp_min(1)
    votes = (rank(gates) < opened[:, None, None]).float().mean(2).transpose(0, 1)
    # Equal votes are ordered by the gates themselves: a thousandth decides nothing else.
    votes += 1e-3 * gates.softmax(-1).mean(2).transpose(0, 1)
    return votes / votes.sum(-1, keepdim=True)
