"""A data folder of any size, in minutes: the journal, the ledger and the index as the service leaves them.

Everything is written by the service's own parts but for the embedding of each passage, which is what takes
hours. The sentences of the sets are embedded; a passage is the first half of one and the second half of
another, and its vector is the direction of the two vectors' sum with some noise beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.texts import read_sentences
from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from memory.journal import EntryRow, append, content_key, record_changes
from memory.kernel import Kernel
from memory.ledger import add_edges, put
from memory.values import Attributes, Content, EntryId, Parsed, Passage, Section, TenantId
from retrieval.hierarchy import fold_nodes
from retrieval.segments import as_stored
from service.index import Indexes
from service.ingest import Derived, Recipes, name_artifacts, node_code, to_artifacts
from service.models import make_screen_text, make_speech
from service.payloads import NodeOutline
from service.remember import make_source_id
from service.settings import Settings
from service.wiring import build_kernel

PASSAGES_EACH = 20
ENTRIES_AT_ONCE = 250
NOISE = 0.6
TENANT = TenantId("default")

Matrix = npt.NDArray[np.float32]


def fill(
    data: Path,
    encoder: TextEncoder,
    vectors: Path,
    *,
    held: int,
    wanted: int,
    told: Callable[[int], None],
) -> None:
    """Bring a folder from ``held`` to ``wanted`` passages and write its index; nobody serves it meanwhile.

    The sentences' vectors are kept in ``vectors``. ``told`` hears how many passages are there by now.
    """
    sentences = read_sentences()
    embedded = _embed(encoder, sentences, vectors / "sentences.npy")
    settings = Settings(data=data)
    kernel = build_kernel(settings)
    kernel.create_tenant(TENANT)
    recipes = Recipes.of(
        encoder, make_speech(settings, ModelStore(settings.models_cache)), make_screen_text(settings)
    )
    indexes = Indexes(kernel, encoder, recipes)
    step = ENTRIES_AT_ONCE * PASSAGES_EACH
    for start in range(held, wanted, step):
        made = list(_make(kernel, sentences, embedded, start, min(wanted, start + step)))
        _write(kernel, recipes, indexes, made)
        told(min(wanted, start + step))
    indexes.rewrite(TENANT)
    indexes.close()
    kernel.fence.close()
    kernel.database.close()
    kernel.vault.close()


def _embed(encoder: TextEncoder, sentences: list[str], path: Path) -> Matrix:
    if path.exists():
        kept: Matrix = np.load(path)
        if len(kept) == len(sentences):
            return kept
    rows: Matrix = encoder.encode(sentences, role="passage")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
    return rows


def _make(
    kernel: Kernel, sentences: list[str], embedded: Matrix, start: int, end: int
) -> Iterator[tuple[EntryRow, Content, Derived]]:
    """Yield entries of passages ``start`` to ``end``; the same passages whatever was made before."""
    for first in range(start, end, PASSAGES_EACH):
        numbers = np.arange(first, min(end, first + PASSAGES_EACH))
        rounds, own = np.divmod(numbers, len(sentences))
        # Another partner in each round; in the first a sentence is whole.
        other = (own + rounds * (7919 + 2 * rounds)) % len(sentences)
        noise = np.random.default_rng(first).standard_normal((len(numbers), embedded.shape[1]))
        noise *= NOISE / np.sqrt(embedded.shape[1])
        mixed = embedded[own] + embedded[other] + np.where(rounds[:, None] > 0, noise, 0.0)
        vectors = as_stored((mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32))
        texts = [_join(sentences[a], sentences[b]) for a, b in zip(own.tolist(), other.tolist(), strict=True)]
        yield _entry(kernel, texts, vectors, first)


def _join(own: str, other: str) -> str:
    if own == other:
        return own
    head, tail = own.split(), other.split()
    return " ".join([*head[: len(head) // 2], *tail[len(tail) // 2 :]])


def _entry(
    kernel: Kernel, texts: list[str], vectors: Matrix, first: int
) -> tuple[EntryRow, Content, Derived]:
    text = "\n".join(texts)
    ends = np.cumsum([len(one) + 1 for one in texts])
    passages = tuple(
        Passage(int(end) - len(one) - 1, int(end) - 1) for one, end in zip(texts, ends.tolist(), strict=True)
    )
    parsed = Parsed(None, text, (Section(0, len(text), ()),), passages)
    entry_id = EntryId(kernel.new_id())
    name = f"grown/{first}"
    content = Content("document", "text/plain", text.encode(), Attributes(external_id=name))
    source_id = make_source_id(kernel, TENANT, name, entry_id)
    key = content_key(kernel.vault, TENANT, content)
    row = EntryRow(entry_id, source_id, "document", kernel.clock() + first, None, key)
    nodes = tuple(
        NodeOutline(node.section, node.passages, node.summary, node_code(node.total))
        for node in fold_nodes(parsed, vectors)
    )
    return row, content, Derived(entry_id, parsed, vectors, nodes)


def _write(
    kernel: Kernel, recipes: Recipes, indexes: Indexes, made: list[tuple[EntryRow, Content, Derived]]
) -> None:
    ids = [row.id for row, _, _ in made]
    kernel.vault.create_keys(TENANT, dict.fromkeys(ids, ()))
    opener = kernel.vault.opener(TENANT, ids)
    index = indexes.name_index(TENANT)
    with kernel.database.write(alone=TENANT) as connection:
        for row, content, _ in made:
            append(connection, opener, TENANT, row, content)
        derived = [one for _, _, one in made]
        put(connection, kernel.vault, TENANT, to_artifacts(kernel, recipes, TENANT, derived))
        vectors = [name_artifacts(kernel, recipes, TENANT, entry_id).vectors for entry_id in ids]
        add_edges(connection, TENANT, [(index, name) for name in vectors])
        record_changes(connection, TENANT, ids, "indexed")
