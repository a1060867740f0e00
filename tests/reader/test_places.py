"""Places are few: each gets its turn, the queue has an end, and who goes makes room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import REGISTRY

from memory.asking import asked_by, while_there
from memory.errors import BusyError, LeftError
from reader.places import Places


class Crowd:
    """Threads that come for places, one after another; the order in which they got them."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.threads = ThreadPoolExecutor(20)
        self.order: list[str] = []
        self.go = threading.Semaphore(0)

    def come(self, name: str, gone: threading.Event | None = None) -> Future[None]:
        """Come as a party, the name's first letter; return once in or waiting, or refused."""

        def hold() -> None:
            with asked_by(name[0]), while_there(gone or threading.Event()), self.places.take():
                self.order.append(name)
                assert self.go.acquire(timeout=10)

        before = self.count(name[0])
        future = self.threads.submit(hold)
        until(lambda: future.done() or self.count(name[0]) > before)
        return future

    def count(self, party: str) -> int:
        waiting = sum(ticket.party == party for ticket in self.places._queue)
        return waiting + self.places._held[party]

    def finish(self) -> None:
        for _ in range(20):
            self.go.release()
        self.threads.shutdown()


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def gauge(state: str) -> Any:
    return REGISTRY.get_sample_value("lethe_readings", {"state": state})


def test_one_request_does_not_wait_for_anothers_fifty() -> None:
    crowd = Crowd(Places(1, waiting=10))
    for name in ("a1", "a2", "a3", "a4", "b1", "a5", "b2", "c1"):
        crowd.come(name)
    assert (gauge("active"), gauge("waiting")) == (1, 7)

    crowd.finish()

    assert crowd.order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4", "a5"]
    assert (gauge("active"), gauge("waiting")) == (0, 0)
    assert not crowd.places._turns


def test_who_holds_few_places_is_next() -> None:
    crowd = Crowd(Places(3, waiting=10))
    for name in ("a1", "b1", "a2", "a3", "b2"):
        crowd.come(name)
    crowd.go.release()  # one of the three goes
    until(lambda: len(crowd.order) == 4)
    crowd.finish()
    assert crowd.order[:3] == ["a1", "b1", "a2"]
    assert set(crowd.order[3:]) == {"a3", "b2"}


def test_a_full_queue_refuses_who_fills_it() -> None:
    """The last of the many goes for the first of another; one's own queue has an end, too."""
    refused = REGISTRY.get_sample_value("lethe_readings_refused_total")
    assert refused is not None
    crowd = Crowd(Places(1, waiting=2))
    waiting = [crowd.come(name) for name in ("a1", "a2", "a3", "a4")]
    with pytest.raises(BusyError, match="1 answers are being written and 2 wait already") as caught:
        waiting[3].result(10)
    assert caught.value.retry_after_seconds >= 1

    crowd.come("b1")

    with pytest.raises(BusyError):
        waiting[2].result(10)
    crowd.finish()
    assert crowd.order == ["a1", "b1", "a2"]
    assert REGISTRY.get_sample_value("lethe_readings_refused_total") == refused + 2


def test_no_queue_refuses_at_once() -> None:
    crowd = Crowd(Places(1, waiting=0))
    crowd.come("a1")
    with pytest.raises(BusyError):
        crowd.come("b1").result(10)
    crowd.finish()


def test_who_has_gone_no_longer_waits() -> None:
    crowd = Crowd(Places(1, waiting=2))
    gone = threading.Event()
    crowd.come("a1")
    left = crowd.come("b1", gone)
    crowd.come("c1")

    gone.set()

    with pytest.raises(LeftError):
        left.result(10)
    crowd.finish()
    assert crowd.order == ["a1", "c1"]
