"""The keys and values of one reading, in slots: prefix, passages, question and answer, in this order.

A slot holds one token of one layer; blocks of 64 slots are what routing chooses. Passages are padded to whole
blocks with empty slots that nobody sees, never cut. Nothing here knows texts, models or where memories come
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch

BLOCK = 64
"""Slots a block."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's keys and values look like."""

    layers: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device


class Slots:
    """Keys and values, shape (layers, kv_heads, slots, dim); positions (slots,), -1 where a slot is empty.

    Positions rise from slot to slot. The first ``routed`` blocks may be routed; what stands after them,
    question and answer, is always seen.
    """

    def __init__(self, shape: Shape, blocks: int) -> None:
        count = blocks * BLOCK
        self.shape = shape
        self.keys = torch.zeros(
            (shape.layers, shape.kv_heads, count, shape.dim), dtype=shape.dtype, device=shape.device
        )
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.full((count,), -1, dtype=torch.long, device=shape.device)
        self.reached = torch.zeros(count, dtype=torch.long, device=shape.device)
        """The highest position up to each slot: by it a query's reach is found."""
        self.bias: torch.Tensor | None = None
        """Added to the logits of each slot, shape (layers, kv_heads, slots): of compacted memories."""
        self.passages = torch.full((blocks,), -1, dtype=torch.long, device=shape.device)
        """Which passage each block is of, -1 for the prefix and for what is no passage."""
        self.remembered = torch.zeros(count, dtype=torch.bool, device=shape.device)
        """Marks slots of what was read apart and put here; tokens that are read again in them count."""
        self.routed = 0
        self.used = 0
        """Slots in use, those of empty ends of blocks included."""

    def place(self, positions: torch.Tensor, *, passage: int = -1) -> torch.Tensor:
        """Take slots for tokens at these positions, after all others; return the slots' numbers."""
        taken = torch.arange(self.used, self.used + len(positions), device=self.shape.device)
        if len(positions):
            self.positions[taken] = positions
            self.passages[int(taken[0]) // BLOCK : int(taken[-1]) // BLOCK + 1] = passage
            self.used += len(positions)
            self.reached[int(taken[0]) :] = int(positions[-1])
            self.reached[taken] = positions
        return taken

    def close_block(self) -> None:
        """Leave the rest of the block empty: what comes next begins a new one."""
        self.used = -(-self.used // BLOCK) * BLOCK

    def end_memory(self) -> None:
        """Say that what comes now is no memory any more, and is always seen."""
        self.close_block()
        self.routed = self.used // BLOCK

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values, shape (kv_heads, tokens, dim), into slots."""
        self.keys[layer, :, slots] = keys.to(self.shape.dtype)
        self.values[layer, :, slots] = values.to(self.shape.dtype)

    def set_bias(self, slots: torch.Tensor, bias: torch.Tensor) -> None:
        """Have ``bias``, shape (layers, kv_heads, tokens), added to the logits of slots."""
        if self.bias is None:
            self.bias = torch.zeros(self.keys.shape[:3], dtype=torch.float32, device=self.shape.device)
        self.bias[:, :, slots] = bias.float()

    def forget_after(self, used: int) -> None:
        """Empty the slots from ``used`` on."""
        self.positions[used : self.used] = -1
        self.reached[used:] = self.reached[used - 1]
        self.used = used

    def within(self, low: int, high: int) -> tuple[int, int]:
        """Return the range of slots that may hold positions ``low`` to ``high``, both included."""
        asked = torch.tensor([low, high + 1], device=self.shape.device)
        first, last = torch.searchsorted(self.reached[: self.used], asked).tolist()
        return first, last


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries that choose together, ``start`` to ``stop`` in their segment; they see slots before ``end``."""

    start: int
    stop: int
    end: int


class Segment:
    """Tokens of one reading in a pass of the model: they stand from ``start`` to ``stop`` in its input.

    ``places`` are their slots, ``positions`` their positions, both of shape (tokens,); they are looked at in
    tiles, which ``cuts`` begin and end, counted from ``start``.
    """

    def __init__(
        self,
        slots: Slots,
        start: int,
        places: torch.Tensor,
        positions: torch.Tensor,
        cuts: Sequence[int],
    ) -> None:
        self.slots = slots
        self.start = start
        self.stop = start + len(places)
        self.places = places
        self.positions = positions
        self.tiles = [
            Tile(first, last, slots.within(0, int(positions[last - 1]))[1]) for first, last in pairwise(cuts)
        ]
        self.is_part = False
        """Whether it is a part of a reading's tokens that are run in several passes."""
        self._windows: dict[int, list[int]] = {}

    def moved(self, start: int) -> Segment:
        """Return the segment as it stands further back in a pass, behind other readings' tokens."""
        other = copy(self)
        other.start, other.stop = start, start + len(self.places)
        return other

    @property
    def blocks(self) -> torch.Tensor:
        """Return how many blocks each tile sees a part of, shape (tiles,)."""
        return torch.tensor([-(-tile.end // BLOCK) for tile in self.tiles], device=self.positions.device)

    @cached_property
    def taken(self) -> torch.Tensor:
        """The slots, ascending, that are not empty, of those that any of its tokens see."""
        return (self.slots.positions[: max(tile.end for tile in self.tiles)] >= 0).nonzero()[:, 0]

    @cached_property
    def pasts(self) -> list[tuple[int, int]]:
        """How many slots that are not empty all of a tile's tokens see, and how many any of them sees."""
        taken = self.slots.positions[self.taken]
        firsts = torch.tensor([tile.start for tile in self.tiles], device=taken.device)
        lasts = torch.tensor([tile.stop - 1 for tile in self.tiles], device=taken.device)
        past = torch.searchsorted(taken, self.positions[firsts])
        end = torch.searchsorted(taken, self.positions[lasts], right=True)
        return list(zip(past.tolist(), end.tolist(), strict=True))

    def part(self, first: int, last: int) -> Segment:
        """Return the tiles from ``first`` up to ``last`` as a segment of their own, at a pass's beginning."""
        begin, end = self.tiles[first].start, self.tiles[last - 1].stop
        other = copy(self)
        other.is_part = last - first < len(self.tiles)
        other.start, other.stop = 0, end - begin
        other.places, other.positions = self.places[begin:end], self.positions[begin:end]
        other.tiles = [
            Tile(tile.start - begin, tile.stop - begin, tile.end) for tile in self.tiles[first:last]
        ]
        other._windows = {}
        for name in ("taken", "pasts"):  # of the whole segment, if they were asked for
            other.__dict__.pop(name, None)
        return other

    def begins(self, window: int) -> list[int]:
        """Return the first slot that each tile may see through a sliding window of so many positions."""
        if window not in self._windows:
            self._windows[window] = [
                self.slots.within(int(self.positions[tile.start]) - window + 1, 0)[0] for tile in self.tiles
            ]
        return self._windows[window]


def cut_tiles(lengths: Sequence[int], most: int) -> list[int]:
    """Return where tiles begin and end: runs of these lengths, one after another, none in two tiles' midst.

    Runs are cut into tiles of at most ``most`` tokens.
    """
    cuts, start = [0], 0
    for length in lengths:
        cuts += range(start + most, start + length, most)
        start += length
        if length:
            cuts.append(start)
    return cuts
