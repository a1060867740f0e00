"""The ledger: names follow from recipe and inputs, and the closure is everything reachable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.kernel import Kernel
from memory.ledger import (
    Artifact,
    Recipe,
    add_edges,
    artifact_name,
    delete,
    drop_edges_from,
    find_closure,
    iter_payloads,
    list_artifacts,
    put,
)
from memory.tables import artifacts, edges
from memory.values import ArtifactName, EntryId
from tests.memory.harness import OTHER, TENANT, close_kernel, open_kernel

RECIPE = Recipe("parse", 1, {"model": "m"})


def artifact(name: str, *inputs: str, under: str = "", payload: bytes = b"payload") -> Artifact:
    return Artifact(ArtifactName(name), "parse", inputs, payload, under)


def count_rows(kernel: Kernel) -> tuple[int, int]:
    with kernel.database.read() as connection:
        counts = [connection.scalar(sa.select(sa.func.count()).select_from(t)) for t in (artifacts, edges)]
    return int(counts[0] or 0), int(counts[1] or 0)


def test_names_follow_from_tenant_recipe_and_the_set_of_inputs(kernel: Kernel) -> None:
    vault = kernel.vault
    name = artifact_name(vault, TENANT, RECIPE, ["aa", "bb"])
    assert artifact_name(vault, TENANT, Recipe("parse", 1, {"model": "m"}), ["bb", "aa", "aa"]) == name
    others = [
        artifact_name(vault, OTHER, RECIPE, ["aa", "bb"]),
        artifact_name(vault, TENANT, RECIPE, ["aa"]),
        artifact_name(vault, TENANT, Recipe("parse", 2, {"model": "m"}), ["aa", "bb"]),
        artifact_name(vault, TENANT, Recipe("nodes", 1, {"model": "m"}), ["aa", "bb"]),
        artifact_name(vault, TENANT, Recipe("parse", 1, {"model": "n"}), ["aa", "bb"]),
    ]
    assert len({name, *others}) == 6


def test_putting_again_changes_nothing(kernel: Kernel) -> None:
    kernel.vault.create_keys(TENANT, {EntryId("e"): ()})
    made = [artifact("a", "e", "e", under="e"), artifact("b", "a", payload=b"other")]
    for _ in range(2):
        with kernel.database.write() as connection:
            put(connection, kernel.vault, TENANT, made)
        assert count_rows(kernel) == (2, 2)
    with kernel.database.read() as connection:
        found = dict(iter_payloads(connection, kernel.vault, TENANT, ["b", "a", "none"]))  # type: ignore[list-item]
        assert found == {"a": b"payload", "b": b"other"}
        assert list_artifacts(connection, TENANT, "parse") == [("a", "e"), ("b", "")]
        assert list_artifacts(connection, OTHER, "parse") == []


def test_a_put_replaces_the_inputs_of_the_same_name(kernel: Kernel) -> None:
    with kernel.database.write() as connection:
        put(connection, kernel.vault, TENANT, [artifact("a", "x", "y")])
        put(connection, kernel.vault, TENANT, [artifact("a", "y")])
        assert find_closure(connection, TENANT, {"x"}) == set()
        assert find_closure(connection, TENANT, {"y"}) == {"a"}


def test_edges_are_recorded_once_and_dropped_by_input(kernel: Kernel) -> None:
    with kernel.database.write() as connection:
        add_edges(connection, TENANT, [("index", "a"), ("index", "b")])
        add_edges(connection, TENANT, [("index", "b"), ("index", "c")])
    assert count_rows(kernel) == (0, 3)
    with kernel.database.write() as connection:
        drop_edges_from(connection, OTHER, {"a"})
        drop_edges_from(connection, TENANT, {"a", "b"})
        assert find_closure(connection, TENANT, {"a", "b", "c"}) == {"index"}
    assert count_rows(kernel) == (0, 1)


def test_deleting_takes_artifacts_with_the_edges_to_their_inputs(kernel: Kernel) -> None:
    with kernel.database.write() as connection:
        put(
            connection,
            kernel.vault,
            TENANT,
            [artifact("a", "e"), artifact("b", "a", "f"), artifact("c", "f")],
        )
        assert delete(connection, OTHER, {"a"}) == 0
        assert delete(connection, TENANT, {"a", "b", "none"}) == 2
        assert delete(connection, TENANT, {"a", "b"}) == 0
    assert count_rows(kernel) == (1, 1)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        opened = open_kernel(Path(folder))
        yield opened
        close_kernel(opened)


NODES = 12
LINKS = st.sets(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)).filter(lambda p: p[0] < p[1]))


@given(links=LINKS, roots=st.sets(st.integers(0, NODES - 1), max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_closure_is_everything_reachable(
    lasting: Kernel, links: set[tuple[int, int]], roots: set[int]
) -> None:
    """Diamonds and chains alike, and no other tenant's graph."""
    reachable = set(roots)
    for _ in range(NODES):
        reachable |= {later for earlier, later in links if earlier in reachable}
    expected = {later for earlier, later in links if earlier in reachable}
    with lasting.database.write() as connection:
        connection.execute(edges.delete())
        add_edges(connection, TENANT, [(f"n{later}", f"n{earlier}") for earlier, later in links])
        add_edges(connection, OTHER, [("foreign", f"n{root}") for root in roots])

        closure = find_closure(connection, TENANT, {f"n{root}" for root in roots})

    assert closure == {f"n{node}" for node in expected}


def test_a_closure_wider_than_one_query_is_whole(kernel: Kernel) -> None:
    with kernel.database.write() as connection:
        add_edges(connection, TENANT, [(f"a{i}", f"e{i}") for i in range(1_201)])
        add_edges(connection, TENANT, [("top", f"a{i}") for i in range(1_201)])
        closure = find_closure(connection, TENANT, {f"e{i}" for i in range(1_201)})
    assert closure == {"top", *(f"a{i}" for i in range(1_201))}
