"""Mutations: a build that leaves out one part of forgetting is caught, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from memory.tables import entries
from service.forgetting import Forgetting
from service.index import Indexes
from service.state import State
from service.stores import CONTENT_TABLES
from service.views import Scope
from tests.faults.scanner import scan
from tests.faults.stories import (
    SECRET,
    TENANT,
    Told,
    World,
    assert_like_twin,
    document,
    markdown,
    plain,
    secret,
    twin_of,
)

ALICE = Scope(subjects=("person:alice",))


def tell(world: World) -> tuple[list[Told], list[Told]]:
    """Remember a few entries that stay and a few that go, compacted to disk."""
    kept = [world.tell(plain(n)) for n in range(3)]
    gone = [world.tell(secret(n)) for n in range(3)]
    page = document(markdown(9, SECRET), "text/markdown", subjects=("person:alice",))
    gone.append(world.tell(page))
    world.compact()
    world.read([*kept, *gone])
    return kept, gone


def fence_and_run(world: World) -> Any:
    view = world.house.lethe.forget(TENANT, ALICE, preview=False)
    world.house.waker.drain()
    return world.house.lethe.get_forget(TENANT, view.id)


def assert_fenced(world: World) -> None:
    assert not any(SECRET in text for _, text, _ in world.ranked())


@pytest.mark.parametrize("name", ["artifacts", "index", "journal", "keys", "kv"])
def test_a_store_that_erases_nothing_fails_the_request(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request fails and says which store still holds what; the fence stands; a repaired build ends it."""
    kept, _ = tell(world)
    store = next(store for store in world.house.lethe.stores if store.name == name)
    with monkeypatch.context() as broken:
        broken.setattr(store, "erase", lambda tenant_id, ids: 0)
        view = fence_and_run(world)

        assert view.state == "failed"
        assert name in view.error["detail"]
        assert view.remaining[name] > 0
        assert_fenced(world)
        assert fence_and_run(world).state != "certified", "asking again while it is broken certifies nothing"
        assert_fenced(world)
    world.house.lethe.forget(TENANT, ALICE, preview=False)
    world.house.waker.drain()
    world.pass_time()

    again = world.house.lethe.get_forget(TENANT, view.id)
    assert again.state == "certified" and not again.remaining
    assert world.house.lethe.stats(TENANT)["forgets"] == {"certified": 3}
    assert_like_twin(world, kept, tmp_path / "twin")


def test_a_failed_request_is_tried_again_at_the_next_start(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is not the end: what was fenced is erased by the next process that can."""
    kept, _ = tell(world)
    with monkeypatch.context() as broken:
        store = next(store for store in world.house.lethe.stores if store.name == "journal")
        broken.setattr(store, "erase", lambda tenant_id, ids: 0)
        view = fence_and_run(world)
    world.house.restart()
    world.house.waker.drain()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert_like_twin(world, kept, tmp_path / "twin")


def test_without_the_fold_the_digest_differs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics that lost a source are missing, which the twin shows."""
    kept, _ = tell(world)
    monkeypatch.setattr(Forgetting, "fold", lambda self, tenant_id: None)
    fence_and_run(world)
    twin = twin_of(world, kept, tmp_path / "twin")
    twin.compact()

    assert world.digest()["artifacts"] != twin.digest()["artifacts"]
    twin.close()


def test_without_the_purge_sealed_bytes_stay_in_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed pages and the log still hold the sealed entries: a scan for those finds them, and none after a purge."""
    _, gone = tell(world)
    kernel = world.house.lethe.kernel
    with kernel.database.read() as connection:
        bodies = connection.scalars(
            sa.select(entries.c.body).where(entries.c.id.in_([one.entry_id for one in gone]))
        )
        sealed = {body[:32]: "sealed body" for body in bodies}
    monkeypatch.setattr(world.house.lethe.forgetting, "purges", {})
    fence_and_run(world)
    assert scan(world.house.data, sealed)

    kernel.database.purge(CONTENT_TABLES)
    assert not scan(world.house.data, sealed)


def test_keeping_the_old_word_index_fails_the_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms and statistics of what went would stay in it: the store counts them."""
    tell(world)

    def keep(self: Indexes, tenant_id: Any, state: State, folder: Path) -> int:
        live = self._live[tenant_id]
        live.words.link_to(folder)
        return live.words.num_docs()

    monkeypatch.setattr(Indexes, "_write_words", keep)
    view = fence_and_run(world)

    assert view.state == "failed" and "index" in view.error["detail"]


def test_removing_rows_from_the_word_index_is_not_enough(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are only marked as deleted still weigh in the statistics: the store counts them, too."""
    _, gone = tell(world)
    world.tell(plain(8))

    def keep(self: Indexes, tenant_id: Any, state: State, folder: Path) -> int:
        live = self._live[tenant_id]
        live.words.remove([one.entry_id for one in gone])
        live.words.commit()
        live.words.link_to(folder)
        return live.words.num_docs()

    monkeypatch.setattr(Indexes, "_write_words", keep)
    assert fence_and_run(world).state == "failed"


def test_an_old_segment_left_behind_fails_the_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No manifest names it, no store counts it: the scan finds the vectors in it, each time it is tried."""
    tell(world)
    with monkeypatch.context() as broken:
        broken.setattr(Indexes, "_delete_unnamed", lambda self, tenant_id: None)
        view = fence_and_run(world)
        assert view.state == "failed" and ".segment" in view.error["detail"]
        fence_and_run(world)
        assert world.house.lethe.get_forget(TENANT, view.id).state == "failed"
    fence_and_run(world)

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"


def test_a_segment_that_is_not_rewritten_fails_the_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest still names the old file: the store counts its rows."""
    tell(world)
    monkeypatch.setattr(Indexes, "_replace", lambda self, tenant_id, live, *, anew: None)
    view = fence_and_run(world)

    assert view.state == "failed" and "index" in view.error["detail"]
