"""Attention of tiles over chosen blocks where they are: torch's FlexAttention (Dong et al. 2024).

On CUDA it is compiled into one kernel that walks the blocks of a mask; elsewhere it runs as it is written,
which is slow, and what tests compare. Nothing here knows why blocks were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from reader.attention.dense import Logits
from reader.attention.slots import BLOCK, Slots

_ROWS = 64
"""Folded queries a block: those of a tile, of all heads of a group, filled up to a multiple."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The queries of a segment in blocks of rows, and the blocks of slots that each looks at."""

    groups: torch.Tensor
    """Of which head of its group each row is, (rows,)."""
    queries: torch.Tensor
    """Which of the segment's queries each row is, (rows,); the last one of a tile fills its rows up."""
    mask: BlockMask


def make_walk(
    marks: torch.Tensor,
    tiles: list[tuple[int, int]],
    asked: torch.Tensor,
    positions: torch.Tensor,
    groups: int,
) -> Walk:
    """Return the way over the blocks of ``marks``, (tiles, kv_heads, blocks).

    ``tiles`` are where their queries begin and end; ``asked`` are the queries' positions, (tokens,), and
    ``positions`` the slots', (slots,).
    """
    device = marks.device
    of_group, of_query, of_tile = [], [], []
    for number, (start, stop) in enumerate(tiles):
        rows = torch.arange(-(-groups * (stop - start) // _ROWS) * _ROWS, device=device)
        rows = rows.clamp_max(groups * (stop - start) - 1)
        of_group.append(rows // (stop - start))
        of_query.append(start + rows % (stop - start))
        of_tile += [number] * (len(rows) // _ROWS)
    group, query = torch.cat(of_group), torch.cat(of_query)
    tile = torch.tensor(of_tile, device=device)
    marks = torch.nn.functional.pad(marks, (0, len(positions) // BLOCK - marks.shape[-1]))
    asking = asked[query]

    def sees(_: torch.Tensor, head: torch.Tensor, row: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        there = (positions[slot] >= 0) & (positions[slot] <= asking[row])
        return there & marks[tile[row // _ROWS], head, slot // BLOCK]

    each = positions.reshape(-1, BLOCK)
    earliest = asking.reshape(-1, _ROWS).amin(1)
    full = (each >= 0).all(1) & (each.amax(1) <= earliest[:, None])
    chosen = marks[tile].transpose(0, 1)
    mask = BlockMask.from_kv_blocks(
        *_listed(chosen & ~full),
        *_listed(chosen & full),
        BLOCK_SIZE=(_ROWS, BLOCK),
        mask_mod=sees,
        seq_lengths=(len(query), len(positions)),
        compute_q_blocks=False,
    )
    return Walk(group, query, mask)


def attend_in_place(layer: int, queries: torch.Tensor, slots: Slots, walk: Walk, how: Logits) -> torch.Tensor:
    """Return what queries see of the blocks of their walk; shapes as in ``attention.dense.attend``."""
    bias = None if slots.bias is None else slots.bias[layer]
    cap = how.cap

    def change(
        score: torch.Tensor, _: torch.Tensor, head: torch.Tensor, row: torch.Tensor, slot: torch.Tensor
    ) -> torch.Tensor:
        if cap is not None:
            score = torch.tanh(score / cap) * cap
        return score if bias is None else score + bias[head, slot]

    folded = queries[:, walk.groups, walk.queries]
    seen = _flex(queries.device.type)(
        folded[None],
        slots.keys[layer][None],
        slots.values[layer][None],
        score_mod=None if cap is None and bias is None else change,
        block_mask=walk.mask,
        scale=how.scaling,
        kernel_options={"BLOCK_M": _ROWS, "BLOCK_N": BLOCK} if queries.is_cuda else None,
    )[0]
    out = torch.empty_like(queries)
    out[:, walk.groups, walk.queries] = seen
    return out


@cache
def _flex(kind: str) -> Any:
    """Return FlexAttention for a kind of device, compiled once for a process where it is CUDA."""
    return torch.compile(flex_attention) if kind == "cuda" else flex_attention


def _listed(marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks each block of rows has, and their numbers first, as a mask wants them."""
    order = marks.int().argsort(dim=-1, descending=True, stable=True)
    return marks.sum(-1, dtype=torch.int32)[None], order.int()[None]
