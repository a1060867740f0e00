"""Turn keys from one position to another.

Keys are remembered as they are before the rotary embedding (Su et al. 2021), so that a passage can stand
anywhere; they are turned when they are placed. Frequencies are the model's own, by layer where it has
several.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from memory.errors import InvalidInputError

_FIXED = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Kinds of rotary embedding whose frequencies do not depend on how long a text is."""


class Rotary:
    """The rotary embedding of one model; ``InvalidInputError`` for one that keys cannot be moved in."""

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        config = model.config.get_text_config()
        if not hasattr(decoder, "rotary_emb"):
            raise InvalidInputError(f"{config.model_type} models have no rotary embedding: they are not read")
        self._embed = decoder.rotary_emb
        types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        by_type = "layer_type" in inspect.signature(type(self._embed).forward).parameters
        self._types: list[str | None] = list(types) if by_type else [None] * len(types)
        declared = getattr(self._embed, "rope_type", "default")
        kinds = set(declared.values()) if isinstance(declared, dict) else {declared}
        if not kinds <= _FIXED:
            raise InvalidInputError(
                f"rotary embedding {sorted(kinds - _FIXED)[0]!r} changes with the length of the text: keys "
                "cannot be remembered for this model"
            )

    def turn(self, keys: torch.Tensor, positions: torch.Tensor, layer: int) -> torch.Tensor:
        """Return float32 keys, shape (..., tokens, dim), turned to ``positions``.

        These are (tokens,), or (..., tokens) where heads have kept tokens of their own.
        """
        cos, sin = self._table(positions, layer)
        return _apply(keys.float(), cos, sin)

    def turn_back(self, keys: torch.Tensor, positions: torch.Tensor, layer: int) -> torch.Tensor:
        """Return keys as they were before they were turned to ``positions``."""
        cos, sin = self._table(positions, layer)
        return _apply(keys.float(), cos, -sin)

    def turn_all(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return float32 keys of all layers, (layers, kv_heads, tokens, dim), turned as ``turn`` does."""
        groups = self.groups()
        if len(groups) == 1:
            return self.turn(keys, positions, 0)
        turned = torch.empty_like(keys)
        for layers in groups:
            turned[layers] = self.turn(
                keys[layers], positions if positions.ndim == 1 else positions[layers], layers[0]
            )
        return turned

    def groups(self) -> list[list[int]]:
        """Return the layers that turn alike, group by group."""
        kinds = dict.fromkeys(self._types)
        return [[at for at, own in enumerate(self._types) if own == kind] for kind in kinds]

    def frequencies(self, layer: int, device: torch.device) -> torch.Tensor:
        """Return radians a position of each pair of dimensions, shape (rotated dimensions / 2,)."""
        cos, sin = self._table(torch.ones(1, dtype=torch.long, device=device), layer)
        return torch.atan2(sin, cos)[0, : cos.shape[-1] // 2]

    def _table(self, positions: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        like = torch.zeros(1, dtype=torch.float32, device=positions.device)
        kind = self._types[layer]
        if positions.ndim > 1:  # many times the same few, which are cheaper to look up than to make
            first, last = int(positions.min()), int(positions.max())
            cos, sin = self._table(torch.arange(first, last + 1, device=positions.device), layer)
            return cos[positions - first], sin[positions - first]
        asked = positions[None]
        cos, sin = self._embed(like, asked) if kind is None else self._embed(like, asked, kind)
        # YaRN makes keys longer by this factor; that is done already, turning keeps lengths.
        length = torch.sqrt(cos * cos + sin * sin)
        return (cos / length)[0], (sin / length)[0]


def _apply(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first dimensions in pairs (i, i + half); those beyond the table stay."""
    width = cos.shape[-1]
    low, high = slice(0, width // 2), slice(width // 2, width)
    first, second = keys[..., low], keys[..., high]
    # Written where they belong: joining halves costs seven times as much.
    turned = torch.empty_like(keys)
    torch.mul(first, cos[..., low], out=turned[..., low]).addcmul_(second, sin[..., low], value=-1)
    torch.mul(second, cos[..., high], out=turned[..., high]).addcmul_(first, sin[..., high])
    turned[..., width:] = keys[..., width:]
    return turned
