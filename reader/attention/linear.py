"""A linear branch over the blocks that were not chosen (SLA, Zhang et al. 2025; SLA2, 2026).

Linear attention needs of a block only the sums of φ(k)vᵀ and of φ(k), with φ the softmax over channels: so
what was left out is seen from afar, at a cost that does not grow with the slots. What it gives is mixed with
what the chosen blocks give, by a share α for each head. The models were not trained for it: α is fitted to
what they see of all blocks (``Fit``), and 0 leaves the branch out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reader.attention.slots import BLOCK, Segment, Slots

_MOST = 1 << 22
"""Sums of blocks at a time, about: what bounds the memory."""


def mix_in(
    layer: int,
    queries: torch.Tensor,
    segment: Segment,
    marks: torch.Tensor,
    sparse: torch.Tensor,
    alphas: Sequence[float],
) -> torch.Tensor:
    """Return ``sparse``, what queries see of the blocks of ``marks``, with the branch's share of the others.

    Shapes are those of ``attention.chosen``; ``alphas`` are the shares by key/value head.
    """
    share = torch.tensor(list(alphas), device=sparse.device)[:, None, None, None]
    return torch.lerp(sparse.float(), see_rest(layer, queries, segment, marks, sparse), share).to(
        sparse.dtype
    )


def see_rest(
    layer: int, queries: torch.Tensor, segment: Segment, marks: torch.Tensor, sparse: torch.Tensor
) -> torch.Tensor:
    """Return in float32 what linear attention gives of the blocks in sight without marks.

    A tile that leaves nothing out gets ``sparse``.
    """
    blocks, dim = marks.shape[-1], queries.shape[-1]
    numbers = torch.arange(blocks, device=marks.device)
    left = ~marks & (numbers < segment.blocks[:, None])[:, None]
    products = torch.zeros(*marks.shape[:2], dim, dim + 1, device=marks.device)
    step = max(1, _MOST // (marks.shape[1] * dim * (dim + 1)))
    for first in range(0, blocks, step):
        some = slice(first, min(first + step, blocks))
        sums = _sums(segment.slots, layer, some)
        products += torch.einsum("thb,hbde->thde", left[..., some].float(), sums)
    out = sparse.to(torch.float32, copy=True)
    asking = queries.float().softmax(-1)
    for number, tile in enumerate(segment.tiles):
        part = slice(tile.start, tile.stop)
        both = asking[:, :, part] @ products[number][:, None]
        rest = both[..., :dim] / both[..., dim:].clamp_min(1e-30)
        some_left = left[number].any(-1)[:, None, None, None]
        out[:, :, part] = torch.where(some_left, rest, out[:, :, part])
    return out


class Fit:
    """Least squares for α: by how much the branch brings what is chosen nearer to what all blocks give."""

    def __init__(self) -> None:
        self._gain: dict[int, torch.Tensor] = {}
        self._size: dict[int, torch.Tensor] = {}

    def add(self, layer: int, full: torch.Tensor, sparse: torch.Tensor, rest: torch.Tensor) -> None:
        """Take what a layer's queries see of all blocks, of chosen ones, and by the branch."""
        away, step = full.float() - sparse.float(), rest - sparse.float()
        none = torch.zeros(len(step), device=step.device)
        self._gain[layer] = self._gain.get(layer, none) + (away * step).sum((1, 2, 3))
        self._size[layer] = self._size.get(layer, none) + step.square().sum((1, 2, 3))

    def alphas(self) -> dict[int, list[float]]:
        """Return shares by layer and key/value head, 0 to 1."""
        return {
            layer: (gain / self._size[layer].clamp_min(1e-30)).clamp(0, 1).tolist()
            for layer, gain in self._gain.items()
        }


def _sums(slots: Slots, layer: int, some: slice) -> torch.Tensor:
    """Return the sums of φ(k)vᵀ and, in the last column, of φ(k): (kv_heads, blocks, dim, dim + 1)."""
    held = slice(some.start * BLOCK, some.stop * BLOCK)
    keys, values = slots.keys[layer][:, held].float(), slots.values[layer][:, held].float()
    there = (slots.positions[held] >= 0).float()[:, None]
    felt = keys.softmax(-1) * there
    counted = torch.cat((values, torch.ones_like(values[..., :1])), dim=-1)
    felt, counted = (rows.reshape(len(rows), -1, BLOCK, rows.shape[-1]) for rows in (felt, counted))
    return felt.transpose(-1, -2) @ counted
