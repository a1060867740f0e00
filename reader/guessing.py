"""The port between decoding and guessing: what may come next is tried at once, and kept where it is right.

A wrong guess costs a little time, never a token: what comes out is what the model would have chosen.
Implementations: ``lookup`` (the prompt's own words) and ``draft`` (a smaller model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

GUESSED_TOKENS = 6
"""So many tokens are tried at once, at most."""


class Guess(Protocol):
    """Guesses how one reading goes on."""

    def __call__(self, history: Sequence[int]) -> list[int]:
        """Return up to ``GUESSED_TOKENS`` tokens that may follow; ``history`` only ever grows."""


def either(first: Guess, second: Guess) -> Guess:
    """Return what asks the second where the first has no guess."""
    return lambda history: first(history) or second(history)
