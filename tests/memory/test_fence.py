"""The fence: a forget passes alone, and those who come while it waits queue behind it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory.errors import UnavailableError
from memory.fence import InProcessFence, shared
from tests.memory.harness import OTHER, TENANT

SOON, LATE = 0.05, 10.0


def test_shared_holds_pass_together() -> None:
    fence = InProcessFence()
    with shared(fence, TENANT), shared(fence, TENANT, timeout_seconds=SOON):
        pass


def test_a_forget_waits_for_readers_and_says_when_they_take_too_long() -> None:
    fence = InProcessFence()
    with (
        shared(fence, TENANT),
        pytest.raises(UnavailableError),
        fence.exclusive(TENANT, timeout_seconds=SOON),
    ):
        pytest.fail("passed beside a reader")
    with fence.exclusive(TENANT, timeout_seconds=SOON):
        pass


def test_readers_wait_for_a_forget_and_say_when_it_takes_too_long() -> None:
    fence = InProcessFence()
    with fence.exclusive(TENANT), pytest.raises(UnavailableError):
        fence.acquire_shared(TENANT, timeout_seconds=SOON)
    with (
        fence.exclusive(TENANT),
        pytest.raises(UnavailableError),
        fence.exclusive(TENANT, timeout_seconds=SOON),
    ):
        pytest.fail("two forgets at once")
    with shared(fence, TENANT, timeout_seconds=SOON):
        pass


def test_tenants_do_not_wait_for_each_other() -> None:
    fence = InProcessFence()
    with fence.exclusive(TENANT), shared(fence, OTHER, timeout_seconds=SOON), shared(fence, OTHER):
        pass


def test_a_failing_forget_gives_the_fence_back() -> None:
    fence = InProcessFence()
    with pytest.raises(ZeroDivisionError), fence.exclusive(TENANT):
        raise ZeroDivisionError
    with fence.exclusive(TENANT, timeout_seconds=SOON):
        pass


def test_a_waiting_forget_goes_before_new_readers() -> None:
    """Else a stream of readers would starve it."""
    fence = InProcessFence()
    order: list[str] = []
    fence.acquire_shared(TENANT)

    def forget() -> None:
        with fence.exclusive(TENANT, timeout_seconds=LATE):
            order.append("forget")

    def read() -> None:
        with shared(fence, TENANT, timeout_seconds=LATE):
            order.append("read")

    with ThreadPoolExecutor(2) as pool:
        forgetting = pool.submit(forget)
        deadline = time.monotonic() + LATE
        while not fence._gate(TENANT).waiting and time.monotonic() < deadline:
            time.sleep(0.001)
        with pytest.raises(UnavailableError):
            fence.acquire_shared(TENANT, timeout_seconds=SOON)
        reading = pool.submit(read)
        assert order == []
        fence.release_shared(TENANT)
        forgetting.result(LATE)
        reading.result(LATE)
    assert order == ["forget", "read"]


def test_a_forget_that_gave_up_holds_no_reader_back() -> None:
    fence = InProcessFence()
    with shared(fence, TENANT):
        with pytest.raises(UnavailableError), fence.exclusive(TENANT, timeout_seconds=SOON):
            pass
        with shared(fence, TENANT, timeout_seconds=SOON):
            pass


def test_a_shared_hold_may_end_in_another_thread() -> None:
    """A streamed body is begun and ended by different threads."""
    fence = InProcessFence()
    fence.acquire_shared(TENANT)
    ending = threading.Thread(target=fence.release_shared, args=(TENANT,))
    ending.start()
    ending.join()
    with fence.exclusive(TENANT, timeout_seconds=SOON):
        pass


def test_nobody_is_ever_beside_a_forget() -> None:
    fence = InProcessFence()
    inside = {"readers": 0, "forgets": 0}
    guard = threading.Lock()
    wrong: list[dict[str, int]] = []

    def enter(who: str) -> None:
        with guard:
            inside[who] += 1
            if inside["forgets"] and sum(inside.values()) > 1:
                wrong.append(dict(inside))
        time.sleep(0)
        with guard:
            inside[who] -= 1

    def work(number: int) -> None:
        for _ in range(50):
            if number < 2:
                with fence.exclusive(TENANT):
                    enter("forgets")
            else:
                with shared(fence, TENANT):
                    enter("readers")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert wrong == []
