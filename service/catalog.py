"""What is saved of a tenant's index: one file that names the vectors' and holds everything else, mapped.

Entries stand in an order that is their ids' alone, so that the same entries give the same files. Nothing here
knows SQL, jobs or searches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import CorruptionError
from memory.values import EntryId, JsonValue, SourceId
from retrieval.segments import read_segment, write_segment
from retrieval.tiered import FILE_ROWS, TieredVectors, list_files, write_tiered
from retrieval.vectors import Rotate
from service.cards import Cards, SavedCards
from service.columns import Layered
from service.state import COLUMNS, Numbers, State, entry_place

KIND = "catalog"
SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class Saved:
    """An open catalog: the state it holds, its titles by entry, and its vectors."""

    state: State
    titles: tuple[str, ...]
    word_rows: int
    vectors: TieredVectors


def write_catalog(
    folder: Path,
    about: str,
    state: State,
    titles: dict[int, str],
    word_rows: int,
    vectors: TieredVectors,
    *,
    rotate: Rotate,
    coded_rows: int,
) -> str:
    """Write what a view shows but for hidden entries, and return the name of the file that names the rest.

    ``about`` says what makes the content what it is; ``titles`` are by ordinal; ``word_rows`` counts the rows
    in the word index that is saved with it.
    """
    alive = np.flatnonzero(state.valid_until > 0)
    ids = [state.cards[at].row.id for at in alive.tolist()]
    places = np.fromiter(map(entry_place, ids), np.int64, len(ids))
    order = np.array(sorted(range(len(ids)), key=lambda at: (places[at], ids[at])), np.int64)
    kept, places = alive[order], places[order]
    passages, nodes = state.passages[kept], state.nodes[kept]
    counts = (passages + nodes).astype(np.int64)
    rows = state.rows_of(kept)
    first = np.cumsum(counts) - counts
    parents = state.row_parent[rows]
    moved = np.repeat(first - state.first_row[kept], counts)
    raw = [state.cards.get_raw(at) for at in kept.tolist()]
    names = state.row_name[rows]
    by_name = np.argsort(names, kind="stable")
    arrays: dict[str, npt.NDArray[Any]] = {
        "ids": _texts([state.cards[at].row.id for at in kept.tolist()]),
        "sources": _texts([state.cards[at].row.source_id for at in kept.tolist()]),
        "titles": _blob(SEPARATOR.join(titles.get(at, "") for at in kept.tolist()).encode()),
        "cards": _blob(b"".join(raw)),
        "card_ends": np.cumsum([len(card) for card in raw], dtype=np.int64),
        "first_row": first,
        "passages": passages,
        "nodes": nodes,
        "valid_from": state.valid_from[kept],
        "valid_until": state.valid_until[kept],
        "row_entry": np.repeat(np.arange(len(kept), dtype=np.int32), counts),
        "row_kind": state.row_kind[rows],
        "row_index": state.row_index[rows],
        "row_parent": np.where(parents >= 0, parents + moved, -1),
        "row_chat": state.row_chat[rows],
        "row_size": state.row_size[rows],
        "row_name": names,
        "by_name": names[by_name],
        "name_order": by_name.astype(np.int32),
    }

    def matrices() -> Iterator[npt.NDArray[np.floating]]:
        for start, end in pairwise(_file_breaks(places, first, len(rows))):
            yield vectors.rows(rows[start:end])

    saved = write_tiered(
        folder, vectors.dimension, np.arange(len(rows)), matrices(), rotate=rotate, coded_rows=coded_rows
    )
    said: dict[str, JsonValue] = {"kind": KIND, "about": about, "word_rows": word_rows, "vectors": saved}
    return write_segment(folder, said, arrays)


def _file_breaks(places: Numbers, first_row: Numbers, rows: int) -> list[int]:
    """Return where files of vectors begin and end: at entries whose places begin with other bits.

    Thus an entry that goes changes one file, and what is in the others stays where it is.
    """
    bits = max(0, (rows // FILE_ROWS).bit_length())
    starts = np.searchsorted(places, np.arange(1, 1 << bits) << (63 - bits))
    breaks = [int(first_row[at]) if at < len(first_row) else rows for at in starts.tolist()]
    return sorted({0, *breaks, rows})


def read_catalog(folder: Path, name: str, about: str, *, rotate: Rotate, coded_rows: int) -> Saved | None:
    """Open a catalog; ``None`` when it is about something else, of another model, say.

    Raises ``CorruptionError`` or ``FileNotFoundError`` when one of its files is damaged or missing.
    """
    segment = read_segment(folder / name)
    if segment.about.get("kind") != KIND:
        raise CorruptionError(f"{name}: is no catalog")
    if segment.about["about"] != about:
        return None
    found = segment.arrays
    stored = str(segment.about["vectors"])
    vectors = TieredVectors.load(folder, stored, rotate=rotate, coded_rows=coded_rows)
    ids = [EntryId(i) for i in _read_texts(found["ids"])]
    sources = [SourceId(i) for i in _read_texts(found["sources"])]
    titles = tuple(found["titles"].tobytes().decode().split(SEPARATOR)) if ids else ()
    entries, rows = len(ids), len(found["row_entry"])
    if not entries == len(sources) == len(titles) == len(found["card_ends"]) or rows != len(vectors):
        raise CorruptionError(f"{name}: its parts do not fit together")
    cards = SavedCards(found["cards"], found["card_ends"], found["first_row"], found["passages"])
    state = State(
        cards=Cards(cards),
        ordinals=Layered(dict(zip(ids, range(entries), strict=True))),
        versions=Layered(_group(sources, found["valid_from"], ids)),
        saved=rows,
        saved_entries=entries,
        **{
            column: found[column]
            for column in (*COLUMNS, "by_name", "name_order", "valid_from", "valid_until")
        },
    )
    word_rows = int(str(segment.about["word_rows"]))
    return Saved(state, titles, word_rows, vectors)


def list_catalog_ids(folder: Path, name: str) -> set[EntryId]:
    """Return the ids of the entries that a catalog holds."""
    return {EntryId(i) for i in _read_texts(read_segment(folder / name).arrays["ids"])}


def list_catalog_names(folder: Path, name: str) -> Numbers:
    """Return the names of the rows that a catalog holds."""
    names: Numbers = read_segment(folder / name).arrays["row_name"]
    return names


def measure_catalog(folder: Path, name: str) -> tuple[int, int]:
    """Return how many rows of different names a catalog holds, and their vectors' dimension."""
    segment = read_segment(folder / name)
    vectors = read_segment(folder / str(segment.about["vectors"]))
    return len(np.unique(segment.arrays["row_name"])), int(str(vectors.about["dimension"]))


def list_catalog_files(folder: Path, name: str) -> set[str]:
    """Return the names of all files a catalog is made of."""
    return {name, *list_files(folder, str(read_segment(folder / name).about["vectors"]))}


def _group(
    sources: list[SourceId], valid_from: Numbers, ids: list[EntryId]
) -> dict[SourceId, tuple[int, ...]]:
    """Return the entries of each source, oldest first."""
    grouped: dict[SourceId, tuple[int, ...]] = {}
    for at, source_id in enumerate(sources):
        others = grouped.get(source_id)
        grouped[source_id] = (at,) if others is None else (*others, at)
    for source_id, versions in grouped.items():
        if len(versions) > 1:
            grouped[source_id] = tuple(sorted(versions, key=lambda at: (int(valid_from[at]), ids[at])))
    return grouped


def _texts(values: list[Any]) -> npt.NDArray[np.uint8]:
    return _blob(SEPARATOR.join(values).encode())


def _read_texts(blob: npt.NDArray[np.uint8]) -> list[str]:
    return blob.tobytes().decode().split(SEPARATOR) if len(blob) else []


def _blob(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)
