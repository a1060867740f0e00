"""Crashes and crossings of forget jobs: whatever happens on the way, the end is the twin's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import unlearning.forget
from memory.jobs import LEASE_SECONDS
from memory.sqlite import SqliteDatabase
from memory.values import Attributes, Content
from memory.vault import TABLES
from service.forgetting import Forgetting
from service.index import Indexes
from service.index_store import IndexStore
from service.shelf_store import ShelfStore
from service.stores import CONTENT_TABLES, ArtifactStore, JournalStore, KeyStore
from service.views import Scope
from tests.faults.stories import (
    EXAMPLES,
    SECRET,
    STEP_US,
    TENANT,
    Told,
    World,
    assert_like_twin,
    chat,
    document,
    markdown,
    plain,
    secret,
)
from unlearning.certificate import verify_certificate
from unlearning.probes import build_needles

ALICE = Scope(subjects=("person:alice",))

STEPS: tuple[tuple[object, str, bool], ...] = (
    (unlearning.forget, "build_needles", False),
    (ArtifactStore, "erase", False),
    (ArtifactStore, "erase", True),
    (IndexStore, "erase", False),
    (Indexes, "_replace", False),
    (Indexes, "_replace", True),
    (IndexStore, "erase", True),
    (ShelfStore, "erase", False),
    (ShelfStore, "erase", True),
    (Forgetting, "fold", True),
    (unlearning.forget, "scan_residue", False),
    (unlearning.forget, "scan_residue", True),
    (JournalStore, "erase", False),
    (JournalStore, "erase", True),
    (KeyStore, "erase", True),
    (SqliteDatabase, "purge", False),
    (SqliteDatabase, "purge", True),
    (Forgetting, "_certify", False),
)


class Killed(BaseException):
    """What a process that is killed looks like from inside: no handler sees it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: bool) -> None:
    original = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if after:
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, dying)


def tell(world: World) -> tuple[list[Told], list[Told]]:
    kept = [world.tell(plain(1)), world.tell(chat(2, "tidebound"))]
    gone = [
        world.tell(secret(1)),
        world.tell(document(markdown(2, SECRET), "text/markdown", subjects=("person:alice",))),
    ]
    world.compact()
    kept.append(world.tell(plain(3)))
    world.read([*kept, *gone])
    return kept, gone


@pytest.mark.parametrize(
    "at", range(len(STEPS)), ids=[f"{s[1]}-{'after' if s[2] else 'before'}" for s in STEPS]
)
def test_a_killed_request_ends_certified_like_its_twin(
    at: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any step; the next process, or the sweeper after the lease, brings it to its end."""
    owner, name, after = STEPS[at]
    kept, gone = tell(world)
    passages = sum(len(rows) for rows in world.vectors_of(gone))
    view = world.house.lethe.forget(TENANT, ALICE, preview=False)
    forgetting = world.house.lethe.forgetting
    ids = [one.entry_id for one in gone]
    wanted = build_needles(forgetting.iter_texts(TENANT, ids), forgetting.iter_vectors(TENANT, ids))
    with monkeypatch.context() as deadly:
        kill_at(deadly, owner, name, after)
        if owner is SqliteDatabase:
            kernel = world.house.lethe.kernel
            vault: Any = kernel.vault
            purges = {
                "data": lambda: SqliteDatabase.purge(kernel.database, CONTENT_TABLES),  # type: ignore[arg-type]
                "keys": lambda: SqliteDatabase.purge(vault.database, TABLES),
            }
            deadly.setattr(forgetting, "purges", purges)
        with pytest.raises(Killed):
            world.house.waker.drain()
    assert not any(SECRET in text for _, text, _ in world.ranked())
    assert world.house.lethe.get_forget(TENANT, view.id).state not in ("certified", "failed")
    if at % 2:
        world.house.restart()
    else:
        world.house.clock.now_us += (LEASE_SECONDS + 1) * STEP_US
    world.house.waker.drain()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "certified"
    certificate: Any = world.house.lethe.get_certificate(TENANT, view.id)
    assert verify_certificate(certificate).valid
    told = certificate["payload"]["counts"]
    assert (told["entries"], told["passages"], told["keys"]) == (len(gone), passages, len(gone))
    assert told["artifacts"] >= 3 * len(gone)
    scanned = certificate["payload"]["scan"]
    assert scanned["needles"] + scanned["excluded"] == len(wanted.items), "the scan knew what to look for"
    assert world.find_read([*kept, *gone]) == {one.entry_id for one in kept}
    assert len(list((world.house.data / "kv" / TENANT).iterdir())) == len(kept)
    assert_like_twin(world, kept, tmp_path / "twin")


def test_overlapping_requests_are_certified_in_their_order(world: World, tmp_path: Path) -> None:
    """The later one means entries the earlier one has denied: it may not be certified before them."""
    kept = [world.tell(plain(1))]
    world.tell(secret(1, metadata={"case": "x"}))
    world.tell(document(f"Only by its case: the {SECRET} oar.", metadata={"case": "x"}))
    world.house.clock.now_us += STEP_US
    first = world.house.lethe.forget(TENANT, ALICE, preview=False)
    world.house.clock.now_us += STEP_US
    second = world.house.lethe.forget(TENANT, Scope(filter={"metadata.case": "x"}), preview=False)
    jobs = world.house.lethe.kernel.jobs.list_page(TENANT, None, 10)
    later = next(job for job in jobs if job.target == second.id)

    world.house.lethe.work.run(later.id)

    assert world.house.lethe.get_forget(TENANT, second.id).state == "fenced"
    world.house.waker.drain()
    assert world.house.lethe.get_forget(TENANT, first.id).state == "certified"
    world.pass_time()
    assert world.house.lethe.get_forget(TENANT, second.id).state == "certified"
    assert_like_twin(world, kept, tmp_path / "twin")


@pytest.mark.parametrize("name", ["note", None])
def test_told_again_while_it_is_being_forgotten(
    name: str | None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words in the midst of the erasure start fresh, as version 1, and survive it."""
    kept = [world.tell(plain(1))]
    world.tell(secret(1, external_id=name))
    erase = JournalStore.erase

    def erase_and_tell(self: JournalStore, tenant_id: Any, ids: Any) -> int:
        kept.append(world.tell(secret(1, external_id=name), drain=False))
        return erase(self, tenant_id, ids)

    with monkeypatch.context() as crossing:
        crossing.setattr(JournalStore, "erase", erase_and_tell)
        world.forget(ALICE)

    found = world.house.lethe.get_source(TENANT, kept[-1].source_id)
    assert found.version == 1 and SECRET in (found.text or "")
    assert any(SECRET in text for _, text, _ in world.ranked())
    world.compact()
    assert_like_twin(world, kept, tmp_path / "twin")


def test_words_that_survive_elsewhere_are_no_residue(world: World, tmp_path: Path) -> None:
    """The same PDF under another subject stays whole, and the request is certified all the same."""
    pdf = (EXAMPLES / "survey-solbris-BY-2604.pdf").read_bytes()
    kept = [world.tell(Content("document", "application/pdf", pdf, Attributes(subjects=("vessel:solbris",))))]
    world.tell(Content("document", "application/pdf", pdf, Attributes(subjects=("person:alice",))))
    world.compact()
    world.forget(ALICE)
    assert_like_twin(world, kept, tmp_path / "twin")


def test_a_tampered_certificate_is_refused(world: World) -> None:
    """Every value in a real certificate matters: change any, and it does not verify."""
    tell(world)
    certificate: Any = world.house.lethe.get_certificate(TENANT, world.forget(ALICE))
    assert verify_certificate(certificate).valid
    changed = 0
    for tampered in _tamper(certificate):
        assert not verify_certificate(tampered).valid
        changed += 1
    assert changed > 30


def _tamper(value: Any) -> Any:
    """Yield copies of a JSON value, each with one leaf changed or one member left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: changed} for changed in _tamper(inner))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield [*value[:at], *value[at + 1 :]]
            yield from ([*value[:at], changed, *value[at + 1 :]] for changed in _tamper(inner))
    elif isinstance(value, bool) or value is None:
        yield "other"
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, str):
        yield ("B" if value[:1] == "A" else "A") + value[1:]
