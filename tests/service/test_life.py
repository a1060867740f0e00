"""From start to stop: rebuilding, restarting, another model, and what a hard end left behind."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedding.encoder import TextEncoder
from memory.errors import ConflictError, CorruptionError, LetheError, UnavailableError
from memory.journal import list_entry_ids
from memory.kernel import Kernel
from memory.tables import artifacts, edges, entries, jobs
from memory.values import EntryId, SourceId
from service.heartbeat import keep_leased
from service.views import Scope
from service.wiring import load_root_key, lock_data_folder
from service.work import REBUILD
from tests.service.harness import TENANT, House, text_content
from tests.tiny import build_tiny_encoder

SECOND = 1_000_000


def fill(house: House) -> None:
    for number in range(8):
        house.clock.now_us += SECOND
        house.remember(f"The ferry story {number} of the harbour.", external_id=f"d{number % 6}")
    house.clock.now_us += SECOND
    house.lethe.forget(TENANT, Scope(external_ids=("d2",)), preview=False)
    house.waker.drain()


def test_a_restart_and_a_rebuild_change_nothing(house: House) -> None:
    fill(house)
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    digest, found = house.digest(), house.found("ferry story")
    assert len(found) == 5

    house.restart()
    assert house.waker.drain() == 0
    assert (house.digest(), house.found("ferry story")) == (digest, found)

    job = house.lethe.rebuild(TENANT)
    house.waker.drain()
    assert house.lethe.get_job(TENANT, job.id).status == "done"
    assert (house.digest(), house.found("ferry story")) == (digest, found)


def test_everything_derived_comes_back_from_the_journal(house: House) -> None:
    fill(house)
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    digest, found = house.digest(), house.found("ferry story")
    with house.lethe.kernel.database.write() as connection:
        connection.execute(artifacts.delete())
        connection.execute(edges.delete())
    house.lethe.stop()
    shutil.rmtree(house.data / "index")
    house.open()
    assert house.found("ferry story") == []

    house.lethe.rebuild(TENANT)
    house.waker.drain()

    assert (house.digest(), house.found("ferry story")) == (digest, found)


def test_a_rebuild_leaves_alone_what_comes_meanwhile(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry ingested between the rebuild's first look and its last step keeps what was made of it."""
    fill(house)
    late: list[str] = []
    derive_again = house.lethe.work._derive_again

    def derive_and_remember(tenant_id: object, entry_ids: object, untold: object) -> set[str]:
        wanted = derive_again(tenant_id, entry_ids, untold)  # type: ignore[arg-type]
        if not late:
            (item,) = house.lethe.remember(TENANT, [text_content("The ferry story that came late.")])
            late.append(item.source_id)
            house.lethe.work.run(item.job.id)
        return wanted

    monkeypatch.setattr(house.lethe.work, "_derive_again", derive_and_remember)
    job = house.lethe.rebuild(TENANT)
    house.lethe.work.run(job.id)
    assert house.lethe.get_job(TENANT, job.id).status == "done"
    house.restart()
    assert late[0] in {source for source, _, _ in house.found("ferry story")}


def test_another_model_is_followed_at_the_next_start(house: House, tmp_path: Path) -> None:
    """Also while other work waits; nothing of the old model stays."""
    fill(house)
    texts = {text for _, text, _ in house.found("ferry story")}
    house.lethe.remember(TENANT, [text_content("The ferry story that waits.")])
    house.lethe.stop()
    house.encoder = TextEncoder(build_tiny_encoder(tmp_path / "model", seed=7, dimension=16), name="other")

    house.open()
    assert house.lethe.kernel.jobs.count_open(TENANT).get(REBUILD) == 1
    house.waker.drain()

    assert {text for _, text, _ in house.found("ferry story")} == texts | {"The ferry story that waits."}
    digest = house.digest()
    house.restart()
    assert house.waker.drain() == 0
    assert house.digest() == digest
    with house.lethe.kernel.database.read() as connection:
        stored = connection.execute(
            sa.select(artifacts.c.recipe, sa.func.count()).group_by(artifacts.c.recipe)
        ).all()
        counts = {row[0]: row[1] for row in stored}
        entries = len(list_entry_ids(connection, TENANT))
        names = set(connection.scalars(sa.select(artifacts.c.name)))
        inputs = set(connection.scalars(sa.select(edges.c.input)))
    assert {counts["parse"], counts["vectors"], counts["nodes"]} == {entries}
    assert inputs <= names | {*entry_ids(house.lethe.kernel)}


def entry_ids(kernel: Kernel) -> list[EntryId]:
    with kernel.database.read() as connection:
        return list_entry_ids(connection, TENANT)


def test_keys_without_an_entry_are_collected(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what a process leaves that ended between a key and its entry.

    At the next start where there is one process; where there are several, once no request can stand behind them.
    """
    monkeypatch.setattr("service.lethe.ORPHAN_SECONDS", 0.2)
    monkeypatch.setattr("service.lethe.TEND_SECONDS", 0.05)
    fill(house)
    before = house.digest()["keys"]
    house.lethe.kernel.vault.create_keys(TENANT, {EntryId("f" * 32): ("person:mara",)})
    assert house.digest()["keys"] != before
    house.restart()
    late = time.monotonic() + 10 * house.lethe.kernel.database.is_shared
    while house.digest()["keys"] != before and time.monotonic() < late:
        time.sleep(0.05)
    assert house.digest()["keys"] == before
    assert len(house.found("ferry story")) == 5


def test_a_damaged_segment_is_made_again_from_the_ledger(house: House) -> None:
    fill(house)
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    digest, found = house.digest(), house.found("ferry story")
    house.lethe.stop()
    segments = sorted((house.data / "index" / TENANT).glob("*.segment"))
    wholes = [segment.read_bytes() for segment in segments]
    for segment, whole in zip(segments, wholes, strict=True):
        segment.write_bytes(whole[:-40] + bytes(40))
    house.open()
    assert house.found("ferry story") == found
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    assert house.digest() == digest
    assert [segment.read_bytes() for segment in segments] == wholes


def test_an_altered_entry_is_corruption_and_says_nothing(house: House) -> None:
    source = house.remember("The ferry.", external_id="f")
    with house.lethe.kernel.database.write() as connection:
        connection.execute(entries.update().values(header=bytes(60)))
    with pytest.raises(CorruptionError):
        house.lethe.get_source(TENANT, SourceId(source))


def test_a_data_folder_is_served_once(tmp_path: Path) -> None:
    lock_data_folder(tmp_path)
    with pytest.raises(ConflictError, match="another process serves"):
        lock_data_folder(tmp_path)


def test_a_root_key_is_made_once_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.key"
    key = load_root_key(path)
    assert (len(key), load_root_key(path), path.stat().st_mode & 0o777) == (32, key, 0o600)
    path.write_bytes(key[:-1])
    with pytest.raises(CorruptionError):
        load_root_key(path)


def test_leases_are_renewed_while_the_work_runs(house: House) -> None:
    """Also after the database was away for a beat."""
    jobs_ = house.lethe.kernel.jobs
    with house.lethe.kernel.database.write() as connection:
        (job,) = jobs_.add(connection, TENANT, "fold", [""])
    mine = jobs_.claim(job.id)
    assert mine is not None
    renewed = threading.Event()
    house.clock.now_us += 100 * SECOND
    extend = jobs_.extend
    failures: list[LetheError] = [UnavailableError("the database is away")]

    def watch(*args: object) -> None:
        if failures:
            raise failures.pop()
        extend(*args)  # type: ignore[arg-type]
        renewed.set()

    jobs_.extend = watch  # type: ignore[method-assign, assignment]
    with keep_leased(jobs_, [mine], beat_seconds=0.01):
        assert renewed.wait(10)
    house.clock.now_us += 100 * SECOND
    assert jobs_.list_due(5) == []
    with house.lethe.kernel.database.read() as connection:
        assert connection.scalar(sa.select(jobs.c.status).where(jobs.c.id == job.id)) == "running"
