"""How far what was heard is from what was said: words, and the share of them that are wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

FIGURES = {"1": "one", "2": "two", "spectre": "specter"}


def list_words(text: str) -> list[str]:
    """Words in small letters without marks; figures and British spelling as the reading has them."""
    return [FIGURES.get(word, word) for word in re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))]


def word_error_rate(told: Sequence[str], heard: Sequence[str]) -> float:
    """Words to change, put in or take out, by the words that were told (Levenshtein's distance)."""
    row = list(range(len(heard) + 1))
    for at, word in enumerate(told, start=1):
        previous, row[0] = row[0], at
        for index, other in enumerate(heard, start=1):
            costs = (previous + (word != other), row[index] + 1, row[index - 1] + 1)
            previous, row[index] = row[index], min(costs)
    return row[-1] / len(told)
