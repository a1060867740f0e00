"""Attention of a tile of queries over slots: gathered keys, torch's scaled dot product.

What all of a tile's queries see needs no mask; what only some of them see are its own few slots. The two are
looked at apart, and joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Logits:
    """How a layer makes logits of products: times ``scaling``, and not beyond ``cap`` (Gemma 2), if any."""

    scaling: float
    cap: float | None = None

    def of(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return logits in float32, (..., queries, keys)."""
        logits = (queries @ keys.transpose(-1, -2)).float().mul_(self.scaling)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    asked: torch.Tensor,
    positions: torch.Tensor,
    *,
    how: Logits,
    window: int | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what queries see, shape (kv_heads, groups, queries, dim), as that of ``queries``.

    ``keys`` and ``values`` are (kv_heads, slots, dim); ``asked`` are the queries' positions, (queries,);
    ``positions`` the slots', (slots,): -1 where empty. Where each head has its own, both have a first
    dimension of heads. ``bias`` is added to the logits, (kv_heads, slots).
    """
    heads, groups, count, dim = queries.shape
    seen_by = visible(asked, positions, window)
    mask: torch.Tensor | None = None
    if bias is not None or not bool(seen_by.all()):
        # Added to the logits: torch would make this of a mask of truths, for all of a group's queries anew.
        added = queries.new_zeros(1) if bias is None else bias[:, None, :].to(queries.dtype)
        mask = torch.where(seen_by, added, -torch.inf)
        mask = mask.expand(1 if mask.ndim == 2 else heads, count, -1).repeat(1, groups, 1)[:, None]
    # The queries of a group stand in one matrix: ten times as fast for one token, a quarter for a few.
    folded = queries.reshape(heads, 1, groups * count, dim)
    keys, values = keys[:, None], values[:, None]
    if how.cap is None:
        seen = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=how.scaling)
    else:
        logits = how.of(folded, keys)
        if mask is not None:
            logits += mask
        seen = logits.softmax(dim=-1).to(values.dtype) @ values
    return seen.reshape(heads, groups, count, dim)


def attend_behind(
    queries: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    *,
    how: Logits,
    added: torch.Tensor | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return what queries see, shape (rows, groups, queries, dim), as that of ``queries``.

    ``past`` are keys and values that all queries of a row see, (rows, slots, dim), ``own`` those that some
    of them see: ``mask`` is added to their logits, (rows or 1, queries, own slots), and ``added`` to those
    of the past, (rows, slots).
    """
    rows, groups, count, dim = queries.shape
    folded = queries.reshape(rows, groups * count, dim)
    width = own[0].shape[1]
    # The past stands as one more slot behind the own ones: its logit is the logarithm of its sum.
    logits = torch.empty(rows, groups, count, width + 1, device=queries.device)
    torch.add(how.of(folded, own[0]).reshape(rows, groups, count, width), mask[:, None], out=logits[..., :-1])
    if past[0].shape[1] == 0:
        shares = logits[..., :-1].softmax(-1).to(queries.dtype).reshape(rows, groups * count, width)
        return (shares @ own[1]).reshape(queries.shape)
    seen, sums = _see_all(folded, *past, how=how, added=added)
    logits[..., -1] = sums.reshape(rows, groups, count)
    shares = logits.softmax(-1).to(queries.dtype).reshape(rows, groups * count, width + 1)
    return torch.baddbmm(seen * shares[..., -1:], shares[..., :-1], own[1]).reshape(queries.shape)


def _see_all(
    folded: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, how: Logits, added: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what queries see of slots that all of them see, and the logarithms of their logits' sums."""
    if how.cap is None and folded.device.type == "cpu":
        mask = None if added is None else added.to(folded.dtype)[:, None, None]
        # What scaled_dot_product_attention calls on a CPU; it keeps the sums to itself.
        seen, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            folded[:, None], keys[:, None], values[:, None], 0.0, False, attn_mask=mask, scale=how.scaling
        )
        return seen[:, 0], sums[:, 0]
    logits = how.of(folded, keys)
    if added is not None:
        logits += added[:, None]
    sums = logits.logsumexp(-1)
    return logits.softmax(-1).to(values.dtype) @ values, sums


def visible(asked: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return which slots each query may see: (queries, slots), or with a first dimension of heads."""
    asking, there = asked[..., :, None], positions[..., None, :]
    seen = (there >= 0) & (there <= asking)
    return seen if window is None else seen & (there > asking - window)
