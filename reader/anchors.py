"""Choose anchor layers and the heads that others take their choice from, by what a model does on a text.

Kascade (Deshmukh et al. 2025): attention of deep layers falls on much the same keys, so that a few layers'
choices serve all. Which, and head by head, is measured once for a model: at every layer that can be routed
the shares of attention by block, then the anchors under which the most attention is kept. Deterministic for a
model and a text. Where found ones are kept: ``reader.anchor_files``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reader.attention.dense import Logits
from reader.attention.function import run, windows_of
from reader.attention.slots import Segment
from reader.placing import Placed
from reader.routers.exact import exact
from reader.routers.tiles import rank
from reader.routing import UNROUTED, Anchors, Router, Rule

COUNT = 6
"""So many layers choose for a model."""

METHOD = 1
"""Raised where anchors are found otherwise: kept ones are then of no use."""

SHARE = 0.1
"""So many of the blocks are kept where anchors are compared."""

_EVERYTHING = Rule(mass=1.0, least=1 << 20, share=1.0, trust=0.0, short=0)


class Recorder:
    """A ``reader.routing.Score``, the exact one, that keeps what it finds of a reading: by layer."""

    def __init__(self) -> None:
        self.masses: dict[int, torch.Tensor] = {}

    def __call__(self, queries: torch.Tensor, segment: Segment, layer: int, how: Logits) -> torch.Tensor:
        """Return shares of attention by block, (tiles, kv_heads, blocks)."""
        self.masses[layer] = exact(queries, segment, layer, how)
        return self.masses[layer]


def routable(windows: Sequence[int | None]) -> list[int]:
    """Return the layers that can be routed, by the layers' sliding windows (``windows_of``)."""
    return [layer for layer, window in enumerate(windows) if window is None and layer >= UNROUTED]


def find_anchors(model: Any, placed: Placed, count: int = COUNT) -> Anchors:
    """Return the anchors that keep the most of a transformers model's attention on one reading, read here.

    A model without layers that can be routed has none.
    """
    layers = routable(windows_of(model))
    if not layers:
        return Anchors(())
    recorder = Recorder()
    run(model, placed.tokens, [placed.segment], keep=1, router=Router(recorder, Anchors(layers), _EVERYTHING))
    return choose_anchors(recorder.masses, count)


def choose_anchors(masses: Mapping[int, torch.Tensor], count: int) -> Anchors:
    """Return the ``count`` anchors that keep the most attention, the first routed layer among them.

    ``masses`` are shares of attention by layer, (tiles, kv_heads, blocks). Layers between two anchors are
    all the first one's: the best places are found by dynamic programming over runs of layers.
    """
    layers = sorted(masses)
    if not layers:
        return Anchors(())
    kept = [[_kept(masses[anchor], masses[layer]) for layer in layers] for anchor in layers]
    # worth[a][b]: what layers a up to b keep when all take their choice from a.
    size = len(layers)
    worth = [
        [sum(float(kept[a][at].amax(1).sum()) for at in range(a, b)) for b in range(size + 1)]
        for a in range(size)
    ]
    best: list[list[tuple[float, int]]] = [[(-torch.inf, 0)] * (size + 1) for _ in range(count + 1)]
    best[0][0] = (0.0, 0)
    for used in range(1, min(count, size) + 1):
        for end in range(1, size + 1):
            best[used][end] = max((best[used - 1][a][0] + worth[a][end], a) for a in range(end))
    used = max(range(1, min(count, size) + 1), key=lambda n: best[n][size][0])
    starts, end = [], size
    for left in range(used, 0, -1):
        end = best[left][end][1]
        starts.append(end)
    starts.reverse()
    heads = {}
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else size
        for at in range(start + 1, stop):
            heads[layers[at]] = kept[start][at].argmax(1).tolist()
    return Anchors([layers[start] for start in starts], heads)


def _kept(chosen: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Return the share of its attention each head keeps under each of the anchor's, (heads, anchor heads)."""
    sees = (chosen.sum(1) > 0).sum(-1)
    counts = (SHARE * sees).round().clamp_min(1)
    picked = (rank(chosen) < counts[:, None, None]).float()
    return (held @ picked.transpose(1, 2)).mean(0).cpu()
