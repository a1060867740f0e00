"""The journal: every attribute comes back as it went in, and versions are ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.journal import (
    EntryRow,
    append,
    content_key,
    delete_entries,
    external_key,
    get_content,
    iter_headers,
    list_entry_ids,
    list_named,
    list_rows,
    list_versions,
    record_changes,
)
from memory.kernel import Kernel, get_position, list_changes
from memory.values import Attributes, Content, EntryId, SourceId
from tests.memory.harness import OTHER, TENANT, close_kernel, open_kernel

FULL = Content(
    "document",
    "text/markdown",
    "# Fähre\nKestby → Solbris\n".encode(),
    Attributes(
        title="Fahrplan",
        external_id="timetable/2026",
        subjects=("person:mara", "Ortsname Öland"),
        metadata={"pages": 3, "draft": False, "tags": ["a", None, 1.5], "nested": {"k": {"v": "☃"}}},
        user_id="u",
        agent_id="ag",
        run_id="r",
        occurred_at=datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
    ),
    filename="fähre.md",
)


def write(kernel: Kernel, entry_id: str, content: Content, source: str = "s", at: int = 1) -> EntryRow:
    vault = kernel.vault
    entry = EntryRow(
        EntryId(entry_id),
        SourceId(source),
        content.kind,
        at,
        None
        if content.attributes.external_id is None
        else external_key(vault, TENANT, content.attributes.external_id),
        content_key(vault, TENANT, content),
    )
    vault.create_keys(TENANT, {entry.id: content.attributes.subjects})
    with kernel.database.write() as connection:
        append(connection, vault.opener(TENANT, [entry.id]), TENANT, entry, content)
    return entry


def read(kernel: Kernel, entry_id: str) -> Content | None:
    with kernel.database.read() as connection:
        opener = kernel.vault.opener(TENANT, [EntryId(entry_id)])
        return get_content(connection, opener, EntryId(entry_id))


@pytest.mark.parametrize("content", [FULL, Content("memory", "text/plain", b"")])
def test_content_comes_back_as_it_went_in(kernel: Kernel, content: Content) -> None:
    entry = write(kernel, "a", content)
    assert read(kernel, "a") == content
    with kernel.database.read() as connection:
        ((row, header),) = iter_headers(connection, kernel.vault, TENANT)
        assert list_rows(connection, TENANT, [entry.id]) == [entry]
    assert row == entry
    assert (header.kind, header.media_type, header.filename) == (
        content.kind,
        content.media_type,
        content.filename,
    )
    assert header.attributes == content.attributes


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from([10**20, -(2**63) * 2, 2**60])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abc"\\\n'), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        opened = open_kernel(Path(folder))
        yield opened
        close_kernel(opened)


@given(metadata=st.dictionaries(st.text(max_size=5), JSON, max_size=3), body=st.binary(max_size=64))
@settings(max_examples=40, deadline=None)
def test_any_metadata_and_body_come_back(lasting: Kernel, metadata: dict[str, object], body: bytes) -> None:
    """Whatever has a JSON form is kept, integers beyond 64 bits included."""
    content = Content("document", "text/plain", body, Attributes(metadata=metadata))  # type: ignore[arg-type]
    entry_id = lasting.new_id()
    try:
        write(lasting, entry_id, content)
    except InvalidInputError:
        return  # no JSON form
    assert read(lasting, entry_id) == content


def test_content_keys_differ_exactly_when_something_was_said_differently(kernel: Kernel) -> None:
    key = content_key(kernel.vault, TENANT, FULL)
    attributes = FULL.attributes
    others = [
        replace(FULL, body=FULL.body + b" "),
        replace(FULL, media_type="text/plain"),
        replace(FULL, filename=None),
        replace(FULL, kind="memory"),
        *(
            replace(FULL, attributes=replace(attributes, **{name: None}))
            for name in ("title", "external_id", "user_id", "agent_id", "run_id", "occurred_at")
        ),
        replace(FULL, attributes=replace(attributes, subjects=attributes.subjects[:1])),
        replace(FULL, attributes=replace(attributes, metadata={})),
    ]
    assert content_key(kernel.vault, TENANT, replace(FULL)) == key
    keys = [content_key(kernel.vault, TENANT, other) for other in others]
    assert len({key, *keys}) == len(others) + 1
    assert content_key(kernel.vault, OTHER, FULL) != key


def test_nothing_said_stands_in_the_database_in_the_clear(kernel: Kernel, tmp_path: Path) -> None:
    write(kernel, "a", FULL)
    kernel.database.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("lethe.db*"))
    assert b"text/markdown" not in stored
    for word in ("Fahrplan", "timetable", "mara", "Öland", "Kestby", "pages", "fähre"):
        assert word.encode() not in stored


def test_versions_are_ranked_by_time_then_id(kernel: Kernel) -> None:
    """Whatever order they were written in."""
    for entry_id, source, at in [("c", "s", 30), ("a", "s", 10), ("z", "t", 5), ("b", "s", 30)]:
        write(kernel, entry_id, FULL, source, at)
    with kernel.database.read() as connection:
        assert [row.id for row in list_versions(connection, TENANT, ["s"])] == ["a", "b", "c"]
        named = list_named(connection, TENANT, external_key(kernel.vault, TENANT, "timetable/2026"))
        assert [row.id for row in named] == ["z", "a", "b", "c"]
        assert list_named(connection, OTHER, external_key(kernel.vault, TENANT, "timetable/2026")) == []
        assert list_versions(connection, OTHER, ["s"]) == []
        assert list_entry_ids(connection, TENANT) == ["a", "b", "c", "z"]


def test_deleting_takes_entries_and_their_change_marks(kernel: Kernel) -> None:
    for entry_id in "abc":
        write(kernel, entry_id, FULL)
    with kernel.database.write() as connection:
        assert record_changes(connection, TENANT, [EntryId("a"), EntryId("b")], "journaled") == 2
        assert record_changes(connection, TENANT, [EntryId("b"), EntryId("c")], "indexed") == 4
    with kernel.database.write() as connection:
        assert delete_entries(connection, OTHER, [EntryId("b")]) == 0
        assert delete_entries(connection, TENANT, [EntryId("b"), EntryId("none")]) == 1
    with kernel.database.read() as connection:
        assert list_changes(connection, TENANT, 0) == [(1, "a", "journaled"), (4, "c", "indexed")]
        assert list_changes(connection, TENANT, 1) == [(4, "c", "indexed")]
        assert get_position(connection, TENANT).revision == 4
    assert read(kernel, "b") is None
    assert read(kernel, "a") == FULL
