"""Which tokens of remembered passages are read again: those whose keys come out least as remembered.

CacheBlend (Yao et al. 2024): a passage remembered by itself lacks what the passages before it would have
told its tokens, and few of them need to be told. All are read together up to an early layer; those whose keys
there differ most are the ones that are read again through all layers. Not for compacted passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from reader.attention.function import ReachedError, UpTo, run_up_to
from reader.attention.rotary import Rotary
from reader.attention.slots import Shape
from reader.placing import Passage, Passing, lay_out

LAYER = 1
"""Where keys are compared: the first layer whose input has seen other tokens."""

SHARE = 0.15
"""So many of the remembered tokens are read again."""


def blend(
    model: Any,
    shape: Shape,
    rotary: Rotary,
    prefix: Passage,
    passages: Sequence[Passage],
    *,
    share: float = SHARE,
    passing: Passing | None = None,
) -> list[Passage]:
    """Return the passages with the tokens that are to be read again (``Passage.again``).

    It costs what the first layers cost on all tokens. ``passing`` runs the pass of the model, which is called
    at once if it is ``None``. Raises ``ValueError`` for a compacted passage.
    """
    if any(one.memory is not None and one.memory.offsets is not None for one in passages):
        raise ValueError("a compacted passage lacks tokens that might be read again")
    bare = [replace(one, memory=None) for one in passages]
    placed = lay_out(shape, rotary, prefix, bare, [])
    if passing is None:
        run_up_to(model, placed.tokens, [placed.segment], LAYER)
    else:
        with suppress(ReachedError):
            passing(placed, UpTo(LAYER, 1))
    at = len(placed.tokens) - sum(len(one.header) + len(one.body) for one in passages)
    apart = []
    for one in passages:
        at += len(one.header)
        own = placed.segment.places[at : at + len(one.body)]
        at += len(one.body)
        found = placed.slots.keys[LAYER][:, own].float()
        found = rotary.turn_back(found, placed.slots.positions[own], LAYER)
        known = found if one.memory is None else one.memory.restore()[0][LAYER]
        apart.append((found - known).square().sum((0, 2)))
    held = sum(len(one.body) for one in passages if one.memory is not None)
    chosen = set(torch.cat(apart).topk(round(share * held)).indices.tolist())
    blended, start = [], 0
    for one in passages:
        again = [offset for offset in range(len(one.body)) if start + offset in chosen]
        blended.append(replace(one, again=again))
        start += len(one.body)
    return blended
