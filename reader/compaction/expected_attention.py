"""Keep the keys that queries to come are expected to attend to.

Expected Attention (Devoto et al. 2025): a head's queries are taken for normally distributed, with the mean
and covariance of those seen; a key's expected weight is then exp(mean product + half its variance), and
counts with the length of its value. Each head's own, averaged over a group: the queries of several heads are
no one normal distribution. Nothing is fitted.
"""

from __future__ import annotations

import torch

from reader.compaction.method import Asked, Kept, top

_FLOOR = 0.02
"""Added to every expected weight, as the authors do: where none is expected, the longer value is kept."""


def expect_attention(keys: torch.Tensor, values: torch.Tensor, asked: Asked, kept: int) -> Kept:
    """Choose keys (``reader.compaction.method.Method``)."""
    middle = asked.queries.mean(2, keepdim=True)
    around = asked.queries - middle
    spread = around.transpose(2, 3) @ around / asked.queries.shape[2]
    logits = asked.how.of(middle, keys[:, None])[:, :, 0]
    variance = ((keys[:, None] @ spread) * keys[:, None]).sum(-1) * asked.how.scaling**2
    expected = (logits + variance / 2).softmax(-1).mean(1)
    return Kept(top((expected + _FLOOR) * values.norm(dim=-1), kept))
