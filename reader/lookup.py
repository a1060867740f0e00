"""Guess that a text goes on as it did before (prompt lookup decoding, Saxena 2023).

An answer in the evidence's own words costs few steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from reader.guessing import GUESSED_TOKENS

MATCHED_TOKENS = 2
"""So many last tokens are looked up in what was read and written before."""


def look_up(history: Sequence[int]) -> list[int]:
    """Return the tokens that followed the last ``MATCHED_TOKENS`` where these were last met before."""
    tail = history[-MATCHED_TOKENS:]
    for start in range(len(history) - MATCHED_TOKENS - 1, -1, -1):
        if history[start : start + MATCHED_TOKENS] == tail:
            after = start + MATCHED_TOKENS
            return list(history[after : after + GUESSED_TOKENS])
    return []
