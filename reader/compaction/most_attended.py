"""Keep the keys that any query behind the passage looked at most, of its attention on the passage alone."""

from __future__ import annotations

import torch

from reader.compaction.method import Asked, Kept, top


def keep_most_attended(keys: torch.Tensor, values: torch.Tensor, asked: Asked, kept: int) -> Kept:
    """Choose keys (``reader.compaction.method.Method``)."""
    logits, _ = asked.weigh(keys)
    return Kept(top(logits.softmax(-1).amax(1), kept))
