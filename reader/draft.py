"""Guess with a smaller model of the same tokenizer (speculative decoding, Leviathan et al. 2023).

It reads the whole prompt by itself, which is worth it where it is much smaller than the model it guesses for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
import torch

from memory.errors import InvalidInputError, UnavailableError
from reader.attention.function import use_slots
from reader.attention.slots import BLOCK, Segment, Slots, cut_tiles
from reader.batching import Batch
from reader.guessing import GUESSED_TOKENS, Guess
from reader.placing import TILE

_log = structlog.get_logger(__name__)


class DraftModel:
    """A transformers causal model that guesses; the guesses of several readings share its passes."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.shape = use_slots(model)
        self.batch = Batch(model)
        self.most_tokens = int(model.config.max_position_embeddings)
        self.words = len(tokenizer)
        self._vocabulary = tokenizer.get_vocab()

    def check_tokens(self, tokenizer: Any) -> None:
        """Raise ``InvalidInputError`` when another tokenizer cuts texts into other tokens than this one's."""
        if tokenizer.get_vocab() != self._vocabulary:
            raise InvalidInputError("the draft model has another tokenizer than the reader")

    def begin(self, most_new_tokens: int) -> Guess:
        """Return what guesses in one reading, whose history grows by at most so many tokens."""
        return _Draft(self, most_new_tokens)


class _Draft:
    """Implements ``reader.guessing.Guess`` for one reading: what it has read stays in its slots."""

    def __init__(self, model: DraftModel, most_new_tokens: int) -> None:
        self._model = model
        self._most_new_tokens = most_new_tokens
        self._slots: Slots | None = None
        self._read: list[int] = []
        self._failed = False

    def __call__(self, history: Sequence[int]) -> list[int]:
        """Return what the model would write next; nothing where that is more than it can read.

        Nothing any more once it could not run: the reader goes on without.
        """
        if self._failed or len(history) + GUESSED_TOKENS > self._model.most_tokens:
            return []
        try:
            return self._guess(history)
        except (UnavailableError, RuntimeError, MemoryError) as error:
            _log.warning("draft model stopped guessing", error=type(error).__name__)
            self._failed, self._slots = True, None
            return []

    def _guess(self, history: Sequence[int]) -> list[int]:
        if self._slots is None:
            size = len(history) + self._most_new_tokens + GUESSED_TOKENS
            self._slots = Slots(self._model.shape, -(-size // BLOCK))
        same = _count_same(self._read, history[:-1])
        if same < len(self._read):
            self._slots.forget_after(same)
            del self._read[same:]
        guess: list[int] = []
        new = history[same:]
        for _ in range(GUESSED_TOKENS):
            guess.append(self._write(self._slots, new))
            new = guess[-1:]
        return guess

    def _write(self, slots: Slots, new: Sequence[int]) -> int:
        """Read tokens, and return the likeliest next one."""
        start = len(self._read)
        positions = torch.arange(start, start + len(new), device=slots.shape.device)
        segment = Segment(slots, 0, slots.place(positions), positions, cut_tiles([len(new)], TILE))
        logits = self._model.batch.run(new, segment, 1)
        self._read += new
        return int(logits[-1, : self._model.words].argmax())


def _count_same(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    count = 0
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            break
        count += 1
    return count
