"""A prompt that was read, by one way or another, and is gone on with: asked about an answer, or written on.

Ways are the model's own attention over the whole prompt, or slots with what is remembered. Both are asked the
same, so nothing that is measured on them knows which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from reader.attention.function import NAME, Attends, run
from reader.attention.slots import Segment, cut_tiles
from reader.lookup import look_up
from reader.placing import TILE, Placed

WRITTEN = 32
"""An answer has so many tokens at most."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a step made of a question: log probabilities by answer token, (tokens, words), and the answer."""

    told: torch.Tensor
    answer: torch.Tensor

    def against(self, other: Read) -> tuple[float, float]:
        """Return the mean divergence of this from another, in nats, and how often the best token is its."""
        apart = (other.told.exp() * (other.told - self.told)).sum(-1).mean()
        same = (other.told.argmax(-1) == self.told.argmax(-1)).float().mean()
        return float(apart), float(same)

    @property
    def surprise(self) -> float:
        """Return the mean negative log probability of the answer's tokens."""
        return -float(self.told.gather(1, self.answer[:, None]).mean())


class Reading(Protocol):
    """A prompt that was read."""

    @property
    def first(self) -> torch.Tensor:
        """Logits of the token after the prompt, (words,)."""

    def read(self, tokens: Sequence[int]) -> torch.Tensor:
        """Go on with tokens; return the logits after each, (tokens, words)."""

    def go_back(self, count: int) -> None:
        """Forget the last so many tokens."""


class SlotReading:
    """Passages in their places; what is new of them is read when this is made."""

    def __init__(self, model: Any, placed: Placed, router: Attends | None = None) -> None:
        self._model, self._slots = model, placed.slots
        self.router = router
        """By whom the tokens to come are routed."""
        self._end = placed.end
        self.first = run(model, placed.tokens, [placed.segment], keep=1, router=router, whole=False)[-1]

    def read(self, tokens: Sequence[int], keep: int | None = None) -> torch.Tensor:
        """Go on with tokens; return the logits after each, or the last ``keep``, (tokens, words)."""
        count = len(tokens)
        positions = torch.arange(self._end, self._end + count, device=self._slots.shape.device)
        cuts = cut_tiles([count], TILE)
        segment = Segment(self._slots, 0, self._slots.place(positions), positions, cuts)
        self._end += count
        return run(self._model, tokens, [segment], keep=keep or count, router=self.router)

    def go_back(self, count: int) -> None:
        """Forget the last so many tokens."""
        self._slots.forget_after(self._slots.used - count)
        self._end -= count


class JointReading:
    """A whole prompt, read at once by the model's own attention (torch's) over transformers' own cache."""

    first: torch.Tensor

    def __init__(self, model: Any, tokens: Sequence[int] = ()) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._tokens: list[int] = []
        if tokens:
            self.turn_to(tokens)

    def turn_to(self, tokens: Sequence[int]) -> None:
        """Read another prompt; what both begin with is not read again."""
        alike = 0
        for known, token in zip(self._tokens, tokens[:-1], strict=False):
            if known != token:
                break
            alike += 1
        self.go_back(len(self._tokens) - alike)
        self.first = self._run(tokens[alike:], 1)[-1]
        self._tokens = [*tokens]

    def read(self, tokens: Sequence[int]) -> torch.Tensor:
        """Go on with tokens; return the logits after each, (tokens, words)."""
        return self._run(tokens, len(tokens))

    def go_back(self, count: int) -> None:
        """Forget the last so many tokens."""
        if count:
            self._cache.crop(-count)

    def _run(self, tokens: Sequence[int], keep: int) -> torch.Tensor:
        with _own_attention(self._model), torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=torch.tensor([list(tokens)], device=self._model.device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=keep,
            ).logits[0]
        return logits


def ask(reading: Reading, answer: Sequence[int]) -> Read:
    """Return the distributions over an answer's tokens; the reading stays where it is."""
    logits = reading.first[None]
    if len(answer) > 1:
        logits = torch.cat((logits, reading.read(answer[:-1])))
        reading.go_back(len(answer) - 1)
    return Read(logits.float().log_softmax(-1), torch.tensor(list(answer), device=logits.device))


def write(
    reading: Reading,
    prompt: Sequence[int],
    ends: frozenset[int],
    *,
    most: int = WRITTEN,
    guess: Callable[[Sequence[int]], Sequence[int]] = look_up,
) -> list[int]:
    """Return the greedy answer's tokens, without the one that ends it; the reading stays where it is.

    Tokens that are guessed to follow are tried at once, as the reader does (``language_model``).
    """
    history = [*prompt]
    new = [int(reading.first.argmax())]
    read = 0
    written: list[int] = []
    while True:
        room = most - len(written)
        stops = [place for place, token in enumerate(new) if token in ends]
        written += new[: min([room, *stops])]
        if stops or len(written) >= most:
            reading.go_back(read)
            return written
        history += new
        tried = guess(history)
        best = [int(token) for token in reading.read([history[-1], *tried]).argmax(-1)]
        right = 0
        while right < len(tried) and tried[right] == best[right]:
            right += 1
        reading.go_back(len(tried) - right)
        read += 1 + right
        new = best[: right + 1]


@contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    """Have the model attend as it would without Lethe."""
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(NAME)
