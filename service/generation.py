"""One tenant's searchable state in memory: an append-only set of entries over one word index.

A generation only grows. Forgetting and compaction build the next one from what survives and swap it in,
so that nothing of what went shapes what is found. Rows are passages and inner nodes in one space of
dense numbers, the keys of both indexes. Nothing here knows SQL, keys or jobs.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory.clock import to_datetime
from memory.faults import point
from memory.filters import Filter
from memory.journal import EntryRow
from memory.ports import Vectors
from memory.values import Attributes, EntryId, Parsed, Passage, SourceId
from retrieval.hierarchy import Sum, add_up, unit
from retrieval.lexical import LexicalIndex, LexicalRow
from retrieval.titles import Titles
from retrieval.vectors import FlatVectors
from service.payloads import NodeOutline

PASSAGE, SECTION, SOURCE = 0, 1, 2
FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Indexable:
    """Everything a generation needs of one entry."""

    row: EntryRow
    attributes: Attributes
    parsed: Parsed
    vectors: Vectors
    nodes: tuple[NodeOutline, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """What is kept in memory of an entry: enough to filter, rank, group and cite, but no text."""

    row: EntryRow
    attributes: Attributes
    title: str | None
    first_row: int
    passages: int
    nodes: tuple[NodeOutline, ...]
    total: Sum


@dataclass(frozen=True)
class State:
    """One immutable view. Row arrays have shape (rows,), entry arrays (entries,).

    ``row_parent`` is the row of the smallest inner node over a passage, -1 where there is none;
    ``row_chat`` tells passages made of chat turns.
    """

    cards: tuple[Card, ...] = ()
    ordinals: Mapping[EntryId, int] = field(default_factory=dict)
    row_entry: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_kind: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    row_index: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    row_parent: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    row_chat: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    valid_from: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    valid_until: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    versions: Mapping[SourceId, tuple[int, ...]] = field(default_factory=dict)

    def list_visible(self, as_of_us: int | None) -> npt.NDArray[np.bool_]:
        """Return which entries are the version of their source that holds at a time, now by default."""
        visible: npt.NDArray[np.bool_] = self.valid_until == FOREVER
        if as_of_us is not None:
            visible = (self.valid_from <= as_of_us) & (as_of_us < self.valid_until)
        return visible

    def select_rows(
        self, entries: npt.NDArray[np.bool_], *, kinds: Collection[int] = (PASSAGE,)
    ) -> npt.NDArray[np.bool_]:
        """Return the bitmap over row keys of the given kinds that belong to the given entries."""
        selected: npt.NDArray[np.bool_] = entries[self.row_entry] & np.isin(self.row_kind, list(kinds))
        return selected

    def get_version(self, ordinal: int) -> int:
        """Return the rank of an entry among its source's versions, from 1; 0 for a hidden one."""
        ranked = self.versions[self.cards[ordinal].row.source_id]
        return ranked.index(ordinal) + 1 if ordinal in ranked else 0


class Generation:
    """The state, its vectors and its word index. Safe to share between threads.

    What was denied up to ``opened_epoch`` never went in, what was denied up to ``hidden_epoch`` is in no
    view.
    """

    def __init__(self, folder: Path, dimension: int, epoch: int = 0) -> None:
        self.folder = folder
        self.opened_epoch = epoch
        self.hidden_epoch = epoch
        self.vectors = FlatVectors(dimension)
        self.words = LexicalIndex(folder)
        self.titles = Titles()
        self.revision = 0
        self.saved_rows = 0
        self._state = State()
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """The newest whole view."""
        return self._state

    def append(self, batches: Iterable[Sequence[Indexable]], revision: int) -> None:
        """Add entries that are not there yet; all are found once this returns, none before.

        In batches, so that a large set need not be in memory at once; the word index is committed once.
        """
        with self._lock:
            state = self._state
            for entries in batches:
                if fresh := [entry for entry in entries if entry.row.id not in state.ordinals]:
                    state = self._add(state, fresh)
            if state is not self._state:
                self.words.commit()
            self._state = state
            self.revision = max(self.revision, revision)

    def _add(self, state: State, fresh: Sequence[Indexable]) -> State:
        cards = list(state.cards)
        ordinals = dict(state.ordinals)
        row_entry, row_kind, row_index = [state.row_entry], [state.row_kind], [state.row_index]
        row_parent, row_chat = [state.row_parent], [state.row_chat]
        next_row = len(state.row_entry)
        keys: list[int] = []
        vectors: list[Vectors] = []
        for entry in fresh:
            ordinal, passages = len(cards), len(entry.parsed.passages)
            # A node over a single passage would only say the same again.
            nodes = tuple(node for node in entry.nodes if len(node.passages) > 1)
            parents = _find_parents(nodes, passages, next_row)
            rows = passages + len(nodes)
            keys += range(next_row, next_row + rows)
            node_vectors = [unit(add_up(entry.vectors[list(node.passages)])) for node in nodes]
            vectors += [entry.vectors, *(vector[None] for vector in node_vectors)]
            row_entry.append(np.full(rows, ordinal, np.int32))
            node_kinds = [SECTION if node.section else SOURCE for node in nodes]
            row_kind.append(np.array([PASSAGE] * passages + node_kinds, np.int8))
            row_index.append(np.array([*range(passages), *range(len(nodes))], np.int32))
            row_parent.append(np.array([*parents, *(-1 for _ in nodes)], np.int64))
            turns = [_is_chat(entry.parsed, passage) for passage in entry.parsed.passages]
            row_chat.append(np.array([*turns, *(False for _ in nodes)], np.bool_))
            self.words.add(entry.row.id, _lexical_rows(entry.parsed, nodes, next_row, parents))
            if title := entry.attributes.title or entry.parsed.title:
                self.titles.add(ordinal, title)
            cards.append(
                Card(
                    entry.row,
                    entry.attributes,
                    entry.attributes.title or entry.parsed.title,
                    next_row,
                    passages,
                    nodes,
                    add_up(entry.vectors),
                )
            )
            ordinals[entry.row.id] = ordinal
            next_row += rows
        if keys:
            self.vectors.add(keys, np.concatenate(vectors))
        versions, valid_from, valid_until = _rank_versions(state, cards, len(state.cards))
        return State(
            tuple(cards),
            ordinals,
            np.concatenate(row_entry),
            np.concatenate(row_kind),
            np.concatenate(row_index),
            np.concatenate(row_parent),
            np.concatenate(row_chat),
            valid_from,
            valid_until,
            versions,
        )

    def hide(self, entry_ids: Collection[EntryId], epoch: int) -> None:
        """Take denied entries out of every view made from now on: versions are ranked without them.

        Their rows stay until the next generation, and no search admits them.
        """
        with self._lock:
            state = self._state
            gone = {state.ordinals[entry_id] for entry_id in entry_ids if entry_id in state.ordinals}
            if not gone and self.opened_epoch == self.hidden_epoch:
                self.opened_epoch = max(self.opened_epoch, epoch)  # as if it were opened now
            self.hidden_epoch = max(self.hidden_epoch, epoch)
            if not gone:
                return
            versions = dict(state.versions)
            valid_from, valid_until = state.valid_from.copy(), state.valid_until.copy()
            for source_id in {state.cards[ordinal].row.source_id for ordinal in gone}:
                left = tuple(ordinal for ordinal in versions[source_id] if ordinal not in gone)
                versions[source_id] = left
                _set_validity(state.cards, left, valid_from, valid_until)
            # An empty stretch of time: visible at none.
            valid_from[sorted(gone)] = valid_until[sorted(gone)] = 0
            self._state = replace(state, versions=versions, valid_from=valid_from, valid_until=valid_until)

    def close(self) -> None:
        """Give up the word index and delete its folder: a generation lives as long as its process."""
        with self._lock:
            self.words.close()
            if self.folder.exists():  # another process deletes it when it takes this one for ended
                point("words.rmtree")
                shutil.rmtree(self.folder)


_TURN = re.compile(r"^[^\W\d_][\w.'’() \-]{0,40}: ", re.MULTILINE)


def _is_chat(parsed: Parsed, passage: Passage) -> bool:
    """Say whether a passage is made of turns: messages, or text in which most lines begin with a name."""
    text = parsed.text[passage.start : passage.end]
    lines = text.count("\n") + 1
    turns = sum(1 for _ in _TURN.finditer(text))
    return bool(passage.messages) or (turns > 1 and 2 * turns > lines)


def _find_parents(nodes: Sequence[NodeOutline], passages: int, first_row: int) -> list[int]:
    """Return the row of the smallest node over each passage; nodes follow the passages, largest first."""
    parents = [-1] * passages
    for at, node in enumerate(nodes):
        for index in node.passages:
            parents[index] = first_row + passages + at
    return parents


def _lexical_rows(
    parsed: Parsed, nodes: Sequence[NodeOutline], first_row: int, parents: Sequence[int]
) -> list[LexicalRow]:
    """Return the words of passages, and of those nodes that stand directly over one."""
    texts = [parsed.text[passage.start : passage.end] for passage in parsed.passages]
    rows = [
        LexicalRow(first_row + index, text, passage.context)
        for index, (text, passage) in enumerate(zip(texts, parsed.passages, strict=True))
    ]
    direct = set(parents)
    for at, node in enumerate(nodes):
        row = first_row + len(texts) + at
        if row in direct:
            body = "\n".join(texts[index] for index in node.passages)
            rows.append(LexicalRow(row, body, parsed.passages[node.passages[0]].context))
    return rows


def _rank_versions(
    state: State, cards: Sequence[Card], first_new: int
) -> tuple[dict[SourceId, tuple[int, ...]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    versions = dict(state.versions)
    valid_from = np.concatenate([state.valid_from, np.zeros(len(cards) - first_new, np.int64)])
    valid_until = np.concatenate([state.valid_until, np.zeros(len(cards) - first_new, np.int64)])
    touched: set[SourceId] = set()
    for ordinal in range(first_new, len(cards)):
        source_id = cards[ordinal].row.source_id
        versions[source_id] = (*versions.get(source_id, ()), ordinal)
        touched.add(source_id)
    for source_id in touched:
        ordered = sorted(versions[source_id], key=lambda i: (cards[i].row.recorded_us, cards[i].row.id))
        versions[source_id] = tuple(ordered)
        _set_validity(cards, ordered, valid_from, valid_until)
    return versions, valid_from, valid_until


def _set_validity(
    cards: Sequence[Card],
    ordered: Sequence[int],
    valid_from: npt.NDArray[np.int64],
    valid_until: npt.NDArray[np.int64],
) -> None:
    """Write down when each version of a source holds: until the next one, the last for ever."""
    for at, ordinal in enumerate(ordered):
        valid_from[ordinal] = cards[ordinal].row.recorded_us
        later = cards[ordered[at + 1]].row.recorded_us if at + 1 < len(ordered) else FOREVER
        valid_until[ordinal] = later


def match_entries(state: State, matches: Callable[[Card], bool]) -> npt.NDArray[np.bool_]:
    """Return which entries a predicate holds for."""
    return np.fromiter((matches(card) for card in state.cards), np.bool_, len(state.cards))


def filter_entries(state: State, condition: Filter) -> npt.NDArray[np.bool_]:
    """Return which entries a filter admits."""
    return match_entries(
        state,
        lambda card: condition.matches(card.attributes, recorded_at=to_datetime(card.row.recorded_us)),
    )
