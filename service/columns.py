"""What grows at its end while older views of it stay as they were.

Nothing here knows what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K")
V = TypeVar("V")


class Column:
    """An array that grows. Views handed out before never change: only what lies behind them is written."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._buffer = values
        self._length = len(values)

    @property
    def values(self) -> npt.NDArray[Any]:
        """Return all values, shape (length,)."""
        return self._buffer[: self._length]

    def extend(self, more: npt.NDArray[Any]) -> None:
        """Add values at the end; a mapped array is copied into memory by the first of them."""
        end = self._length + len(more)
        if not len(more):
            return
        if end > len(self._buffer) or not self._buffer.flags.writeable:
            grown = np.empty(end + end // 4 + 64, self._buffer.dtype)
            grown[: self._length] = self.values
            self._buffer = grown
        self._buffer[self._length : end] = more
        self._length = end


class Layered(Mapping[K, V], Generic[K, V]):
    """A large mapping that never changes under a small one that is copied when it does."""

    def __init__(self, below: Mapping[K, V], above: Mapping[K, V] | None = None) -> None:
        self._below = below
        self._above = {} if above is None else above

    def with_changes(self, changes: Mapping[K, V]) -> Layered[K, V]:
        """Return a mapping with these items instead of or beside its own; this one stays as it is."""
        return Layered(self._below, {**self._above, **changes})

    def __getitem__(self, key: K) -> V:
        return self._above[key] if key in self._above else self._below[key]

    def __iter__(self) -> Iterator[K]:
        yield from self._below
        yield from (key for key in self._above if key not in self._below)

    def __len__(self) -> int:
        return len(self._below) + sum(key not in self._below for key in self._above)

    def __contains__(self, key: object) -> bool:
        return key in self._above or key in self._below
