"""The digest: the order in which a store tells its content does not matter, the content does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.canonical import canonical_json
from memory.digest import _write_line, digest_content, digest_store
from memory.values import JsonValue, TenantId
from tests.memory.harness import TENANT


@dataclass
class ListStore:
    records: Sequence[dict[str, JsonValue]]
    name: str = "list"

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        raise NotImplementedError

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        raise NotImplementedError

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        return iter(self.records)

    def owns(self, path: PurePosixPath) -> bool:
        return False


RECORDS = st.lists(st.dictionaries(st.text("ab"), st.integers(0, 3) | st.text("xy"), max_size=3), max_size=5)


@given(records=RECORDS, data=st.data())
def test_order_does_not_matter(records: list[dict[str, JsonValue]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(records))
    turned = [dict(reversed(record.items())) for record in shuffled]
    assert digest_store(ListStore(turned), TENANT) == digest_store(ListStore(records), TENANT)


@pytest.mark.parametrize(
    "records", [[], [{"a": 1}, {"a": 1}], [{"a": "1"}], [{"a": 2}], [{"b": 1}], [{"a": 1, "b": None}]]
)
def test_content_matters(records: list[dict[str, JsonValue]]) -> None:
    assert digest_store(ListStore(records), TENANT) != digest_store(ListStore([{"a": 1}]), TENANT)


def test_each_store_is_named() -> None:
    stores = [ListStore([{"a": 1}], "one"), ListStore([], "two")]
    assert digest_content(stores, TENANT) == {
        "one": digest_store(stores[0], TENANT),
        "two": digest_store(stores[1], TENANT),
    }


def test_the_quick_way_to_write_a_record_is_the_canonical_one():
    record = {"version": 2, "entry": "e1", "b": 'ä \u2028 " \\ \x1f', "a": 0, "flag": True}
    assert _write_line(record) == canonical_json(record)
    nested = {"b": [1, {"z": None}], "a": 1.5}
    assert _write_line(nested) == canonical_json(nested)
