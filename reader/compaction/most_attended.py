"""Keep the keys that any query attended to most: the score of KVzip (Kim et al. 2025).

KVzip lets the model write the passage again, and its queries then say which keys that took. Here the queries
are those that the caller has read behind the passage.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.compaction.method import Kept, top


def keep_most_attended(
    keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor, how: Logits, kept: int
) -> Kept:
    """Choose keys (``reader.compaction.method.Method``)."""
    return Kept(top(how.of(queries, keys).softmax(-1).amax(1), kept))
