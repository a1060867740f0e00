"""What is kept of each entry beside its rows: enough to filter, rank, group and cite, but no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import orjson

from memory.journal import EntryRow, attributes_json, read_attributes
from memory.values import Attributes, EntryId, SourceId
from service.payloads import NodeOutline


@dataclass(frozen=True, slots=True)
class Card:
    """An entry in a generation. Its rows begin at ``first_row``: passages, then nodes over several."""

    row: EntryRow
    attributes: Attributes
    title: str | None
    first_row: int
    passages: int
    nodes: tuple[NodeOutline, ...]
    timed: bool = False
    """Of media or captions."""


def dump_card(card: Card) -> bytes:
    """Return a card as JSON, but for the place of its rows, which is another in each generation."""
    row = card.row
    return orjson.dumps(
        {
            "row": [
                *(row.id, row.source_id, row.kind, row.recorded_us, row.external_key, row.content_key),
                *([] if row.stream_id is None else [row.stream_id]),
            ],
            "said": attributes_json(card.attributes),
            "title": card.title,
            "nodes": [[node.section, node.passages, node.summary, node.code] for node in card.nodes],
            **({"timed": True} if card.timed else {}),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def load_card(raw: bytes, first_row: int, passages: int) -> Card:
    """Return a card from its JSON."""
    found: dict[str, Any] = orjson.loads(raw)
    entry_id, source_id, kind, recorded_us, external_key, content_key, *stream_id = found["row"]
    nodes = tuple(
        NodeOutline(section, tuple(of), tuple((start, end) for start, end in summary), code)
        for section, of, summary, code in found["nodes"]
    )
    row = EntryRow(
        EntryId(entry_id), SourceId(source_id), kind, recorded_us, external_key, content_key, *stream_id
    )
    return Card(
        row, read_attributes(found["said"]), found["title"], first_row, passages, nodes, "timed" in found
    )


class SavedCards:
    """Cards in a mapped file, each read when it is first asked for and kept from then on."""

    def __init__(
        self,
        raw: npt.NDArray[np.uint8],
        ends: npt.NDArray[np.int64],
        first_row: npt.NDArray[np.int64],
        passages: npt.NDArray[np.int32],
    ) -> None:
        self._raw, self._ends, self._first_row, self._passages = raw, ends, first_row, passages
        self._read: list[Card | None] = [None] * len(ends)

    def __len__(self) -> int:
        return len(self._ends)

    def get_raw(self, at: int) -> bytes:
        """Return a card's JSON."""
        start = int(self._ends[at - 1]) if at else 0
        return self._raw[start : int(self._ends[at])].tobytes()

    def get(self, at: int) -> Card:
        """Return a card."""
        card = self._read[at]
        if card is None:
            card = load_card(self.get_raw(at), int(self._first_row[at]), int(self._passages[at]))
            self._read[at] = card
        return card


class Cards(Sequence[Card]):
    """The saved cards, then the first ``added`` of those that came since: a view that never changes."""

    def __init__(self, saved: SavedCards | None = None, since: list[Card] | None = None) -> None:
        self.saved = saved
        self._since = [] if since is None else since
        self._base = 0 if saved is None else len(saved)
        self._length = self._base + len(self._since)

    def extended(self, more: Sequence[Card]) -> Cards:
        """Return a view with more cards. Only the newest view may be extended: what came since is shared."""
        assert self._length == self._base + len(self._since)
        self._since.extend(more)
        return Cards(self.saved, self._since)

    def get_raw(self, at: int) -> bytes:
        """Return a card's JSON."""
        if self.saved is not None and at < self._base:
            return self.saved.get_raw(at)
        return dump_card(self._since[at - self._base])

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: SupportsIndex) -> Card: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Card]: ...

    def __getitem__(self, at: SupportsIndex | slice) -> Card | Sequence[Card]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self._length))]
        at = index(at)
        if not 0 <= at < self._length:
            raise IndexError(at)
        if self.saved is not None and at < self._base:
            return self.saved.get(at)
        return self._since[at - self._base]

    def __iter__(self) -> Iterator[Card]:
        return (self[at] for at in range(self._length))
