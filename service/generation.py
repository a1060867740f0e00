"""One tenant's live index: what is saved in files, and what came since, over one word index.

A generation only grows. Forgetting and compaction build the next one from what survives and swap it in,
so that nothing of what went shapes what is found. Nothing here knows SQL, keys or jobs.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memory.errors import UnavailableError
from memory.faults import point
from memory.journal import EntryRow
from memory.ports import Vectors
from memory.values import Attributes, EntryId, Parsed, Passage, SourceId
from retrieval.hierarchy import add_up, quantize, unit
from retrieval.lexical import LexicalIndex, LexicalRow
from retrieval.tiered import TieredVectors
from retrieval.titles import Titles
from service.cards import Card
from service.catalog import Saved
from service.columns import Column, Layered
from service.payloads import NodeOutline
from service.state import (
    COLUMNS,
    FOREVER,
    PASSAGE,
    SECTION,
    SOURCE,
    Numbers,
    State,
    entry_place,
    name_rows,
    spread,
)

_TOTALS_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Indexable:
    """Everything a generation needs of one entry."""

    row: EntryRow
    attributes: Attributes
    parsed: Parsed
    vectors: Vectors
    nodes: tuple[NodeOutline, ...]
    timed: bool = False


class Generation:
    """The state, its vectors and its word index. Safe to share between threads.

    What was denied up to ``opened_epoch`` never went in, what was denied up to ``hidden_epoch`` is in no
    view.
    """

    def __init__(
        self, words: LexicalIndex, saved: Saved, epoch: int = 0, opened_from: str | None = None
    ) -> None:
        self.opened_epoch = epoch
        self.hidden_epoch = epoch
        self.opened_from = opened_from
        """The catalog that was published then, whether or not it could be read."""
        self.vectors: TieredVectors = saved.vectors
        self.words = words
        self.titles = Titles()
        for ordinal, title in enumerate(saved.titles):
            if title:
                self.titles.add_words(ordinal, tuple(title.split(" ")))
        self.kept: dict[EntryId, Any] = {}
        """What was computed of entries and is of use as long as they are shown; the next generation takes it
        over for those that it shows."""
        self.revision = 0
        self._state = saved.state
        self._columns = {name: Column(getattr(saved.state, name)) for name in COLUMNS}
        self._lock = threading.Lock()
        self._is_broken = False

    @property
    def folder(self) -> Path:
        """Where the word index lies."""
        return self.words.folder

    @property
    def state(self) -> State:
        """The newest whole view."""
        return self._state

    @property
    def hides_saved(self) -> bool:
        """Whether the saved files hold something that is hidden."""
        state = self._state
        return bool((state.valid_until[: state.saved_entries] == 0).any())

    @contextmanager
    def held(self) -> Iterator[State]:
        """Yield the newest view and let none come after it meanwhile: the word index is of it alone."""
        with self._lock:
            if self._is_broken:
                raise UnavailableError("the index could not take in what came; it is opened anew")
            yield self._state

    def append(self, batches: Iterable[Sequence[Indexable]], revision: int) -> None:
        """Add entries that are not there yet; all are found once this returns, none before.

        In batches, so that a large set need not be in memory at once; the word index is committed once.
        """
        with self._lock:
            try:
                self._append(batches)
            except BaseException:
                self._is_broken = True  # some of it may be in the words, or in the vectors
                raise
            self.revision = max(self.revision, revision)

    def _append(self, batches: Iterable[Sequence[Indexable]]) -> None:
        state, cards = self._state, list[Card]()
        seen: set[EntryId] = set()
        for entries in batches:
            fresh = [e for e in entries if e.row.id not in state.ordinals and e.row.id not in seen]
            seen |= {entry.row.id for entry in fresh}
            cards += self._add(len(state.cards) + len(cards), fresh)
        if cards:
            self.words.commit()
            self._state = self._extended(state, cards)

    def _add(self, first_ordinal: int, fresh: Sequence[Indexable]) -> list[Card]:
        """Put entries into vectors, words and columns, and return their cards."""
        next_row = first_row = len(self._columns["row_entry"].values)
        cards: list[Card] = []
        vectors: list[Vectors] = []
        kinds: list[int] = []
        indexes: list[int] = []
        parents: list[int] = []
        chat: list[bool] = []
        sizes: list[int] = []
        for ordinal, entry in enumerate(fresh, first_ordinal):
            passages = len(entry.parsed.passages)
            # A node over a single passage would only say the same again.
            nodes = tuple(node for node in entry.nodes if len(node.passages) > 1)
            over = _find_parents(nodes, passages, next_row)
            node_vectors = [unit(add_up(entry.vectors[list(node.passages)])) for node in nodes]
            vectors += [entry.vectors, *(vector[None] for vector in node_vectors)]
            kinds += [PASSAGE] * passages + [SECTION if node.section else SOURCE for node in nodes]
            indexes += [*range(passages), *range(len(nodes))]
            parents += [*over, *(-1 for _ in nodes)]
            chat += [_is_chat(entry.parsed, passage) for passage in entry.parsed.passages]
            chat += [False for _ in nodes]
            sizes += [*(1 for _ in range(passages)), *(len(node.passages) for node in nodes)]
            names = name_rows([entry_place(entry.row.id)], np.array([passages + len(nodes)]))
            self.words.add(entry.row.id, list_words(entry.parsed, nodes, over, next_row, names))
            title = entry.attributes.title or entry.parsed.title
            if title:
                self.titles.add(ordinal, title)
            card = Card(entry.row, entry.attributes, title, next_row, passages, nodes, entry.timed)
            cards.append(card)
            next_row += passages + len(nodes)
        if vectors:
            self.vectors.add(np.arange(first_row, next_row), np.concatenate(vectors))
        counts = np.array([card.passages + len(card.nodes) for card in cards], np.int64)
        more = {
            "first_row": [card.first_row for card in cards],
            "passages": [card.passages for card in cards],
            "nodes": [len(card.nodes) for card in cards],
            "row_entry": np.repeat(np.arange(first_ordinal, first_ordinal + len(cards)), counts),
            "row_kind": kinds,
            "row_index": indexes,
            "row_parent": parents,
            "row_chat": chat,
            "row_size": sizes,
            "row_name": name_rows([entry_place(card.row.id) for card in cards], counts),
        }
        for name, column in self._columns.items():
            column.extend(np.asarray(more[name], column.values.dtype))
        return cards

    def _extended(self, state: State, cards: Sequence[Card]) -> State:
        """Return the view that shows these cards, too; everything else of them is in its place."""
        columns: dict[str, Any] = {name: column.values for name, column in self._columns.items()}
        versions, valid_from, valid_until = _rank_versions(state, cards)
        added = {card.row.id: at for at, card in enumerate(cards, len(state.cards))}
        return replace(
            state,
            cards=state.cards.extended(cards),
            ordinals=state.ordinals.with_changes(added),
            valid_from=valid_from,
            valid_until=valid_until,
            versions=versions,
            **columns,
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
            changed: dict[SourceId, tuple[int, ...]] = {}
            valid_from, valid_until = state.valid_from.copy(), state.valid_until.copy()
            for source_id in {state.cards[ordinal].row.source_id for ordinal in gone}:
                left = tuple(ordinal for ordinal in state.versions[source_id] if ordinal not in gone)
                changed[source_id] = left
                recorded_us = [state.cards[ordinal].row.recorded_us for ordinal in left]
                _set_validity(recorded_us, left, valid_from, valid_until)
            # An empty stretch of time: visible at none.
            valid_from[sorted(gone)] = valid_until[sorted(gone)] = 0
            self._state = replace(
                state,
                versions=state.versions.with_changes(changed),
                valid_from=valid_from,
                valid_until=valid_until,
            )

    def total(self, ordinals: Numbers) -> Numbers:
        """Return the exact sum of each entry's passage vectors, quantized; shape (entries, dimension)."""
        state = self._state
        totals = np.zeros((len(ordinals), self.vectors.dimension), np.int64)
        for start in range(0, len(ordinals), _TOTALS_BATCH):
            part = ordinals[start : start + _TOTALS_BATCH]
            counts = state.passages[part].astype(np.int64)
            quantized = quantize(self.vectors.rows(spread(state.first_row[part], counts)))
            filled = np.flatnonzero(counts)
            if len(filled):
                begins = (np.cumsum(counts) - counts)[filled]
                totals[start + filled] = np.add.reduceat(quantized, begins, axis=0)
        return totals

    def list_titles(self) -> dict[int, str]:
        """Return the words of each entry's title, by ordinal."""
        return {at: " ".join(words) for at, words in self.titles.items()}

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


def list_words(
    parsed: Parsed, nodes: Sequence[NodeOutline], parents: Sequence[int], first_row: int, names: Numbers
) -> list[LexicalRow]:
    """Return the words of passages, and of those nodes that stand directly over one.

    ``parents`` are rows of an entry that begins at ``first_row``; ``names`` are its rows' names.
    """
    texts = [parsed.text[passage.start : passage.end] for passage in parsed.passages]
    rows = [
        LexicalRow(int(names[index]), text, passage.context)
        for index, (text, passage) in enumerate(zip(texts, parsed.passages, strict=True))
    ]
    direct = set(parents)
    for at, node in enumerate(nodes):
        row = len(texts) + at
        if first_row + row in direct:
            body = "\n".join(texts[index] for index in node.passages)
            rows.append(LexicalRow(int(names[row]), body, parsed.passages[node.passages[0]].context))
    return rows


def _rank_versions(
    state: State, fresh: Sequence[Card]
) -> tuple[Layered[SourceId, tuple[int, ...]], Numbers, Numbers]:
    cards, first = state.cards, len(state.cards)
    added: dict[SourceId, tuple[int, ...]] = {}
    for at, card in enumerate(fresh, first):
        source_id = card.row.source_id
        known = added[source_id] if source_id in added else state.versions.get(source_id, ())
        added[source_id] = (*known, at)

    def row(at: int) -> EntryRow:
        return fresh[at - first].row if at >= first else cards[at].row

    valid_from = np.concatenate([state.valid_from, np.zeros(len(fresh), np.int64)])
    valid_until = np.concatenate([state.valid_until, np.zeros(len(fresh), np.int64)])
    for source_id, versions in added.items():
        added[source_id] = ordered = tuple(sorted(versions, key=lambda at: (row(at).recorded_us, row(at).id)))
        _set_validity([row(at).recorded_us for at in ordered], ordered, valid_from, valid_until)
    return state.versions.with_changes(added), valid_from, valid_until


def _set_validity(
    recorded_us: Sequence[int], ordered: Sequence[int], valid_from: Numbers, valid_until: Numbers
) -> None:
    """Write down when each version of a source holds: until the next one, the last for ever."""
    for ordinal, since, until in zip(ordered, recorded_us, [*recorded_us[1:], FOREVER], strict=False):
        valid_from[ordinal], valid_until[ordinal] = since, until
