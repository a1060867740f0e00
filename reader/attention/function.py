"""The attention that models call: it writes what is new into slots and sees what is in them.

Registered with transformers under one name; the models' own code stays as it is. A pass may hold tokens of
several readings, one segment each, in one row. No mask is asked of transformers: who sees whom follows from
the slots' positions. Nothing here knows why a router chooses what it chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from memory.errors import InvalidInputError
from reader.attention.dense import Logits, attend, attend_behind
from reader.attention.slots import Segment, Shape
from reader.attention.tail import Half, Written, cut_last_layer, find_tail

NAME = "lethe_slots"


class Attends(Protocol):
    """What looks at slots in place of the plain attention, where it wants to."""

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Take note of a layer's queries, (kv_heads, groups, queries, dim)."""

    def routes(self, layer: int, segment: Segment) -> bool:
        """Say whether ``attend`` is to be asked for a layer that sees everything."""

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Return what the queries see, in their shape."""


def use_slots(model: Any) -> Shape:
    """Have a transformers model attend over slots from now on; return what its keys and values look like.

    Raises ``InvalidInputError`` for a model whose attention does what slots do not.
    """
    config = model.config.get_text_config()
    if any(hasattr(module, "sinks") for module in model.get_decoder().modules()):
        raise InvalidInputError(f"{config.model_type} models: attention with sinks is not read")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)
    cut_last_layer(model)
    heads = config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=model.dtype,
        device=model.device,
    )


def windows_of(model: Any) -> list[int | None]:
    """Return the sliding window of each layer of a model, ``None`` where it sees everything."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


@torch.inference_mode()
def run(
    model: Any,
    tokens: Sequence[int],
    segments: Sequence[Segment],
    *,
    keep: int | torch.Tensor,
    router: Attends | None = None,
    whole: bool = True,
) -> torch.Tensor:
    """Return the logits of the last ``keep`` tokens, shape (keep, words); ``keep=0`` for all of them.

    A tensor for ``keep`` names tokens by their places in the pass, ascending, shape (kept,).
    The segments' tokens stand one after another; their keys and values are in their slots afterwards.
    Where the pass need not be ``whole``, the last layer looks only for the tiles of the kept tokens, and the
    router hears of these alone (``attention.tail``).
    """
    device = model.device
    tail = None
    if not whole:
        kept = torch.arange(len(tokens), device=device)[-keep:] if isinstance(keep, int) else keep
        tail = find_tail(segments, kept)
    positions = torch.cat([segment.positions for segment in segments])
    output = model(
        input_ids=torch.tensor([list(tokens)], device=device),
        position_ids=positions[None].to(device),
        use_cache=False,
        logits_to_keep=keep,
        segments=segments,
        router=router,
        tail=tail,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


def run_up_to(model: Any, tokens: Sequence[int], segments: Sequence[Segment], layer: int) -> None:
    """Read until the keys and values of ``layer`` are in the segments' slots, and no further."""
    with suppress(ReachedError):
        run(model, tokens, segments, keep=1, router=UpTo(layer, len(segments)))


class ReachedError(Exception):
    """Ends a pass whose later layers are of no use."""


class UpTo:
    """Stands where a router does; ends the pass once a layer's keys of all segments are in their slots."""

    def __init__(self, layer: int, segments: int) -> None:
        self._layer, self._left = layer, segments

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """End the pass at the layer's last segment: each is heard of when its keys have been written."""
        self._left -= layer == self._layer
        if not self._left:
            raise ReachedError

    def routes(self, layer: int, segment: Segment) -> bool:
        """Leave everything to the plain attention."""
        return False

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Never asked."""
        raise NotImplementedError


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    segments: Sequence[Segment],
    router: Attends | None = None,
    half: Half | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Take (1, heads, tokens, dim) and return (1, tokens, heads, dim), as transformers wants it."""
    if s_aux is not None:
        raise InvalidInputError("this model's attention has sinks of its own: it is not read")
    heads, tokens, dim = query.shape[1:]
    layer = module.layer_idx
    how = Logits(scaling, softcap)
    out = query.new_empty(1, tokens, heads, dim)
    for segment in segments:
        slots = segment.slots
        part = slice(segment.start, segment.stop)
        if half is not Half.LOOK:
            slots.write(layer, segment.places, key[0, :, part], value[0, :, part])
        if half is Half.WRITE:
            continue
        queries = query[0, :, part].reshape(slots.shape.kv_heads, -1, segment.stop - segment.start, dim)
        if router is not None:
            router.hear(layer, queries, how)
        if router is not None and sliding_window is None and router.routes(layer, segment):
            seen = router.attend(layer, queries, segment, how)
        else:
            seen = _dense(layer, queries, segment, how, sliding_window)
        out[0, part] = seen.reshape(heads, -1, dim).transpose(0, 1)
    if half is Half.WRITE:
        raise Written
    return out, None


def _dense(
    layer: int, queries: torch.Tensor, segment: Segment, how: Logits, window: int | None
) -> torch.Tensor:
    """Return what queries see of everything; shapes as in ``attention.dense.attend``."""
    if window is None and len(segment.tiles) > 1 and not queries.is_cuda:
        return _dense_behind(layer, queries, segment, how)
    slots = segment.slots
    bias = None if slots.bias is None else slots.bias[layer]
    begins = [0] * len(segment.tiles) if window is None else segment.begins(window)
    out = torch.empty_like(queries)
    for tile, begin in zip(segment.tiles, begins, strict=True):
        seen = slice(begin, tile.end)
        out[:, :, tile.start : tile.stop] = attend(
            queries[:, :, tile.start : tile.stop],
            slots.keys[layer][:, seen],
            slots.values[layer][:, seen],
            segment.positions[tile.start : tile.stop],
            slots.positions[seen],
            how=how,
            window=window,
            bias=None if bias is None else bias[:, seen],
        )
    return out


def _dense_behind(layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
    """Return what queries of many tiles see of everything: without empty slots, and masks for the past."""
    slots = segment.slots
    keys, values = (_without_empty(rows[layer], segment.taken) for rows in (slots.keys, slots.values))
    bias = None if slots.bias is None else _without_empty(slots.bias[layer], segment.taken)
    positions = slots.positions[segment.taken]
    out = torch.empty_like(queries)
    for tile, (past, end) in zip(segment.tiles, segment.pasts, strict=True):
        asked = segment.positions[tile.start : tile.stop, None]
        mask = torch.zeros(1, len(asked), end - past, device=queries.device)
        mask.masked_fill_(positions[past:end] > asked, -torch.inf)
        out[:, :, tile.start : tile.stop] = attend_behind(
            queries[:, :, tile.start : tile.stop],
            (keys[:, :past], values[:, :past]),
            (keys[:, past:end], values[:, past:end]),
            how=how,
            added=None if bias is None else bias[:, :past],
            mask=mask if bias is None else mask + bias[:, None, past:end],
        )
    return out


def _without_empty(rows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """Return what is in slots, (kv_heads, taken, ...): a copy only where some are empty."""
    return rows[:, : len(taken)] if int(taken[-1]) + 1 == len(taken) else rows.index_select(1, taken)
