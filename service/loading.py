"""What a generation needs of entries, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from memory.database import chunked
from memory.journal import iter_headers
from memory.kernel import Kernel, find_denied
from memory.ledger import iter_payloads
from memory.parsed import load_parsed
from memory.values import EntryId, TenantId
from retrieval.lexical import LexicalIndex
from service.generation import Indexable, list_words
from service.ingest import Recipes, name_artifacts
from service.payloads import load_nodes, load_vectors
from service.state import State
from sources.parse import needs_models

BATCH = 256


def iter_indexable(
    kernel: Kernel, recipes: Recipes, dimension: int, tenant_id: TenantId, entry_ids: Sequence[EntryId]
) -> Iterator[list[Indexable]]:
    """Yield entries in batches; those denied or not derived by today's recipes are left out."""
    for batch in chunked(entry_ids, BATCH):
        yield _load(kernel, recipes, dimension, tenant_id, batch)


def _load(
    kernel: Kernel, recipes: Recipes, dimension: int, tenant_id: TenantId, entry_ids: Sequence[EntryId]
) -> list[Indexable]:
    with kernel.database.read() as connection:
        hidden = find_denied(connection, tenant_id, entry_ids)
        open_ids = [entry_id for entry_id in entry_ids if entry_id not in hidden]
        headers = {
            row.id: (row, header)
            for row, header in iter_headers(connection, kernel.vault, tenant_id, open_ids)
        }
        names = {
            entry_id: name_artifacts(
                kernel, recipes, tenant_id, entry_id, timed=needs_models(header.media_type)
            )
            for entry_id, (_, header) in headers.items()
        }
        wanted = [name for mine in names.values() for name in (mine.parse, mine.nodes, mine.vectors)]
        payloads = dict(iter_payloads(connection, kernel.vault, tenant_id, wanted))
    return [
        Indexable(
            row,
            header.attributes,
            load_parsed(payloads[mine.parse]),
            load_vectors(payloads[mine.vectors], dimension),
            load_nodes(payloads[mine.nodes]),
            needs_models(header.media_type),
        )
        for row, header, mine in ((*headers[i], names[i]) for i in open_ids if i in headers)
        if {mine.parse, mine.vectors, mine.nodes} <= payloads.keys()
    ]


def add_words(
    kernel: Kernel,
    recipes: Recipes,
    tenant_id: TenantId,
    state: State,
    ordinals: Sequence[int],
    words: LexicalIndex,
) -> None:
    """Put the words of entries that a view holds into an index, and commit.

    An entry that was forgotten meanwhile is left out.
    """
    for batch in chunked(ordinals, BATCH):
        cards = [state.cards[at] for at in batch]
        names = {
            card.row.id: name_artifacts(kernel, recipes, tenant_id, card.row.id, timed=card.timed).parse
            for card in cards
        }
        with kernel.database.read() as connection:
            payloads = dict(iter_payloads(connection, kernel.vault, tenant_id, list(names.values())))
        for card in cards:
            payload = payloads.get(names[card.row.id])
            if payload is not None:
                rows = slice(card.first_row, card.first_row + card.passages + len(card.nodes))
                parents: list[int] = state.row_parent[rows][: card.passages].tolist()
                named = np.asarray(state.row_name[rows])
                words.add(
                    card.row.id,
                    list_words(load_parsed(payload), card.nodes, parents, card.first_row, named),
                )
    words.commit()
