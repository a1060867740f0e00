"""Keep the keys most attended to, and fit what they say to what all of them said.

Attention Matching (Zweiger et al. 2026, arXiv:2602.16284): keys by the root mean square of their attention
under reference queries; a bias for each, so that the kept ones' weight is that of all; values by least
squares, so that what is read from them is what was read.
"""

from __future__ import annotations

import torch

from reader.attention.dense import Logits
from reader.compaction.method import Kept, top

_STEPS = 150
_MOST_BIAS = 4.0
_RIDGE = 1e-3


def match_attention(
    keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor, how: Logits, kept: int
) -> Kept:
    """Choose keys, and fit biases and values (``reader.compaction.method.Method``)."""
    logits = how.of(queries, keys)
    weights = logits.softmax(-1)
    chosen = top(weights.square().mean(1).sqrt(), kept)
    own = logits.gather(2, chosen[:, None].expand(-1, logits.shape[1], -1))
    bias = _fit_bias(own, logits)
    share = (own + bias[:, None]).softmax(-1)
    before = values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))
    # Least squares around the keys' own values: what no query looks at stays what it was.
    wanted = weights @ values - share @ before
    gram = share.transpose(1, 2) @ share
    scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-12)
    gram = gram + _RIDGE * scale * torch.eye(kept, device=keys.device)
    moved = torch.linalg.solve(gram, share.transpose(1, 2) @ wanted)
    return Kept(chosen, bias, before + moved)


def _fit_bias(own: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return biases, (kv_heads, kept), under which the kept keys weigh together what all keys do.

    They are logarithms of weights that are not negative, by projected gradient descent with momentum
    (Beck & Teboulle 2009) on the squares of relative errors.
    """
    shares = (own - logits.logsumexp(-1, keepdim=True)).exp()
    gram = shares.transpose(1, 2) @ shares
    # The greatest eigenvalue is at most the greatest row sum: a step of its inverse never overshoots.
    step = 1.0 / gram.sum(2).amax(1, keepdim=True).clamp_min(1e-12)
    aim = shares.sum(1)
    weights = ahead = torch.ones_like(aim) / shares.sum(2).mean(1, keepdim=True).clamp_min(1e-12)
    pace = 1.0
    for _ in range(_STEPS):
        before, weights = weights, (ahead - step * ((gram @ ahead[..., None])[..., 0] - aim)).clamp_min(0.0)
        faster = (1.0 + (1.0 + 4.0 * pace * pace) ** 0.5) / 2.0
        ahead = weights + (pace - 1.0) / faster * (weights - before)
        pace = faster
    return weights.clamp_min(1e-6).log().clamp(-_MOST_BIAS, _MOST_BIAS)
