"""Jobs: one claimant at a time, old tokens change nothing, and only what may pass is retried."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from memory.errors import NotFoundError
from memory.jobs import BACKOFF_SECONDS, LEASE_SECONDS, MAX_ATTEMPTS, MAX_CRASHES, Job
from memory.kernel import Kernel
from tests.memory.harness import OTHER, TENANT, Ticks


def add(kernel: Kernel, *targets: str, kind: str = "ingest", tenant: Any = TENANT) -> list[Job]:
    with kernel.database.write() as connection:
        return kernel.jobs.add(connection, tenant, kind, targets)


def finish(kernel: Kernel, *claimed: Job) -> None:
    with kernel.database.write() as connection:
        kernel.jobs.finish(connection, claimed)


def ticks(kernel: Kernel) -> Ticks:
    assert isinstance(kernel.clock, Ticks)
    return kernel.clock


def status(kernel: Kernel, job: Job) -> str:
    return kernel.jobs.get(TENANT, job.id).status


def test_a_job_has_one_claimant_however_many_ask(kernel: Kernel) -> None:
    (job,) = add(kernel, "e")
    barrier = threading.Barrier(8)

    def claim() -> Job | None:
        barrier.wait()
        return kernel.jobs.claim(job.id)

    with ThreadPoolExecutor(8) as pool:
        claimed = [future.result() for future in [pool.submit(claim) for _ in range(8)]]

    (mine,) = [found for found in claimed if found is not None]
    assert (mine.status, mine.attempts, mine.target) == ("running", 1, "e")


def test_batches_share_nothing_and_leave_nothing(kernel: Kernel) -> None:
    made = add(kernel, *(f"e{i}" for i in range(40)))
    add(kernel, "f", tenant=OTHER)
    add(kernel, "g", kind="fold")

    def claim(_: int) -> list[Job]:
        return kernel.jobs.claim_batch(TENANT, "ingest", 7)

    with ThreadPoolExecutor(6) as pool:
        batches = list(pool.map(claim, range(6)))

    ids = [job.id for batch in batches for job in batch]
    assert sorted(ids) == sorted(job.id for job in made)
    assert max(len(batch) for batch in batches) == 7


def test_batches_are_taken_oldest_first(kernel: Kernel) -> None:
    made: list[Job] = []
    for name in "abc":
        made += add(kernel, name)
        ticks(kernel).pass_seconds(1)
    assert [job.target for job in kernel.jobs.claim_batch(TENANT, "ingest", 2)] == ["a", "b"]
    assert kernel.jobs.list_due(5) == [made[2].id]


def test_a_lease_that_ran_out_is_claimed_again_and_the_old_token_changes_nothing(kernel: Kernel) -> None:
    (job,) = add(kernel, "e")
    first = kernel.jobs.claim(job.id)
    assert first is not None
    ticks(kernel).pass_seconds(LEASE_SECONDS)
    assert kernel.jobs.claim(job.id) is None
    assert kernel.jobs.list_due(5) == []
    ticks(kernel).pass_seconds(0.001)
    assert kernel.jobs.list_due(5) == [job.id]
    second = kernel.jobs.claim(job.id)
    assert second is not None
    assert (second.attempts, second.lease_token == first.lease_token) == (2, False)

    finish(kernel, first)
    kernel.jobs.fail([first], {"title": "late"}, retry=False)
    kernel.jobs.extend([first], 0.7)

    now = kernel.jobs.get(TENANT, job.id)
    assert (now.status, now.progress, now.error) == ("running", 0.0, None)
    ticks(kernel).pass_seconds(LEASE_SECONDS + 1)
    assert kernel.jobs.list_due(5) == [job.id], "the old token's heartbeat kept the lease alive"
    finish(kernel, second)
    assert status(kernel, job) == "done"
    assert kernel.jobs.claim(job.id) is None


def test_a_heartbeat_keeps_the_lease(kernel: Kernel) -> None:
    (job,) = add(kernel, "e")
    mine = kernel.jobs.claim(job.id)
    assert mine is not None
    for _ in range(3):
        ticks(kernel).pass_seconds(LEASE_SECONDS * 0.9)
        kernel.jobs.extend([mine], 0.5)
        assert kernel.jobs.list_due(5) == []
    assert kernel.jobs.get(TENANT, job.id).progress == 0.5


def test_what_is_retried_waits_longer_each_time_and_then_is_dead(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = len(BACKOFF_SECONDS) + 2
    monkeypatch.setattr("memory.jobs.MAX_ATTEMPTS", most)
    (job,) = add(kernel, "e")
    for attempt in range(1, most + 1):
        mine = kernel.jobs.claim(job.id)
        assert mine is not None
        assert mine.attempts == attempt
        kernel.jobs.fail([mine], {"title": "away"}, retry=True)
        if attempt == most:
            break
        assert status(kernel, job) == "queued"
        ticks(kernel).pass_seconds(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS)) - 1] - 0.001)
        assert kernel.jobs.claim(job.id) is None
        assert kernel.jobs.list_due(5) == []
        ticks(kernel).pass_seconds(0.001)
        assert kernel.jobs.list_due(5) == [job.id]
    dead = kernel.jobs.get(TENANT, job.id)
    assert (dead.status, dead.error) == ("dead", {"title": "away"})
    ticks(kernel).pass_seconds(10_000)
    assert kernel.jobs.list_due(5) == []
    assert kernel.jobs.claim(job.id) is None


def test_what_is_not_retried_has_failed_at_once(kernel: Kernel) -> None:
    (job,) = add(kernel, "e")
    mine = kernel.jobs.claim(job.id)
    assert mine is not None
    kernel.jobs.fail([mine], {"title": "wrong"}, retry=False)
    assert status(kernel, job) == "failed"
    assert kernel.jobs.claim(job.id) is None


def test_a_job_that_ends_its_workers_is_dead_and_a_forget_never_is(kernel: Kernel) -> None:
    """A worker that is killed says nothing: only that its lease ran out tells."""
    (poison,), (forget,) = add(kernel, "e"), add(kernel, "f", kind="forget", tenant=OTHER)
    for _ in range(MAX_CRASHES + 3):
        kernel.jobs.claim(poison.id)
        assert kernel.jobs.claim(forget.id) is not None
        ticks(kernel).pass_seconds(LEASE_SECONDS + 1)
    dead = kernel.jobs.get(TENANT, poison.id)
    assert (dead.status, dead.attempts) == ("dead", MAX_CRASHES)
    assert dead.error is not None and "workers ended while at it" in str(dead.error["detail"])


def test_what_waits_for_an_engine_for_hours_is_not_given_up_and_goes_with_others(kernel: Kernel) -> None:
    """An outage passes through all that is queued many times; a worker that ends then is no reason, either."""
    add(kernel, "a", "b")
    for _ in range(MAX_CRASHES * 3):
        kernel.jobs.fail(kernel.jobs.claim_batch(TENANT, "ingest", 9), {"title": "away"}, retry=True)
        ticks(kernel).pass_seconds(BACKOFF_SECONDS[-1] + 1)
    first = kernel.jobs.claim_next()
    assert first is not None and first.crashes == 0
    assert len(kernel.jobs.claim_batch(TENANT, "ingest", 9)) == 1
    ticks(kernel).pass_seconds(LEASE_SECONDS + 1)
    again = kernel.jobs.claim_next()
    assert again is not None and again.crashes == 1
    assert BACKOFF_SECONDS[-1] * MAX_ATTEMPTS > 80_000, "about a day"


def test_what_was_tried_before_takes_no_others_with_it(kernel: Kernel) -> None:
    made = add(kernel, "a", "b", "c")
    assert kernel.jobs.claim(made[0].id) is not None
    ticks(kernel).pass_seconds(LEASE_SECONDS + 1)
    assert [job.id for job in kernel.jobs.claim_batch(TENANT, "ingest", 9)] == [job.id for job in made[1:]]


def test_tenants_take_turns_and_forgets_come_first(kernel: Kernel) -> None:
    """Without turns the small tenant would wait for all of the other's bulk load."""
    bulk = add(kernel, *(f"e{i}" for i in range(20)))
    ticks(kernel).pass_seconds(1)
    (small,) = add(kernel, "x", tenant=OTHER)
    (forget,) = add(kernel, "f", kind="forget")
    order = []
    for _ in range(4):
        mine = kernel.jobs.claim_next()
        assert mine is not None
        order.append(mine.id)
        finish(kernel, mine)
    assert order == [forget.id, small.id, bulk[0].id, bulk[1].id]


def test_a_tenants_forgets_run_one_at_a_time(kernel: Kernel) -> None:
    """Each waits for the one before: claimed too early it would be put off, for longer each time."""
    first, second = add(kernel, "f1", "f2", kind="forget")
    add(kernel, "theirs", kind="forget", tenant=OTHER)
    running = kernel.jobs.claim(first.id)
    assert running is not None
    assert kernel.jobs.claim(second.id) is None
    theirs = kernel.jobs.claim_next()
    assert theirs is not None and theirs.target == "theirs"
    assert kernel.jobs.claim_next() is None
    assert kernel.jobs.list_due(5) == []

    finish(kernel, running)
    following = kernel.jobs.claim_next()
    assert following is not None and (following.id, following.attempts) == (second.id, 1)
    ticks(kernel).now_us += (LEASE_SECONDS + 1) * 1_000_000
    assert kernel.jobs.claim(second.id) is not None, "one whose worker ended is under way no more"


def test_the_tenant_with_less_under_way_comes_first(kernel: Kernel) -> None:
    add(kernel, *(f"e{i}" for i in range(5)))
    first = kernel.jobs.claim_next()
    add(kernel, "x", "y", tenant=OTHER)
    second, third, fourth = (kernel.jobs.claim_next() for _ in range(3))
    held = [job.tenant_id for job in (first, second, third, fourth) if job is not None]
    assert held == [TENANT, OTHER, TENANT, OTHER]
    assert kernel.jobs.claim_next() is not None
    for _ in range(3):
        kernel.jobs.claim_next()
    assert kernel.jobs.claim_next() is None


def test_what_ended_badly_can_be_tried_again_and_what_waits_cancelled(kernel: Kernel) -> None:
    bad, waiting, done = add(kernel, "a", "b", "c")
    mine, ended = kernel.jobs.claim(bad.id), kernel.jobs.claim(done.id)
    assert mine is not None and ended is not None
    finish(kernel, ended)
    kernel.jobs.fail([mine], {"title": "wrong"}, retry=False)
    with kernel.database.write() as connection:
        assert kernel.jobs.retry(connection, bad)
        assert not kernel.jobs.retry(connection, waiting)
        assert not kernel.jobs.retry(connection, done)
        assert kernel.jobs.cancel(connection, waiting)
        assert not kernel.jobs.cancel(connection, done)
    again = kernel.jobs.claim(bad.id)
    assert again is not None and again.attempts == 1
    assert [status(kernel, job) for job in (waiting, done)] == ["cancelled", "done"]


def test_work_for_what_was_forgotten_is_cancelled_even_while_it_runs(kernel: Kernel) -> None:
    queued, running, done, other = add(kernel, "a", "b", "c", "d")
    mine, ended = kernel.jobs.claim(running.id), kernel.jobs.claim(done.id)
    assert mine is not None
    assert ended is not None
    finish(kernel, ended)
    with kernel.database.write() as connection:
        kernel.jobs.cancel_targets(connection, ["a", "b", "c"])
    finish(kernel, mine)
    assert [status(kernel, job) for job in (queued, running, done, other)] == [
        "cancelled",
        "cancelled",
        "done",
        "queued",
    ]


def test_add_once_queues_one_but_not_instead_of_a_running_one(kernel: Kernel) -> None:
    """What runs may have begun before the change that asks for it."""
    with kernel.database.write() as connection:
        first = kernel.jobs.add_once(connection, TENANT, "fold")
        assert first is not None
        assert kernel.jobs.add_once(connection, TENANT, "fold") is None
        assert kernel.jobs.add_once(connection, OTHER, "fold") is not None
    assert kernel.jobs.claim(first.id) is not None
    with kernel.database.write() as connection:
        assert kernel.jobs.add_once(connection, TENANT, "fold") is not None
    assert kernel.jobs.count_open(TENANT) == {"fold": 2}
    assert kernel.jobs.count_open() == {"fold": 3}


def test_a_job_is_its_tenants_own(kernel: Kernel) -> None:
    (job,) = add(kernel, "e")
    with pytest.raises(NotFoundError):
        kernel.jobs.get(OTHER, job.id)
    found = kernel.jobs.find(job.id)
    assert found is not None
    assert found.tenant_id == TENANT


def test_pages_cover_every_job_once_newest_first(kernel: Kernel) -> None:
    """Also those queued in the same microsecond."""
    for names in ("abc", "de"):
        add(kernel, *names)
        ticks(kernel).pass_seconds(1)
    seen: list[Job] = []
    after = None
    while page := kernel.jobs.list_page(TENANT, after, 2):
        seen += page
        after = (page[-1].created_us, page[-1].id)
    assert {job.target for job in seen[:2]} == {"d", "e"}
    assert sorted(job.target for job in seen) == list("abcde")


def test_release_all_takes_back_every_lease(kernel: Kernel) -> None:
    made = add(kernel, "a", "b")
    assert kernel.jobs.claim(made[0].id) is not None
    assert kernel.jobs.release_all() == 1
    assert len(kernel.jobs.list_due(5)) == 2
