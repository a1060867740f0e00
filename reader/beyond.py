"""Choose, among more remembered passages than a window holds, those that are placed in it.

Of each passage its keys at one layer are at hand, as they are before they are turned and in the eight bits
they are kept in: a fiftieth of what is remembered. The question is read once, behind what all prompts begin
with; its queries, turned back as well, say how much of their attention would fall on each passage if
everything stood in one place (as InfLLM, Xiao et al. 2024, looks at what is beyond its window). What recall
believed of a passage counts beside. Only what is chosen is loaded whole. Nothing here knows where memories
are kept.

The layer has to be measured: in the 0.5B model two of those in the midst find what tells the answer, and
their neighbours find nothing (docs/decisions/0011). Passages may be read up to that layer and no further
(``summarise_unread``): who is never chosen is never read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from reader.attention.dense import Logits
from reader.attention.function import run, run_up_to
from reader.attention.rotary import Rotary
from reader.attention.slots import Shape
from reader.compaction.method import Listener
from reader.passages import PassageMemory, quantize_keys
from reader.placing import Passage, Placed, lay_out

_AT_ONCE = 32_768
"""So many keys are looked at in one step: what that takes beside them does not grow with the memory."""

_LEAST = 1e-6
"""A probability is no smaller than this: what recall did not find may still be looked at."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A passage's keys at one layer, in eight bits: (kv_heads, tokens, dim); ranges, (kv_heads, 1, dim)."""

    keys: torch.Tensor
    low: torch.Tensor
    step: torch.Tensor


def summarise(memory: PassageMemory, layer: int) -> Summary:
    """Return what there is to choose a passage by, as copies: the rest of the memory may go."""
    return Summary(memory.keys[layer].clone(), memory.key_low[layer].clone(), memory.key_step[layer].clone())


def lay_out_all(
    shape: Shape,
    rotary: Rotary,
    opening: Passage,
    header: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> tuple[list[int], list[Placed]]:
    """Return the tokens of one pass over texts, each behind ``opening`` and ``header``, and each laid out."""
    tokens: list[int] = []
    laid = []
    for text in texts:
        placed = lay_out(shape, rotary, opening, [], [*header, *text])
        laid.append(replace(placed, segment=placed.segment.moved(len(tokens))))
        tokens += placed.tokens
    return tokens, laid


def summarise_unread(
    model: Any,
    shape: Shape,
    rotary: Rotary,
    opening: Passage,
    header: Sequence[int],
    texts: Sequence[Sequence[int]],
    layer: int,
    *,
    bits: torch.dtype = torch.uint8,
) -> list[Summary]:
    """Return the summaries of texts that are remembered later or never, read up to ``layer`` and no further.

    They are those of what would be remembered behind ``opening`` and ``header`` in eight ``bits``, for a part
    of its cost: a layer's keys follow from the layers before it.
    """
    tokens, laid = lay_out_all(shape, rotary, opening, header, texts)
    run_up_to(model, tokens, [one.segment for one in laid], layer)
    found = []
    for one, text in zip(laid, texts, strict=True):
        places = one.segment.places[-len(text) :]
        keys = one.slots.keys[layer][:, places].float()
        turned = rotary.turn_back(keys, one.slots.positions[places], layer)
        found.append(Summary(*quantize_keys(turned, bits)))
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's queries at a layer, turned back, (kv_heads, queries, dim), and how logits are made."""

    queries: torch.Tensor
    how: Logits


def ask(
    model: Any,
    shape: Shape,
    rotary: Rotary,
    opening: Passage,
    before: Sequence[int],
    question: Sequence[int],
    layers: Sequence[int],
) -> dict[int, Asked]:
    """Read a question behind an opening and the words before it, and return its own queries by layer.

    What a prompt says besides is left out: its words look at whatever they always look at, and with them
    counted the passage that tells the answer was hardly nearer the top than any other.
    """
    placed = lay_out(shape, rotary, opening, [], [*before, *question])
    listener = Listener()
    run(model, placed.tokens, [placed.segment], keep=1, router=listener)
    count = len(question)
    positions = placed.segment.positions[-count:]
    asked = {}
    for layer in layers:
        heard, how = listener.heard[layer]
        turned = rotary.turn_back(heard[:, :, -count:], positions, layer)
        asked[layer] = Asked(turned.flatten(1, 2), how)
    return asked


class Overview:
    """The summaries of many passages, one after another."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        """Not without any summary."""
        self._keys = torch.cat([summary.keys for summary in summaries], dim=1)
        self._low = torch.cat([summary.low for summary in summaries], dim=1)
        self._step = torch.cat([summary.step for summary in summaries], dim=1)
        device = self._keys.device
        lengths = torch.tensor([summary.keys.shape[1] for summary in summaries], device=device)
        self._of = torch.arange(len(summaries), device=device, dtype=torch.int32).repeat_interleave(lengths)

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return sum(held.nbytes for held in (self._keys, self._low, self._step, self._of))

    def masses(self, asked: Asked) -> torch.Tensor:
        """Return the share of the question's attention by passage, (passages,), float32, sum of 1.

        Each of its queries counts the same. Sums are kept beside the highest logit met so far, so that no
        more than a part of the keys is unpacked at once (as in FlashAttention, Dao et al. 2022).
        """
        heads, count, _ = asked.queries.shape
        device = self._keys.device
        queries = asked.queries.to(device)
        top = torch.full((heads, count, 1), -torch.inf, device=device)
        sums = torch.zeros(heads, count, self._low.shape[1], device=device)
        for start in range(0, len(self._of), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            of, keys = self._of[part], self._keys[:, part]
            logits = asked.how.of(queries, keys.float() * self._step[:, of] + self._low[:, of])
            higher = torch.maximum(top, logits.amax(-1, keepdim=True))
            sums *= (top - higher).exp()
            sums.index_add_(2, of, (logits - higher).exp_())
            top = higher
        return (sums / sums.sum(-1, keepdim=True)).mean((0, 1))


def choose(
    masses: torch.Tensor | None,
    beliefs: Sequence[float] | None,
    lengths: Sequence[int],
    room: int,
    *,
    belief: float = 1.0,
) -> list[int]:
    """Return the numbers of passages that fit into ``room`` tokens together, best first.

    A passage's score is log mass + ``belief`` · log belief, without what is ``None``. ``beliefs`` are
    recall's probabilities, ``lengths`` tokens with fences. One too long for what is left is passed over.
    """
    scores = torch.zeros(len(lengths))
    if masses is not None:
        scores += masses.cpu().clamp_min(1e-30).log()
    if beliefs is not None:
        scores += belief * torch.tensor(beliefs).clamp_min(_LEAST).log()
    chosen = []
    for number in scores.argsort(descending=True, stable=True).tolist():
        if lengths[number] <= room:
            chosen.append(number)
            room -= lengths[number]
    return chosen
