"""Attention over passages that were read apart, made sharper and weighed less.

APE (Yang et al. 2025): read apart, every passage has first tokens that draw attention, and attention over all
of them is spread wider than over one text. The logits of memory are divided by a temperature below one, and
the logarithm of memory's whole weight is multiplied by a scale: softmax within memory, and against the rest
by exp(scale x log-sum-exp). With both at one it is plain attention.
"""

from __future__ import annotations

import torch

from memory.errors import InvalidInputError
from reader.attention.dense import Logits, visible
from reader.attention.slots import BLOCK, Segment, Slots


class Parallel:
    """Stands where a router does, for layers that see everything.

    Memory is what was read apart (``Slots.remembered``); what was read in its place is looked at as it is.
    Only what stands after all passages, question and answer, looks through it.
    """

    def __init__(self, *, temperature: float = 1.0, scale: float = 1.0) -> None:
        """Raise ``InvalidInputError`` for what is not above zero."""
        if min(temperature, scale) <= 0.0:
            raise InvalidInputError("temperature and scale are above zero", where="temperature")
        self._temperature = temperature
        self._scale = scale

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Take no note."""

    def routes(self, layer: int, segment: Segment) -> bool:
        """Say whether this attention is another than the plain one."""
        return (self._temperature, self._scale) != (1.0, 1.0) and bool(segment.slots.remembered.any())

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Return what the queries see, in their shape: (kv_heads, groups, queries, dim)."""
        slots = segment.slots
        memory = slots.remembered
        out = torch.empty_like(queries)
        for tile in segment.tiles:
            part, seen = slice(tile.start, tile.stop), slice(0, tile.end)
            logits = self._logits(layer, queries[:, :, part], slots, seen, how)
            logits = logits.masked_fill(
                ~visible(segment.positions[part], slots.positions[seen], None), -torch.inf
            )
            if int(segment.places[tile.start]) >= slots.routed * BLOCK:
                logits = self._weigh(logits, memory[seen])
            values = slots.values[layer][:, None, seen]
            out[:, :, part] = logits.softmax(-1).to(values.dtype) @ values
        return out

    def _logits(
        self, layer: int, queries: torch.Tensor, slots: Slots, seen: slice, how: Logits
    ) -> torch.Tensor:
        logits = how.of(queries, slots.keys[layer][:, None, seen])
        return logits if slots.bias is None else logits + slots.bias[layer][:, None, None, seen]

    def _weigh(self, logits: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Return logits whose plain softmax is the scaled one: memory's whole weight is raised to a power."""
        sharp = torch.where(memory, logits / self._temperature, logits)
        whole = sharp.masked_fill(~memory, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.where(memory, sharp + (self._scale - 1.0) * whole, sharp)
