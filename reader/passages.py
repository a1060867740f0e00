"""What a model makes of a passage, kept so that it can stand anywhere: keys before rotation, and values.

A passage is read once, behind a short prefix that takes the attention all texts give to their first tokens;
the prefix's own keys are dropped. Kept in eight bits: a key's channel has a range of its own, for channels
differ and tokens do not, a value's token has one (KIVI, Liu et al. 2024). Where the device computes in eight
bits of floating point (E4M3, Micikevicius et al. 2022), they are kept in these, each channel around its own
mean. Nothing here knows where bytes are kept or who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from memory.errors import CorruptionError
from reader.attention.function import run
from reader.attention.rotary import Rotary
from reader.attention.slots import BLOCK, Segment, Shape, Slots, cut_tiles

_LEVELS = 255
_MOST = 448.0
"""The greatest number of E4M3."""

FORMATS = {torch.uint8: 1, torch.float8_e4m3fn: 2}
"""What keys and values may be kept in, and how payloads and recipes call it."""

_FLOAT8_CAPABILITY = (8, 9)
"""From here on CUDA devices compute in float8."""


class Memory(Protocol):
    """Keys and values that can be placed.

    ``offsets`` are where kept tokens stood, (layers, kv_heads, kept), ``None`` where all ``length`` tokens
    are kept; ``bias`` is what is added to their logits, ``None`` for nothing. The ``first`` tokens are kept
    by all heads, one after another and as they are: these can be read again.
    """

    @property
    def length(self) -> int: ...
    @property
    def kept(self) -> int: ...
    @property
    def offsets(self) -> torch.Tensor | None: ...
    @property
    def bias(self) -> torch.Tensor | None: ...
    @property
    def first(self) -> int: ...

    def restore(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values in float32, (layers, kv_heads, kept, dim); keys are not turned."""


@dataclass(frozen=True, slots=True)
class WholeMemory:
    """Keys and values as they are: of a prefix, which all readings share."""

    keys: torch.Tensor
    values: torch.Tensor
    offsets: None = None
    bias: None = None

    @property
    def length(self) -> int:
        return int(self.keys.shape[2])

    kept = length
    first = length

    def restore(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys, self.values


@dataclass(frozen=True, slots=True)
class PassageMemory:
    """A passage's keys and values in eight bits, as they are when its first token stands at position 0.

    ``keys`` and ``values`` are uint8 or float8_e4m3fn, (layers, kv_heads, kept, dim), to be taken times a
    step and added to a low, which are float32: ``key_low`` and ``key_step`` (layers, kv_heads, 1, dim),
    ``value_low`` and ``value_step`` (layers, kv_heads, kept, 1), in float8 of the shape of the keys'.
    ``offsets`` are where kept tokens stood, int32, (layers, kv_heads, kept), ``None`` where all ``length``
    tokens are kept; ``bias`` is what is added to their logits, ``None`` for nothing.
    """

    length: int
    keys: torch.Tensor
    key_low: torch.Tensor
    key_step: torch.Tensor
    values: torch.Tensor
    value_low: torch.Tensor
    value_step: torch.Tensor
    offsets: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def kept(self) -> int:
        """Return how many slots it takes."""
        return int(self.keys.shape[2])

    @property
    def first(self) -> int:
        """Return how many first tokens all heads keep as they are."""
        if self.offsets is None:
            return self.length
        stay = self.offsets == torch.arange(self.kept, device=self.keys.device)
        if self.bias is not None:
            stay &= self.bias == 0
        return int(stay.all(0).all(0).int().cumprod(0).sum())

    def restore(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values in float32, (layers, kv_heads, kept, dim); keys are not turned."""
        return (
            self.keys.float().mul_(self.key_step).add_(self.key_low),
            self.values.float().mul_(self.value_step).add_(self.value_low),
        )

    def to_bytes(self) -> bytes:
        """Return it as safetensors; ``from_bytes`` reads it back equal."""
        named = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        whole = {name: tensor.cpu().contiguous() for name, tensor in named.items()}
        payload: bytes = save({"length": torch.tensor([self.length, FORMATS[self.keys.dtype]]), **whole})
        return payload


_TENSORS = ("keys", "key_low", "key_step", "values", "value_low", "value_step", "offsets", "bias")


def from_bytes(payload: bytes, device: torch.device) -> PassageMemory:
    """Return what ``to_bytes`` was called on; raises ``CorruptionError`` for anything else."""
    try:
        found = load(payload)
        length, made = found["length"].tolist()
        for name in ("keys", "values"):
            if FORMATS.get(found[name].dtype) != made:
                raise CorruptionError(f"a memory of format {made} with {name} in {found[name].dtype}")
        parts = {name: found[name].to(device) for name in _TENSORS if name in found}
        return PassageMemory(length, **parts)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptionError("a memory that cannot be read") from error


def read_alone(
    model: Any, shape: Shape, rotary: Rotary, prefix: Sequence[int], tokens: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys, before rotation, and values of ``tokens`` read behind ``prefix``, in float32.

    Shapes are (layers, kv_heads, tokens, dim).
    """
    whole = [*prefix, *tokens]
    slots = Slots(shape, -(-len(whole) // BLOCK))
    positions = torch.arange(len(whole), device=shape.device)
    segment = Segment(slots, 0, slots.place(positions), positions, cut_tiles([len(whole)], len(whole)))
    run(model, whole, [segment], keep=1)
    return take_out(slots, rotary, segment.places[len(prefix) :])


def take_out(slots: Slots, rotary: Rotary, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is in slots: keys as they were before they were turned, and values, in float32.

    Shapes are (layers, kv_heads, tokens, dim).
    """
    keys = slots.keys[:, :, places].float()
    for layers in rotary.groups():
        keys[layers] = rotary.turn_back(keys[layers], slots.positions[places], layers[0])
    return keys, slots.values[:, :, places].float()


def best_bits(device: torch.device) -> torch.dtype:
    """Return what keys and values are kept in here: float8 where a device computes in it, else integers."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FLOAT8_CAPABILITY:
        return torch.float8_e4m3fn
    return torch.uint8


def compress(keys: torch.Tensor, values: torch.Tensor, bits: torch.dtype = torch.uint8) -> PassageMemory:
    """Return keys and values, (layers, kv_heads, tokens, dim), in eight bits, of ``FORMATS``."""
    value_parts = _to_float8(values) if bits == torch.float8_e4m3fn else _quantize(values, -1)
    return PassageMemory(int(keys.shape[2]), *quantize_keys(keys, bits), *value_parts)


def quantize_keys(
    keys: torch.Tensor, bits: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return keys, (..., tokens, dim), in eight bits, and lows and steps, (..., 1, dim)."""
    return _to_float8(keys) if bits == torch.float8_e4m3fn else _quantize(keys, -2)


def place(memory: Memory, slots: Slots, places: torch.Tensor, rotary: Rotary, start: int) -> None:
    """Put a memory into slots, which follow one another, so that its first token stands at ``start``."""
    keys, values = memory.restore()
    stood = (
        torch.arange(memory.length, device=slots.shape.device) if memory.offsets is None else memory.offsets
    )
    taken = slice(int(places[0]), int(places[-1]) + 1)
    slots.keys[:, :, taken] = rotary.turn_all(keys, stood + start)
    slots.values[:, :, taken] = values
    if memory.bias is not None:
        slots.set_bias(places, memory.bias)


def _quantize(rows: torch.Tensor, dimension: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (bytes, low, step): each line along ``dimension`` is spread over 256 levels."""
    low = rows.amin(dimension, keepdim=True)
    step = (rows.amax(dimension, keepdim=True) - low) / _LEVELS
    levels = ((rows - low) / step.clamp_min(1e-12)).round_().clamp_(0, _LEVELS)
    return levels.to(torch.uint8), low, step


def _to_float8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (floats, low, step): each channel around its mean, up to the greatest number there is.

    A float's error grows with the number, so a channel far from zero would lose what its tokens differ in.
    """
    low = rows.mean(-2, keepdim=True)
    around = rows - low
    step = (around.abs().amax(-2, keepdim=True) / _MOST).clamp_min(1e-12)
    return (around / step).clamp_(-_MOST, _MOST).to(torch.float8_e4m3fn), low, step
