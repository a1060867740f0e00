"""Keep the keys that the model looks at most while it writes the passage again: KVzip (Kim et al. 2025).

What counts is the share of all of a query's attention, the greatest over the queries: one that looks at what
stands before the passage, or at its own words, says little of the passage, however it spreads the little that
is left.
"""

from __future__ import annotations

import torch

from reader.compaction.method import Asked, Kept, top


def keep_for_reconstruction(keys: torch.Tensor, values: torch.Tensor, asked: Asked, kept: int) -> Kept:
    """Choose keys (``reader.compaction.method.Method``)."""
    logits, share = asked.weigh(keys)
    return Kept(top((logits.softmax(-1) * share[..., None]).amax(1), kept))
