"""One immutable view of a tenant's entries and rows: what searches, listings and folds read.

Rows are passages and inner nodes in one space of dense numbers, the keys of the vector index; the word index
knows them by names that do not change when the numbers do. Nothing here knows SQL, files or indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from memory.clock import to_datetime
from memory.filters import Filter
from memory.values import EntryId, SourceId
from service.cards import Card, Cards
from service.columns import Layered

PASSAGE, SECTION, SOURCE = 0, 1, 2
COLUMNS = (
    "first_row",
    "passages",
    "nodes",
    "row_entry",
    "row_kind",
    "row_index",
    "row_parent",
    "row_chat",
    "row_size",
    "row_name",
)
"""The arrays of a ``State`` that only grow while entries come."""
FOREVER = np.iinfo(np.int64).max
_NAMES = (1 << 63) - 1
_STEP = 0x1E3779B97F4A7C15

Numbers = npt.NDArray[np.int64]


def entry_place(entry_id: EntryId) -> int:
    """Return where an entry stands in canonical order: an evenly spread number of 63 bits."""
    return int.from_bytes(hashlib.sha256(entry_id.encode()).digest()[:8], "big") >> 1


def name_rows(places: Iterable[int], counts: Numbers) -> Numbers:
    """Return the names of entries' rows, ``counts`` of each: of the entry's place and the row's in it.

    Two rows share a name once in 10⁷ stores of a million; then both are found for the words of either.
    """
    of = np.repeat(np.fromiter(places, np.uint64, len(counts)), counts)
    within = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Numbers wrap around; the sign bit is left out.
    names = (of + within.astype(np.uint64) * np.uint64(_STEP)) & np.uint64(_NAMES)
    return names.astype(np.int64)


class Names:
    """Rows by name: the saved ones through their sorted names, those that came since through their own."""

    def __init__(self, names: Numbers, saved: int, by_name: Numbers, order: npt.NDArray[np.integer]) -> None:
        since = names[saved:]
        since_order = np.argsort(since, kind="stable")
        self._names = names
        self._parts = [(by_name, order), (since[since_order], saved + since_order)]

    def to_names(self, keys: npt.ArrayLike) -> Numbers:
        """Return the rows' names; rows that are not there have none and are left out."""
        asked = np.asarray(keys, np.int64)
        return self._names[asked[(asked >= 0) & (asked < len(self._names))]]

    def to_keys(self, names: Numbers) -> Numbers:
        """Return the rows of these names, -1 for a name nobody bears here."""
        found = np.full(len(names), -1, np.int64)
        for by_name, order in self._parts:
            if len(by_name):
                at = np.minimum(np.searchsorted(by_name, names), len(by_name) - 1)
                hit = by_name[at] == names
                found[hit] = order[at[hit]]
        return found


@dataclass(frozen=True)
class State:
    """One immutable view. Row arrays have shape (rows,), entry arrays (entries,).

    ``row_parent`` is the row of the smallest inner node over a passage, -1 where there is none; ``row_chat``
    tells passages made of chat turns; ``row_size`` is how many passages a row gathers; ``first_row`` is where
    an entry's rows begin, ``passages`` how many passages come first there, ``nodes`` how many nodes follow.
    The first ``saved`` rows, and the first ``saved_entries`` entries, are in files; ``by_name`` are the
    sorted names of those rows, and ``name_order`` the rows that bear them.
    """

    cards: Cards = field(default_factory=Cards)
    ordinals: Layered[EntryId, int] = field(default_factory=lambda: Layered({}))
    first_row: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    passages: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    nodes: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_entry: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_kind: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    row_index: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_parent: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    row_chat: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    row_size: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_name: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    by_name: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    name_order: npt.NDArray[np.integer] = field(default_factory=lambda: np.empty(0, np.int32))
    valid_from: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    valid_until: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    versions: Layered[SourceId, tuple[int, ...]] = field(default_factory=lambda: Layered({}))
    saved: int = 0
    saved_entries: int = 0

    @cached_property
    def names(self) -> Names:
        """The names that the word index knows rows by."""
        return Names(self.row_name, self.saved, self.by_name, self.name_order)

    @cached_property
    def _visible_now(self) -> npt.NDArray[np.bool_]:
        visible: npt.NDArray[np.bool_] = self.valid_until == FOREVER
        visible.setflags(write=False)
        return visible

    @cached_property
    def _passages_now(self) -> npt.NDArray[np.bool_]:
        return self._select(self._visible_now, (PASSAGE,))

    @cached_property
    def _nodes_now(self) -> npt.NDArray[np.bool_]:
        return self._select(self._visible_now, (SECTION, SOURCE))

    def list_visible(self, as_of_us: int | None) -> npt.NDArray[np.bool_]:
        """Return which entries are the version of their source that holds at a time, now by default."""
        if as_of_us is None:
            return self._visible_now
        return (self.valid_from <= as_of_us) & (as_of_us < self.valid_until)

    def select_passages(self, entries: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the bitmap over rows of the passages that belong to the given entries."""
        return self._passages_now if entries is self._visible_now else self._select(entries, (PASSAGE,))

    def select_nodes(self, entries: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the bitmap over rows of the inner nodes that belong to the given entries."""
        return self._nodes_now if entries is self._visible_now else self._select(entries, (SECTION, SOURCE))

    def _select(self, entries: npt.NDArray[np.bool_], kinds: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        of_kind = self.row_kind == kinds[0] if len(kinds) == 1 else np.isin(self.row_kind, kinds)
        selected: npt.NDArray[np.bool_] = entries[self.row_entry] & of_kind
        selected.setflags(write=False)
        return selected

    def get_version(self, ordinal: int) -> int:
        """Return the rank of an entry among its source's versions, from 1; 0 for a hidden one."""
        ranked = self.versions[self.cards[ordinal].row.source_id]
        return ranked.index(ordinal) + 1 if ordinal in ranked else 0

    def rows_of(self, ordinals: Numbers) -> Numbers:
        """Return the rows of these entries one after another."""
        counts = (self.passages + self.nodes)[ordinals].astype(np.int64)
        return spread(self.first_row[ordinals], counts)


def spread(starts: Numbers, counts: Numbers) -> Numbers:
    """Return ``counts[i]`` numbers from ``starts[i]`` on, for each ``i`` in turn."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def match_entries(state: State, matches: Callable[[Card], bool]) -> npt.NDArray[np.bool_]:
    """Return which entries a predicate holds for."""
    return np.fromiter((matches(card) for card in state.cards), np.bool_, len(state.cards))


def filter_entries(state: State, condition: Filter) -> npt.NDArray[np.bool_]:
    """Return which entries a filter admits."""
    return match_entries(
        state,
        lambda card: condition.matches(card.attributes, recorded_at=to_datetime(card.row.recorded_us)),
    )
