"""Leases when the service stops: what runs may finish, what does not is given back, nothing new begins."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from memory.tables import jobs
from service import work
from tests.service.harness import TENANT, House, text_content


def row(house: House, job_id: str) -> sa.Row[tuple[object, ...]]:
    with house.lethe.kernel.database.read() as connection:
        return connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()


def run_slowly(house: House, monkeypatch) -> tuple[str, threading.Event, threading.Thread]:  # type: ignore[no-untyped-def]
    """Begin a job that goes on until the event is set."""
    begun, may_end = threading.Event(), threading.Event()
    derive = work.derive

    def derive_slowly(*given):  # type: ignore[no-untyped-def]
        begun.set()
        assert may_end.wait(30)
        return derive(*given)

    monkeypatch.setattr(work, "derive", derive_slowly)
    job_id = house.lethe.remember(TENANT, [text_content("Alice came to the tower.")])[0].job.id
    thread = threading.Thread(target=house.lethe.work.run, args=(job_id,))
    thread.start()
    assert begun.wait(30)
    return job_id, may_end, thread


def test_what_runs_may_finish(house: House, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    job_id, may_end, thread = run_slowly(house, monkeypatch)
    threading.Timer(0.2, may_end.set).start()

    assert house.lethe.work.leases.close(timeout_seconds=30) == []

    thread.join()
    assert row(house, job_id).status == "done"


def test_what_does_not_finish_is_given_back_and_its_thread_changes_nothing(house: House, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    job_id, may_end, thread = run_slowly(house, monkeypatch)
    assert row(house, job_id).attempts == 1

    left = house.lethe.work.leases.close(timeout_seconds=0.05)

    assert [job.id for job in left] == [job_id]
    given_back = row(house, job_id)
    assert (given_back.status, given_back.lease_token, given_back.attempts) == ("queued", None, 0)
    other = house.lethe.kernel.jobs.claim(job_id)
    assert other is not None, "another worker has it at once"
    may_end.set()
    thread.join()
    assert row(house, job_id).lease_token == other.lease_token
    assert row(house, job_id).status == "running", "the other's, not finished by the late one"


def test_nothing_begins_once_closed(house: House) -> None:
    house.lethe.work.leases.close(timeout_seconds=0)
    job_id = house.lethe.remember(TENANT, [text_content("Alice came to the tower.")])[0].job.id

    house.lethe.work.run(job_id)

    assert row(house, job_id).status == "queued"
    house.lethe.work.leases.open()
    house.lethe.work.run(job_id)
    assert row(house, job_id).status == "done"


def test_a_stopping_service_is_not_ready_and_a_started_one_is(house: House) -> None:
    house.lethe.drain()
    assert house.lethe.is_ready() == {"service": "stopping"}
    house.restart()
    assert house.lethe.is_ready() == {}
