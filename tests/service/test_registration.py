"""Everything that holds content is registered: tables, recipes, files."""

from __future__ import annotations

from dataclasses import astuple, fields
from pathlib import PurePosixPath

import sqlalchemy as sa

from memory.tables import artifacts, key_metadata, metadata
from service.ingest import Recipes
from service.stores import ControlFiles
from service.topics import fold_topics
from service.views import Scope
from tests.service.harness import TENANT, House
from unlearning.forget import find_unowned

CONTROL_PLANE = {
    "searchers",
    "api_keys",
    "certificates",
    "changes",
    "denied",
    "forgets",
    "jobs",
    "streams",
    "tenants",
}
"""Random ids, counts, times and keyed hashes: no content, and outside the digest."""


def use(house: House) -> None:
    """Go through everything that writes: versions, topics, compaction, a forget, a rebuild, a restart."""
    for number in range(12):
        house.clock.now_us += 1_000_000
        house.remember(
            f"The river tower number {number} is of glass.",
            external_id=f"d{number % 9}",
            subjects=(f"s{number}",),
        )
    house.remember("Bob likes winter music.", kind="memory", user_id="bob")
    house.clock.now_us += 1_000_000
    house.lethe.forget(TENANT, Scope(subjects=("s3",)), preview=False)
    house.waker.drain()
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    house.restart()
    assert fold_topics(house.lethe.kernel, house.lethe.indexes, TENANT)


def test_every_table_belongs_to_one_store_or_to_the_control_plane(house: House) -> None:
    owned = [table for store in house.lethe.stores for table in store.tables]  # type: ignore[attr-defined]
    everything = set(metadata.tables) | set(key_metadata.tables)
    assert len(owned) == len(set(owned)), "two stores own one table"
    assert not CONTROL_PLANE & set(owned)
    assert set(owned) | CONTROL_PLANE == everything


def test_every_store_is_erased_by_a_forget(house: House) -> None:
    """Save those that hold nothing."""
    forgetting = house.lethe.forgetting
    erased = [store.name for store in (*forgetting.derived, *forgetting.truth)]
    idle = [store.name for store in house.lethe.stores if isinstance(store, ControlFiles)]
    assert sorted(erased + idle) == sorted(store.name for store in house.lethe.stores)
    assert len(set(erased)) == len(erased)


def test_every_artifact_is_made_by_a_registered_recipe(house: House) -> None:
    use(house)
    with house.lethe.kernel.database.read() as connection:
        stored = set(connection.scalars(sa.select(artifacts.c.recipe).distinct()))
    recipes = Recipes.of(house.encoder)
    names = [getattr(recipes, field.name).name for field in fields(recipes)]
    assert len(set(names)) == len(names) == len(astuple(recipes))
    assert {"parse", "vectors", "nodes", "topics"} <= stored <= set(names)


def test_every_file_is_owned_and_a_stray_one_is_found(house: House) -> None:
    use(house)
    stores = house.lethe.stores
    assert find_unowned(house.data, stores) == []
    house.lethe.stop()
    assert find_unowned(house.data, stores) == []
    for stray in ("notes.txt", "cache/text.json", "lethe.db.bak", "keys/keys.db"):
        path = house.data / stray
        path.parent.mkdir(exist_ok=True)
        path.write_text("left behind")
        assert find_unowned(house.data, stores) == [PurePosixPath(stray)]
        path.unlink()
    house.open()


def test_no_file_has_two_owners(house: House) -> None:
    use(house)
    for path in house.data.rglob("*"):
        if path.is_file():
            relative = PurePosixPath(path.relative_to(house.data).as_posix())
            assert len([store for store in house.lethe.stores if store.owns(relative)]) == 1, relative
