"""What is saved of the index: mapped at start and not rebuilt, noticed when damaged, told apart by content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.catalog
import service.index
from embedding.encoder import TextEncoder
from memory.errors import UnavailableError
from memory.journal import EntryRow
from memory.values import Attributes, EntryId, SourceId
from service.cards import Card, Cards, SavedCards, dump_card, load_card
from service.columns import Column, Layered
from service.payloads import NodeOutline
from service.published import find_published
from service.state import Names, entry_place, name_rows, spread
from service.views import Scope
from tests.service.harness import TENANT, House, text_content

QUESTIONS = ("the ferry in the harbour", "a stove for the winter", "who keeps the ledger")


@pytest.fixture
def full(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    """A house with some sources of several passages, two versions of one, everything saved."""
    house = House(tmp_path / "data", encoder)
    for number in range(8):
        text = f"# Log {number}\n\n" + "The ferry left the harbour. " * 90 + f"Stove number {number}."
        house.remember(
            text, external_id=f"log-{number}", subjects=(f"person:{number % 3}",), title=f"Log {number}"
        )
    house.clock.now_us += 1_000_000
    house.remember("The ledger is kept by the clerk. " * 70, external_id="log-3")
    house.lethe.indexes.save(TENANT)
    yield house
    house.close()


def answers(house: House) -> list[Any]:
    found = [house.lethe.recall(TENANT, question, limit=20) for question in QUESTIONS]
    return [[(hit.passage_id, hit.score, hit.version, hit.title) for hit in one.hits] for one in found]


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which entries are read from the ledger for the index."""
    read: list[str] = []
    original = service.index.iter_indexable

    def note(*arguments: Any) -> Any:
        read.extend(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(service.index, "iter_indexable", note)
    return read


def test_starting_maps_what_is_saved(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before, digest = answers(full), full.digest()
    read = forbid_reading(monkeypatch)
    full.restart()
    assert answers(full) == before
    assert full.digest() == digest
    assert read == []
    state = full.lethe.indexes.get(TENANT).state
    assert state.saved == len(state.row_entry) > 12
    assert full.lethe.indexes.get(TENANT).vectors.new_rows == 0


def test_only_what_came_since_is_read(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    full.remember("A stove for the winter. " * 9, "1a7e")
    before, digest = answers(full), full.digest()
    read = forbid_reading(monkeypatch)
    full.restart()
    assert answers(full) == before
    assert read == ["1a7e"]
    assert full.digest() == digest


def list_saved(house: House) -> list[Path]:
    folder = house.lethe.indexes.folder / TENANT
    published = find_published(house.lethe.kernel, TENANT)
    assert published is not None
    kept = service.catalog.list_catalog_files(folder, published.catalog)
    words = sorted(path for path in (folder / published.words).iterdir() if path.suffix == ".term")
    return [folder / published.catalog, *sorted(folder / name for name in kept - {published.catalog}), *words]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("damage", ["torn", "missing"])
def test_what_is_damaged_is_remade(full: House, which: int, damage: str) -> None:
    """The catalog, the names of the vectors' files, the vectors, their codes, the words."""
    full.lethe.indexes.rewrite(TENANT)
    before, digest = answers(full), full.digest()
    files = list_saved(full)
    assert len(files) >= 5
    full.lethe.stop()
    # Links share what they are made of: a process's own words went when it stopped.
    if damage == "torn":
        files[which].write_bytes(files[which].read_bytes()[:-9])
    else:
        files[which].unlink()
    full.open()
    assert answers(full) == before
    full.lethe.indexes.save(TENANT)
    assert full.digest() == digest
    full.restart()
    assert answers(full) == before


def test_a_missing_folder_of_words_is_remade(full: House) -> None:
    before = answers(full)
    folder = full.lethe.indexes.folder / TENANT
    published = find_published(full.lethe.kernel, TENANT)
    assert published is not None
    full.lethe.stop()
    shutil.rmtree(folder / published.words)
    full.open()
    assert answers(full) == before


def test_a_forget_leaves_other_files_of_vectors_as_they_are(
    full: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.catalog, "FILE_ROWS", 8)
    full.lethe.indexes.save(TENANT)

    def files() -> set[str]:
        return {path.name for path in list_saved(full)[1:] if path.suffix == ".segment"}

    before = files()
    assert len(before) > 3
    view = full.lethe.forget(TENANT, Scope(external_ids=("log-5",)), preview=False)
    full.waker.drain()
    assert full.lethe.get_forget(TENANT, view.id).state == "certified"
    after = files()
    # One file of vectors, that of all vectors' bytes, and the one that names them all.
    assert len(before - after) == 3
    assert len(before & after) == len(before) - 3


def test_what_is_denied_while_the_files_hold_it_is_shown_by_nobody(full: House) -> None:
    """Opened in that state, an index counts as one from before the request."""
    full.lethe.forget(TENANT, Scope(external_ids=("log-1",)), preview=False)
    full.restart()
    live = full.lethe.indexes.get(TENANT)
    assert live.opened_epoch < live.hidden_epoch
    assert live.hides_saved
    hits = [hit for one in QUESTIONS for hit in full.lethe.recall(TENANT, one, limit=50).hits]
    assert hits and all(hit.external_id != "log-1" for hit in hits)
    full.waker.drain()
    live = full.lethe.indexes.get(TENANT)
    assert live.opened_epoch == live.hidden_epoch
    assert not live.hides_saved


def test_another_model_s_files_are_not_used(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    read = forbid_reading(monkeypatch)
    monkeypatch.setattr(service.index.Indexes, "_about", lambda self: "another model")
    before = answers(full)
    full.restart()
    assert len(read) == 9
    assert answers(full) == before


WORDS = st.text(max_size=12)


@settings(max_examples=50, deadline=None)
@given(
    title=st.none() | WORDS,
    subjects=st.lists(WORDS, max_size=3),
    metadata=st.dictionaries(WORDS, st.integers(-(2**53), 2**53) | WORDS | st.booleans() | st.none()),
    nodes=st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 99), max_size=4))),
)
def test_a_card_reads_back(title: Any, subjects: Any, metadata: Any, nodes: Any) -> None:
    row = EntryRow(EntryId("a"), SourceId("b"), "memory", 17, None, "00ff")
    outlines = tuple(NodeOutline(section, tuple(of), ((1, 2), (5, 9)), "c0de") for section, of in nodes)
    said = Attributes(title=title, subjects=tuple(subjects), metadata=metadata, user_id="u")
    card = Card(row, said, title, 40, 3, outlines)
    raw = dump_card(card)
    assert load_card(raw, 40, 3) == card
    saved = SavedCards(
        np.frombuffer(raw, np.uint8), np.array([len(raw)]), np.array([40]), np.array([3], np.int32)
    )
    older = Cards(saved)
    newer = older.extended([card])
    assert list(older) == [card] and list(newer) == [card, card]
    assert newer.get_raw(0) == newer.get_raw(1) == raw


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 9), max_size=90), min_size=1, max_size=6))
def test_a_column_grows_and_older_views_stay(parts: list[list[int]]) -> None:
    mapped = np.array(parts[0], np.int64)
    mapped.setflags(write=False)
    column, views, expected = Column(mapped), [], []
    for part in parts[1:]:
        views.append(column.values)
        column.extend(np.array(part, np.int64))
        expected.append(list(chain(*parts[: len(views)])))
        assert column.values.tolist() == list(chain(*parts[: len(views) + 1]))
    assert [view.tolist() for view in views] == expected


@settings(max_examples=50, deadline=None)
@given(
    below=st.dictionaries(st.integers(0, 9), WORDS),
    changes=st.lists(st.dictionaries(st.integers(0, 15), WORDS)),
)
def test_layers_are_one_mapping(below: dict[int, str], changes: list[dict[int, str]]) -> None:
    layered, plain = Layered(below), dict(below)
    for change in changes:
        older, was = layered, dict(plain)
        layered, plain = layered.with_changes(change), {**plain, **change}
        assert dict(older) == was
    assert dict(layered) == plain and len(layered) == len(plain)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=30), saved=st.integers(0, 30))
def test_rows_are_found_by_their_names(counts: list[int], saved: int) -> None:
    numbers = np.array(counts)
    names = name_rows((entry_place(EntryId(f"e{at}")) for at in range(len(counts))), numbers)
    saved = int(numbers[:saved].sum())
    order = np.argsort(names[:saved], kind="stable")
    known = Names(names, saved, names[:saved][order], order)
    rows = np.arange(len(names))
    assert known.to_keys(known.to_names(rows)).tolist() == rows.tolist()
    assert known.to_keys(np.array([5, 7])).tolist() == [-1, -1]
    assert known.to_names([-1, len(names)]).tolist() == []
    starts = np.cumsum(numbers) - numbers
    assert spread(starts, numbers).tolist() == rows.tolist()
    # An entry's names are the same whatever stands beside it.
    alone = name_rows([entry_place(EntryId("e0"))], numbers[:1])
    assert alone.tolist() == names[: counts[0]].tolist()


def test_stats_tell_bytes_by_tier(full: House) -> None:
    full.restart()  # opened from files: what is saved is searched through codes
    state = full.lethe.indexes.get(TENANT).state
    tiers: Any = full.lethe.stats(TENANT)["tiers"]
    rows, dimension = len(state.row_entry), full.lethe.indexes.encoder.space.dimension
    assert tiers["codes"]["bytes"] == rows * (dimension // 8 + 8)
    assert tiers["int8_vectors"]["bytes"] == rows * (dimension + 4)
    assert tiers["vectors"]["bytes"] == rows * dimension * 2
    assert tiers["new_vectors"]["bytes"] == 0
    assert tiers["content"]["per_passage"] > 100
    full.lethe.forget(TENANT, Scope(external_ids=("log-1",)), preview=False)
    fewer: Any = full.lethe.stats(TENANT)["tiers"]
    assert all(
        fewer[name]["bytes"] < tiers[name]["bytes"]
        for name in ("codes", "int8_vectors", "vectors", "content")
    )


def test_what_comes_while_files_are_written_is_found_once(
    full: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = service.index.write_catalog

    def meanwhile(*arguments: Any, **named: Any) -> str:
        full.remember("The lantern went out in the storm. " * 40, "1a7e")
        found = full.lethe.recall(TENANT, "lantern in the storm", limit=3).hits
        assert found[0].entry_id == "1a7e", "searches go on"
        return original(*arguments, **named)

    with monkeypatch.context() as busy:
        busy.setattr(service.index, "write_catalog", meanwhile)
        full.lethe.indexes.save(TENANT)
    live = full.lethe.indexes.get(TENANT)
    assert live.state.saved < len(live.state.row_entry)
    before, digest = answers(full), full.digest()
    full.lethe.indexes.rewrite(TENANT, anew=True)
    again = full.digest()
    assert answers(full) == before
    assert {name for name in digest if digest[name] != again[name]} == {"index"}, "the files differ"
    live = full.lethe.indexes.get(TENANT)
    counts = [live.words.count_rows(card.row.id) for card in live.state.cards]
    assert sum(counts) == live.words.num_docs()
    assert max(counts) <= max(card.passages + len(card.nodes) for card in live.state.cards)


def test_words_saved_by_a_forget_lock_nobody_out(full: House) -> None:
    """Each process writes to links of the same files: a lock among them would be one for all."""
    full.lethe.forget(TENANT, Scope(external_ids=("log-1",)), preview=False)
    full.waker.drain()
    full.remember("The lantern went out. " * 40)
    full.lethe.indexes.reopen(TENANT)  # while the one before may still write
    full.remember("The anchor was lost. " * 40)
    assert full.lethe.recall(TENANT, "anchor lost", limit=1).hits[0].text.startswith("The anchor")
    assert full.lethe.recall(TENANT, "lantern out", limit=1).hits[0].text.startswith("The lantern")


def test_what_cannot_be_read_is_remade_once(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    full.lethe.stop()
    list_saved_file = list_saved(full)[0]
    list_saved_file.write_bytes(b"")
    full.open()
    read = forbid_reading(monkeypatch)
    live = full.lethe.indexes.get(TENANT)
    full.lethe.indexes.keep_up()
    assert full.lethe.indexes.get(TENANT) is live
    assert read == []


def test_a_generation_that_could_not_be_opened_leaves_no_words(
    full: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    indexes = full.lethe.indexes
    with monkeypatch.context() as broken:
        broken.setattr(service.index, "list_artifacts", fail)
        with pytest.raises(OSError, match="full"):
            indexes.reopen(TENANT)
    live = indexes.get(TENANT)
    assert list(live.folder.parent.iterdir()) == [live.folder]
    assert answers(full)


def test_a_generation_that_took_in_a_half_is_not_saved(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    live = full.lethe.indexes.get(TENANT)
    with monkeypatch.context() as broken:
        broken.setattr(live.words, "commit", lambda: 1 / 0)
        full.lethe.remember(TENANT, [text_content("The lantern went out. " * 40)])
        full.waker.drain()
    with pytest.raises(UnavailableError), live.held():
        pass
    assert full.lethe.recall(TENANT, "lantern out", limit=1).hits[0].text.startswith("The lantern")
    full.lethe.indexes.save(TENANT)
    assert full.lethe.recall(TENANT, "lantern out", limit=1).hits[0].text.startswith("The lantern")
    parent = full.lethe.indexes.get(TENANT).folder.parent
    assert len(list(parent.iterdir())) == 1
