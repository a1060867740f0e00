"""What a watch says, and which passages match it: near in meaning, or with all of its words.

A match is computed when it is asked for, from what is indexed anyway. Nothing of it is stored, so there is
nothing of it to forget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from memory.clock import to_datetime
from memory.filters import Filter
from memory.kernel import Kernel
from memory.tables import entries
from memory.values import EntryId, JsonValue, Parsed, SourceId, TenantId
from retrieval.rank import Ranked
from service.cards import Card
from service.generation import Generation
from service.recall import Texts, make_hit
from service.state import Numbers, State, spread
from service.views import RecallHit

MOST_ROWS = 65_536
"""So many passages, the newest, are held against a watch when its newest matches are asked for."""
MOST_WORDED = 1_000
"""Among them, so many at most are looked at because they have all its words: those best of them."""
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Watch:
    """A query that stands. ``threshold`` is the least cosine of a passage near it in meaning.

    It is held against what was remembered since ``recorded_us``: of one stream where ``stream_id`` says so,
    and of what its filter admits.
    """

    id: SourceId
    query: str
    name: str | None
    filter: Mapping[str, JsonValue] | None
    stream_id: SourceId | None
    threshold: float
    subjects: tuple[str, ...]
    recorded_us: int

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return to_datetime(self.recorded_us)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A watch ready to be compared: its query's vector, shape (dimension,), and words."""

    watch: Watch
    vector: npt.NDArray[np.float32]
    words: frozenset[str]
    condition: Filter | None

    def concerns(self, card: Card) -> bool:
        """Say whether an entry is one that it is held against."""
        watch = self.watch
        if card.row.recorded_us < watch.recorded_us:
            return False
        if watch.stream_id is not None and card.attributes.stream_id != watch.stream_id:
            return False
        recorded_at = to_datetime(card.row.recorded_us)
        return self.condition is None or self.condition.matches(card.attributes, recorded_at=recorded_at)

    def is_worded(self, words: Collection[str]) -> bool:
        """Say whether all of its words are among these."""
        return bool(self.words) and self.words.issubset(words)


@dataclass(frozen=True, slots=True)
class Match:
    """A passage that a watch matches: its number in its entry, and its cosine."""

    watch_id: SourceId
    index: int
    score: float


def match_entry(
    prepared: Iterable[Prepared], generation: Generation, card: Card, parsed: Parsed
) -> list[Match]:
    """Return which passages of an entry match which watches, in the order of watch and passage."""
    concerned = [one for one in prepared if one.concerns(card)]
    if not concerned or not card.passages:
        return []
    keys = np.arange(card.first_row, card.first_row + card.passages)
    said = [generation.words.list_words(parsed.text[p.start : p.end]) for p in parsed.passages]
    return [
        Match(one.watch.id, index, float(score))
        for one in sorted(concerned, key=lambda one: one.watch.id)
        for index, score in enumerate(generation.vectors.score(one.vector, keys))
        if score >= one.watch.threshold or one.is_worded(said[index])
    ]


def list_newest(
    kernel: Kernel, generation: Generation, tenant_id: TenantId, one: Prepared, texts: Texts, *, limit: int
) -> list[RecallHit]:
    """Return the newest passages that match a watch, newest first; those of one entry in their order.

    ``score`` is their cosine. The caller holds the fence.
    """
    state = generation.state
    ordinals = _list_concerned(kernel, state, tenant_id, one.watch)
    counts = np.cumsum(state.passages[ordinals])
    ordinals = ordinals[: int(np.searchsorted(counts, MOST_ROWS, side="right"))]
    rows = spread(state.first_row[ordinals], state.passages[ordinals].astype(np.int64))
    allowed = np.zeros(len(state.row_entry), np.bool_)
    allowed[rows] = True
    numbered = generation.words.numbered(state.names)
    worded, _ = numbered.search(one.watch.query, limit=MOST_WORDED, allowed=allowed, every=True)
    hits: list[RecallHit] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        scores = generation.vectors.score(one.vector, batch)
        near = (scores >= one.watch.threshold) | np.isin(batch, worded)
        found = [
            Ranked(int(row), int(state.row_entry[row]), float(score), *(0.0,) * 5)
            for row, score in zip(batch[near], scores[near], strict=True)
        ]
        for at in range(0, len(found), limit):
            hits += _read(generation, state, one, found[at : at + limit], texts)
            if len(hits) >= limit:
                return hits[:limit]
    return hits


def _list_concerned(kernel: Kernel, state: State, tenant_id: TenantId, watch: Watch) -> Numbers:
    """Return the visible entries with passages that came since a watch was made, newest first.

    What was remembered at one moment stands in the canonical order of entries.
    """
    if watch.stream_id is None:
        ordinals = np.flatnonzero(state.list_visible(None))
    else:
        mine = (entries.c.stream_id == watch.stream_id) & (entries.c.tenant_id == tenant_id)
        with kernel.database.read() as connection:
            found = connection.scalars(sa.select(entries.c.id).where(mine, entries.c.kind == "segment"))
            known = [state.ordinals[EntryId(i)] for i in found if EntryId(i) in state.ordinals]
        ordinals = np.array(known, np.int64)
        ordinals = ordinals[state.list_visible(None)[ordinals]]
    since = (state.valid_from[ordinals] >= watch.recorded_us) & (state.passages[ordinals] > 0)
    ordinals = ordinals[since]
    places = state.row_name[state.first_row[ordinals]]
    return ordinals[np.lexsort((places, -state.valid_from[ordinals]))]


def _read(
    generation: Generation, state: State, one: Prepared, found: Sequence[Ranked], texts: Texts
) -> list[RecallHit]:
    """Return those of the rows found that still are there and do match, with their texts."""
    cards = {at: state.cards[at] for at in {row.source for row in found}}
    parsed = texts.get([card.row.id for card in cards.values() if one.concerns(card)])
    hits: list[RecallHit] = []
    for row in found:
        entry = parsed.get(cards[row.source].row.id)
        if entry is None:
            continue
        hit = make_hit(state, row, entry)
        if row.score >= one.watch.threshold or one.is_worded(generation.words.list_words(hit.text)):
            hits.append(hit)
    return hits
