"""Recall: from a question to checked passages.

Pin a generation, search it with the allowed rows inside the search, rank, read the winners' texts,
and check their lineage once more before anything is handed on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from memory.clock import to_micros
from memory.errors import InvalidInputError
from memory.filters import compile_filter
from memory.kernel import Kernel, find_denied, get_position
from memory.ledger import iter_payloads
from memory.ports import Encoder
from memory.values import EntryId, JsonValue, Parsed, PassageId, TenantId
from service.generation import Generation, State, filter_entries
from service.index import Indexes
from service.ingest import name_artifacts
from service.payloads import load_parsed
from service.views import Recalled, RecallHit, Span

MAX_LIMIT = 200
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
            entries &= filter_entries(state, condition)
        lap("select")
        vector = self.encoder.encode([query], role="query")[0]
        lap("encode")
        ranked = self._search(generation, state, query, vector, entries, limit, hierarchy)
        lap("search")
        hits = self._hydrate(tenant_id, state, ranked, limit)
        lap("hydrate")
        return Recalled(epoch, tuple(hits), timings)

    def recheck(self, tenant_id: TenantId, recalled: Recalled) -> Recalled:
        """Drop hits that were denied meanwhile. Called while the fence is held."""
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, {hit.entry_id for hit in recalled.hits})
            epoch = get_position(connection, tenant_id).epoch
        hits = tuple(hit for hit in recalled.hits if hit.entry_id not in hidden)
        return replace(recalled, epoch=epoch, hits=hits)

    def _search(
        self,
        generation: Generation,
        state: State,
        query: str,
        vector: npt.NDArray[np.float32],
        entries: npt.NDArray[np.bool_],
        limit: int,
        hierarchy: bool | None,
    ) -> list[tuple[int, float]]:
        """Return (row, score) of passages, best first, ties by content."""
        rows = state.select_rows(entries)
        near, _ = generation.vectors.search(vector, limit=64, allowed=rows)
        said, _ = generation.words.search(query, limit=64, allowed=rows)
        keys = np.union1d(near, said)
        if not len(keys):
            return []
        dense = generation.vectors.score(vector, keys)
        words = generation.words.score(query, keys)
        top = words.max() or 1.0
        scores = np.round(0.5 * dense + 0.5 * words / top, 6)
        order = sorted(
            range(len(keys)),
            key=lambda i: (-scores[i], state.cards[state.row_entry[keys[i]]].row.content_key, int(keys[i])),
        )
        return [(int(keys[i]), float(scores[i])) for i in order[:limit]]

    def _hydrate(
        self, tenant_id: TenantId, state: State, ranked: Sequence[tuple[int, float]], limit: int
    ) -> list[RecallHit]:
        ordinals = [int(state.row_entry[row]) for row, _ in ranked]
        entry_ids = list(dict.fromkeys(state.cards[ordinal].row.id for ordinal in ordinals))
        parsed = self.load_parsed(tenant_id, entry_ids)
        hits: list[RecallHit] = []
        for (row, score), ordinal in zip(ranked, ordinals, strict=True):
            card = state.cards[ordinal]
            entry = parsed.get(card.row.id)
            if entry is None:
                continue  # forgotten between search and read
            index = int(state.row_index[row])
            passage = entry.passages[index]
            hits.append(
                RecallHit(
                    passage_id=make_passage_id(card.row.id, index),
                    source_id=card.row.source_id,
                    entry_id=card.row.id,
                    external_id=card.attributes.external_id,
                    version=state.get_version(ordinal),
                    title=card.title,
                    text=entry.text[passage.start : passage.end],
                    score=score,
                    span=Span(
                        passage.start,
                        passage.end,
                        passage.page,
                        HEADING_SEPARATOR.join(passage.heading) or None,
                        passage.messages,
                    ),
                    subjects=card.attributes.subjects,
                    metadata=card.attributes.metadata,
                    occurred_at=passage.occurred_at or card.attributes.occurred_at,
                )
            )
        return hits[:limit]

    def load_parsed(self, tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> Mapping[EntryId, Parsed]:
        """Return the parsed texts of those entries that can still be read."""
        names = {
            name_artifacts(self.kernel, self.indexes.recipes, tenant_id, entry_id).parse: entry_id
            for entry_id in entry_ids
        }
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, entry_ids)
            wanted = [name for name, entry_id in names.items() if entry_id not in hidden]
            payloads = iter_payloads(connection, self.kernel.vault, tenant_id, wanted)
            return {names[name]: load_parsed(payload) for name, payload in payloads}


def make_passage_id(entry_id: EntryId, index: int) -> PassageId:
    """Return a passage's id: its entry's and its place in it."""
    return PassageId(f"{entry_id}.{index}")
