"""The last layer of a pass, run only for those whose logits are wanted.

Of all other tokens it makes keys and values, and nothing that it makes of them besides is looked at. So the
layer is run for all until their keys and values are in their slots, and again, from its beginning, for the
tiles of the tokens that are kept. The models' own code stays as it is: a hook before the layer does it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from reader.attention.slots import Segment

_KNOWN = frozenset(
    {
        "hidden_states",
        "position_embeddings",
        "position_ids",
        "attention_mask",
        "past_key_values",
        "use_cache",
        "kwargs",
    }
)
"""What layers are given that the hook can cut; one that is given more is run for all."""


class Half(Enum):
    """What a layer's attention is to do of its work."""

    WRITE = 1
    """Write keys and values into their slots, and end the layer (``Written``)."""
    LOOK = 2
    """Look at what is in the slots, where everything is already."""


class Written(Exception):
    """Ends a layer whose keys and values are in their slots."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last tiles of a pass's segments, as segments of a pass of their own.

    ``rows`` are their tokens' numbers in the whole pass, which has ``count``.
    """

    segments: Sequence[Segment]
    rows: torch.Tensor
    count: int


def cut_last_layer(model: Any) -> None:
    """Have a model's last layer take a ``tail`` from now on, and run for no more where it is given one.

    A layer that is given more than hidden states and positions is left as it is, and runs for all.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or not _KNOWN.issuperset(inspect.signature(layers[-1].forward).parameters):
        return
    if _run_for_all not in layers[-1]._forward_pre_hooks.values():
        layers[-1].register_forward_pre_hook(_run_for_all, with_kwargs=True)
        layers[-1].register_forward_hook(_put_back, with_kwargs=True)


def find_tail(segments: Sequence[Segment], kept: torch.Tensor) -> Tail | None:
    """Return the tail that holds the ``kept`` tokens, numbers in the pass, ascending.

    It holds the last token where none is kept. ``None`` where it is half of all tokens or more: what would be
    saved goes into the second run.
    """
    if len(kept) == 0:  # a piece of a longer prompt; a layer cannot be run for nobody
        kept = torch.tensor([segments[-1].stop - 1], device=kept.device)
    tails: list[Segment] = []
    rows: list[torch.Tensor] = []
    count = 0
    for segment in segments:
        own = kept[(kept >= segment.start) & (kept < segment.stop)]
        if len(own) == 0:
            continue
        at = int(own[0]) - segment.start
        first = next(number for number, tile in enumerate(segment.tiles) if at < tile.stop)
        begin = segment.tiles[first].start
        rest = segment.part(first, len(segment.tiles)) if first else segment
        tails.append(rest.moved(count))
        rows.append(torch.arange(segment.start + begin, segment.stop, device=kept.device))
        count += len(rows[-1])
    whole = sum(len(segment.places) for segment in segments)
    return Tail(tails, torch.cat(rows), whole) if 0 < 2 * count < whole else None


def _run_for_all(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Stand before the last layer: have it run for all, and change what it is given to the tail's."""
    tail: Tail | None = kwargs.get("tail")
    if tail is None:
        return None
    with suppress(Written):
        layer.forward(*args, **{**kwargs, "half": Half.WRITE})
    (hidden,) = args
    cut = {
        "position_embeddings": tuple(part[:, tail.rows] for part in kwargs["position_embeddings"]),
        "position_ids": kwargs["position_ids"][:, tail.rows],
        "segments": tail.segments,
        "half": Half.LOOK,
    }
    return (hidden[:, tail.rows],), {**kwargs, **cut}


def _put_back(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: torch.Tensor) -> Any:
    """Stand behind the last layer: put what it made of the tail where the whole pass has it."""
    tail: Tail | None = kwargs.get("tail")
    if tail is None:
        return None
    whole = found.new_zeros(1, tail.count, found.shape[-1])
    whole[:, tail.rows] = found
    return whole
