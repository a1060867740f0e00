"""Keep the keys that queries to come are expected to attend to.

Expected Attention (Devoto et al. 2025): queries are taken for normally distributed, with the mean and
covariance of those seen; a key's expected weight is then exp(mean product + half its variance), and counts
with the length of its value. Nothing is fitted.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.compaction.method import Kept, top


def expect_attention(
    keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor, how: Logits, kept: int
) -> Kept:
    """Choose keys (``reader.compaction.method.Method``)."""
    middle = queries.mean(1, keepdim=True)
    around = queries - middle
    spread = around.transpose(1, 2) @ around / queries.shape[1]
    logits = how.of(middle, keys)[:, 0]
    variance = ((keys @ spread) * keys).sum(-1) * how.scaling**2
    scores = (logits + variance / 2).softmax(-1) * values.norm(dim=-1)
    return Kept(top(scores, kept))
