"""Recall: from a question to checked passages.

Pin a generation, search it with the allowed rows inside the search, rank, read the winners' texts,
and check their lineage once more before anything is handed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from memory.clock import to_micros
from memory.errors import InvalidInputError
from memory.filters import compile_filter
from memory.kernel import Kernel, find_denied, get_position
from memory.ledger import iter_payloads
from memory.parsed import load_parsed
from memory.ports import Encoder
from memory.values import ArtifactName, EntryId, JsonValue, Parsed, PassageId, TenantId
from retrieval.distinct import distinct
from retrieval.rank import Question, Ranked, rank
from service.generation import Generation
from service.index import Indexes
from service.ingest import name_parsed
from service.metrics import observe_stages
from service.state import PASSAGE, State, filter_entries
from service.views import Recalled, RecallHit, Span

MAX_LIMIT = 200
MAX_DUPLICATES = 20
"""So many near-duplicates of one hit are named."""
HEADING_SEPARATOR = " > "


class Recaller:
    """Answers recalls from the live generations."""

    def __init__(self, kernel: Kernel, indexes: Indexes, encoder: Encoder, *, hierarchy: bool) -> None:
        self.kernel = kernel
        self.indexes = indexes
        self.encoder = encoder
        self.hierarchy = hierarchy

    def recall(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 10,
        filter: JsonValue = None,
        as_of: datetime | None = None,
        hierarchy: bool | None = None,
    ) -> Recalled:
        """Return up to ``limit`` passages, best first. The caller checks again when it hands them over."""
        if not query.strip():
            raise InvalidInputError("the query is empty", where="query")
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInputError(f"the limit must be between 1 and {MAX_LIMIT}", where="limit")
        condition = None if filter is None else compile_filter(filter)
        timings: dict[str, float] = {}
        started = time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal started
            now = time.perf_counter()
            timings[stage] = round((now - started) * 1000, 3)
            started = now

        generation = self.indexes.get(tenant_id)
        state = generation.state
        with self.kernel.database.read() as connection:
            epoch = get_position(connection, tenant_id).epoch
        entries = state.list_visible(None if as_of is None else to_micros(as_of))
        if condition is not None:
            entries = entries & filter_entries(state, condition)
        lap("select")
        vector = self.encoder.encode([query], role="query")[0]
        lap("encode")
        descend = self.hierarchy if hierarchy is None else hierarchy
        texts = Texts(lambda ids: self.load_parsed(tenant_id, ids))
        ranked = rank(
            Question(query, vector),
            vectors=generation.vectors,
            words=generation.words.numbered(state.names),
            catalog=StateCatalog(generation, state, entries, texts),
            limit=2 * limit,
            passages=state.select_passages(entries),
            nodes=state.select_nodes(entries) if descend else None,
        )
        lap("search")
        hits = hydrate(state, ranked, texts, limit)
        lap("hydrate")
        observe_stages("recall", timings)
        return Recalled(epoch, tuple(hits), timings)

    def recheck(self, tenant_id: TenantId, recalled: Recalled) -> Recalled:
        """Drop hits that were denied meanwhile. Called while the fence is held."""
        with self.kernel.database.read() as connection:
            shown = {hit.entry_id for hit in recalled.hits}
            shown |= {entry_id for hit in recalled.hits for _, entry_id in hit.duplicates}
            hidden = find_denied(connection, tenant_id, shown)
            epoch = get_position(connection, tenant_id).epoch
        hits = tuple(
            replace(hit, duplicates=tuple(one for one in hit.duplicates if one[1] not in hidden))
            for hit in recalled.hits
            if hit.entry_id not in hidden
        )
        return replace(recalled, epoch=epoch, hits=hits)

    def load_parsed(self, tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> Mapping[EntryId, Parsed]:
        """Return the parsed texts of those entries that can still be read."""
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, entry_ids)
            names = {
                # Which of the two is its own is not asked for: only one of them is there.
                entry_id: [self._name_parsed(tenant_id, entry_id, timed=timed) for timed in (True, False)]
                for entry_id in entry_ids
                if entry_id not in hidden
            }
            wanted = [name for mine in names.values() for name in mine]
            payloads = dict(iter_payloads(connection, self.kernel.vault, tenant_id, wanted))
        found = {
            entry_id: next((payloads[name] for name in mine if name in payloads), None)
            for entry_id, mine in names.items()
        }
        return {i: load_parsed(payload) for i, payload in found.items() if payload is not None}

    def _name_parsed(self, tenant_id: TenantId, entry_id: EntryId, *, timed: bool) -> ArtifactName:
        return name_parsed(self.kernel, self.indexes.recipes, tenant_id, entry_id, timed=timed)


class Texts:
    """The parsed entries that one recall needs, each read once."""

    def __init__(self, load: Callable[[Sequence[EntryId]], Mapping[EntryId, Parsed]]) -> None:
        self._load = load
        self._known: dict[EntryId, Parsed | None] = {}

    def get(self, entry_ids: Sequence[EntryId]) -> Mapping[EntryId, Parsed | None]:
        """Return entries by id, ``None`` for those forgotten meanwhile."""
        missing = [entry_id for entry_id in dict.fromkeys(entry_ids) if entry_id not in self._known]
        if missing:
            found = self._load(missing)
            self._known.update({entry_id: found.get(entry_id) for entry_id in missing})
        return self._known


def hydrate(state: State, ranked: Sequence[Ranked], texts: Texts, limit: int) -> list[RecallHit]:
    """Return the best ``limit`` passages with their texts, each standing for its near-duplicates.

    The one with the best score stands for the others; of equal ones the newest, then the one whose id is
    smallest. Texts are read as far down the ranking as it takes, and no further.
    """
    hits: list[RecallHit] = []
    for start in range(0, len(ranked), limit):
        wanted = ranked[start : start + limit]
        parsed = texts.get([state.cards[found.source].row.id for found in wanted])
        for found in wanted:
            entry = parsed[state.cards[found.source].row.id]
            if entry is not None:
                hits.append(make_hit(state, found, entry))
        groups = distinct([hit.text for hit in hits], limit=limit)
        if len(groups) == limit or start + limit >= len(ranked):
            return [_represent(state, [hits[at] for at in group]) for group in groups]
    return []


def _represent(state: State, alike: Sequence[RecallHit]) -> RecallHit:
    """Return the hit that stands for near-duplicates, with the ids of the others."""

    def order(hit: RecallHit) -> tuple[float, int, str]:
        recorded_us = state.cards[state.ordinals[hit.entry_id]].row.recorded_us
        return -hit.score, -recorded_us, hit.passage_id

    best, *others = sorted(alike, key=order)
    duplicates = tuple((hit.passage_id, hit.entry_id) for hit in others[:MAX_DUPLICATES])
    return replace(best, duplicates=duplicates)


class StateCatalog:
    """What ``retrieval.rank`` asks about rows. A source's number is its visible entry's ordinal."""

    def __init__(
        self,
        generation: Generation,
        state: State,
        entries: npt.NDArray[np.bool_],
        texts: Texts,
    ) -> None:
        self._generation = generation
        self._state = state
        self._entries = entries
        self._texts = texts

    def parents(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of the smallest node over each passage, -1 where there is none."""
        return self._state.row_parent[passages]

    def neighbours(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows before and after each, in its entry; -1 where it is the first or the last."""
        state = self._state
        after = np.minimum(passages + 1, len(state.row_entry) - 1)
        follows = (after > passages) & (state.row_entry[after] == state.row_entry[passages])
        follows &= state.row_kind[after] == PASSAGE
        before = np.where(state.row_index[passages] > 0, passages - 1, -1)
        return np.stack([before, np.where(follows, after, -1)], axis=1)

    def sources(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ordinal of each row's entry."""
        return self._state.row_entry[passages].astype(np.int64)

    def passages_under(self, node: int) -> npt.NDArray[np.int64]:
        """Return the rows of the passages a node gathers."""
        card = self._state.cards[int(self._state.row_entry[node])]
        outline = card.nodes[int(self._state.row_index[node])]
        return card.first_row + np.array(outline.passages, np.int64)

    def sizes(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many passages each node gathers."""
        return self._state.row_size[nodes].astype(np.int64)

    def passages_of(self, source: int) -> npt.NDArray[np.int64]:
        """Return the rows of an entry's passages."""
        card = self._state.cards[source]
        return np.arange(card.first_row, card.first_row + card.passages, dtype=np.int64)

    def are_chat(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tell passages made of chat turns."""
        return self._state.row_chat[passages]

    def names(self, passages: npt.NDArray[np.int64]) -> list[str]:
        """Return a name of each row made of its content, then its entry and place, never of its row."""
        state = self._state
        cards = [state.cards[ordinal].row for ordinal in state.row_entry[passages].tolist()]
        places = state.row_index[passages].tolist()
        return [f"{row.content_key}:{row.id}:{at:09d}" for row, at in zip(cards, places, strict=True)]

    def texts(self, passages: npt.NDArray[np.int64]) -> list[str]:
        """Return the rows' texts; empty where the entry was forgotten meanwhile."""
        state = self._state
        ids = [state.cards[ordinal].row.id for ordinal in state.row_entry[passages].tolist()]
        parsed = self._texts.get(ids)
        found: list[str] = []
        for entry_id, at in zip(ids, state.row_index[passages].tolist(), strict=True):
            entry = parsed[entry_id]
            passage = None if entry is None else entry.passages[at]
            found.append(entry.text[passage.start : passage.end] if entry and passage else "")
        return found

    def mentioned(self, text: str) -> dict[str, list[int]]:
        """Return the titles in a text with the visible entries that bear them."""
        return {
            title: visible
            for title, sources in self._generation.titles.find(text).items()
            if (visible := [at for at in sources if at < len(self._entries) and self._entries[at]])
        }


def make_hit(state: State, found: Ranked, entry: Parsed) -> RecallHit:
    """Return a ranked passage with its text and where it stands."""
    card = state.cards[found.source]
    index = int(state.row_index[found.key])
    passage = entry.passages[index]
    return RecallHit(
        passage_id=make_passage_id(card.row.id, index),
        source_id=card.row.source_id,
        entry_id=card.row.id,
        external_id=card.attributes.external_id,
        version=state.get_version(found.source),
        title=card.title,
        text=entry.text[passage.start : passage.end],
        score=found.score,
        span=Span(
            passage.start,
            passage.end,
            passage.place,
            HEADING_SEPARATOR.join(passage.heading) or None,
            passage.messages,
        ),
        subjects=card.attributes.subjects,
        metadata=card.attributes.metadata,
        occurred_at=passage.occurred_at or card.attributes.occurred_at,
        part=card.attributes.part,
    )


def make_passage_id(entry_id: EntryId, index: int) -> PassageId:
    """Return a passage's id: its entry's and its place in it."""
    return PassageId(f"{entry_id}.{index}")
