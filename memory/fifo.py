"""A bounded map that keeps what is used again: S3-FIFO.

Most of what is kept is never asked for again, and should leave soon (Yang, Zhang, Qiu, Yue, Rashmi, "FIFO
queues are all you need for cache eviction", SOSP 2023). So what is new waits in a small queue, a tenth of
the room; if it was used by the time its turn comes, it goes on to the main queue, else it leaves and its key
alone is remembered: should it come again soon, it goes to the main queue at once. There, what was used gets
another turn for each use, three at most. Reading one long text from end to end so takes a tenth of the room.

Where the paper asks for two uses, one is enough here: values are few and large, so that turns come quickly.
Nothing here knows what is kept. Not safe to share between threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

SMALL_SHARE = 10
MOST_USES = 3
REMEMBERED = 8192
"""So many keys are remembered of what has left."""


@dataclass(slots=True)
class _Kept(Generic[Value]):
    value: Value
    size: int
    uses: int = 0


class Fifo(Generic[Key, Value]):
    """Holds values of ``room`` in all, in the unit in which their sizes are told."""

    def __init__(self, room: int, *, remembered: int = REMEMBERED) -> None:
        self.room = room
        self.remembered = remembered
        self._small: OrderedDict[Key, _Kept[Value]] = OrderedDict()
        self._main: OrderedDict[Key, _Kept[Value]] = OrderedDict()
        self._left: OrderedDict[Key, None] = OrderedDict()
        self._small_size = 0
        self._main_size = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    @property
    def size(self) -> int:
        """How much of the room is taken."""
        return self._small_size + self._main_size

    def sizes(self) -> Iterator[tuple[Key, int]]:
        """Yield the keys of what is held, with its sizes."""
        for queue in (self._small, self._main):
            yield from ((key, kept.size) for key, kept in queue.items())

    def list_left(self) -> list[Key]:
        """Return the keys that are remembered of what has left."""
        return list(self._left)

    def has_left(self, key: Key) -> bool:
        """Say whether this was here a short while ago."""
        return key in self._left

    def get(self, key: Key) -> Value | None:
        """Return a value, and count that it was used; ``None`` where it is not held."""
        kept = self._small.get(key) or self._main.get(key)
        if kept is None:
            return None
        kept.uses = min(kept.uses + 1, MOST_USES)
        return kept.value

    def put(self, key: Key, value: Value, size: int) -> None:
        """Hold a value, and let others go for it; one that is larger than the room is not held."""
        came_again = key in self._left
        self.drop([key])
        if size > self.room:
            self._remember(key)
            return
        while self.size + size > self.room:
            self._evict()
        if came_again:
            self._main[key] = _Kept(value, size)
            self._main_size += size
        else:
            self._small[key] = _Kept(value, size)
            self._small_size += size

    def drop(self, keys: Collection[Key]) -> int:
        """Hold these no more and forget their keys; return how many were held."""
        dropped = 0
        for key in keys:
            self._left.pop(key, None)
            if (kept := self._small.pop(key, None)) is not None:
                self._small_size -= kept.size
                dropped += 1
            if (kept := self._main.pop(key, None)) is not None:
                self._main_size -= kept.size
                dropped += 1
        return dropped

    def clear(self) -> None:
        """Hold and remember nothing."""
        for queue in (self._small, self._main, self._left):
            queue.clear()
        self._small_size = self._main_size = 0

    def _evict(self) -> None:
        """Let one value go; those that were used move on first."""
        while self._small and (SMALL_SHARE * self._small_size >= self.room or not self._main):
            key, kept = self._small.popitem(last=False)
            self._small_size -= kept.size
            if not kept.uses:
                self._remember(key)
                return
            self._main[key] = _Kept(kept.value, kept.size)
            self._main_size += kept.size
        while True:
            key, kept = self._main.popitem(last=False)
            if not kept.uses:
                self._main_size -= kept.size
                return
            kept.uses -= 1
            self._main[key] = kept

    def _remember(self, key: Key) -> None:
        self._left[key] = None
        if len(self._left) > self.remembered:
            self._left.popitem(last=False)
