"""Keep the keys that any query attends to most, and fit what they say to what all of them said.

Attention Matching (Zweiger et al. 2026, arXiv:2602.16284): keys by their attention under reference queries;
a bias for each, so that the kept ones' weight is that of all; values by least squares, so that what is read
from them is what was read. Keys by the greatest attention, not its mean square as there: what one query alone
looks up is what answers are made of. What is kept always is kept as it is, so that it can be read again.
Fitted in float64: logits of trained models lie far apart.
"""

from __future__ import annotations

import math

import torch

from reader.compaction.method import EXEMPT, Asked, Kept, top

_ROUNDS = 20
"""Of solving for factors, at most; where they do not settle the last ones are cut to their bounds."""
_MOST_BIAS = 3.0
"""A key stands for twenty at most, and is never put out: what is asked later is not what was asked here."""
_HOLD_FACTORS, _HOLD_VALUES = 0.01, 0.1
"""Ridges, of the mean square: where queries say little they hold factors near one, values near their own."""


def match_attention(keys: torch.Tensor, values: torch.Tensor, asked: Asked, kept: int) -> Kept:
    """Choose keys, and fit biases and values (``reader.compaction.method.Method``)."""
    logits, _ = asked.weigh(keys)
    weights = logits.double().softmax(-1)
    chosen = top(weights.amax(1), kept)
    own = weights.gather(2, chosen[:, None].expand(-1, weights.shape[1], -1))
    factors = torch.ones_like(own[:, 0])
    factors[:, EXEMPT:] = _fit_factors(own[..., EXEMPT:], 1.0 - own[..., :EXEMPT].sum(-1))
    said = own * factors[:, None]
    said = said / said.sum(-1, keepdim=True)
    meant = values.double()
    before = meant.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))
    # Least squares around the keys' own values: what no query looks at stays what it was.
    wanted = weights @ meant - said @ before
    free = said[..., EXEMPT:]
    before[:, EXEMPT:] += torch.linalg.solve(_ridged(free, _HOLD_VALUES), free.transpose(1, 2) @ wanted)
    return Kept(chosen, factors.log().float(), before.float())


def _fit_factors(parts: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Return factors, (kv_heads, kept), under which parts, (kv_heads, queries, kept), sum to what is left.

    Least squares within bounds, held near one, by primal-dual active sets (Hintermüller, Ito & Kunisch 2002):
    factors that would go beyond a bound are held at it and the others solved for, until the same ones are
    held twice. Mostly that is at once, for few go beyond.
    """
    low, high = math.exp(-_MOST_BIAS), math.exp(_MOST_BIAS)
    gram = _ridged(parts, _HOLD_FACTORS)
    aim = (parts * left[..., None]).sum(1) + (gram - parts.transpose(1, 2) @ parts).sum(2)
    factors = torch.linalg.solve(gram, aim)
    below, above = factors < low, factors > high
    for _ in range(_ROUNDS):
        free = ~(below | above)
        held = torch.where(below, low, torch.where(above, high, 0.0)).to(gram)
        among = torch.where(free[:, :, None] & free[:, None], gram, torch.diag_embed((~free).to(gram)))
        rest = torch.where(free, aim - (gram @ held[..., None])[..., 0], held)
        factors = torch.linalg.solve(among, rest)
        # Held is what its bound holds back; free is what stays within.
        pull = aim - (gram @ factors[..., None])[..., 0]
        still = torch.where(below, pull < 0, factors < low), torch.where(above, pull > 0, factors > high)
        if torch.equal(still[0], below) and torch.equal(still[1], above):
            break
        below, above = still
    within: torch.Tensor = factors.clamp(low, high)
    return within


def _ridged(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Return the products of columns, (kv_heads, kept, kept), with a ridge on the diagonal."""
    gram = rows.transpose(1, 2) @ rows
    ridge = share * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
    return gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
