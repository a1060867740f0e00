"""A disk that is full, a folder that cannot be written, clocks that jump, and messages that come as they like."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedding.encoder import TextEncoder
from memory.errors import UnavailableError
from memory.jobs import Job
from service.index import Indexes
from service.work import COMPACT
from tests.faults.stories import (
    STEP_US,
    TENANT,
    World,
    assert_like_twin,
    document,
    open_world,
    plain,
    secret,
)
from tests.faults.test_crashes import ALICE, tell
from unlearning.certificate import verify_certificate
from unlearning.forget import find_unowned

DAY_US = 86_400 * STEP_US
SMALL_BYTES = 3 << 20


@dataclass
class Disk:
    """A small disk under ``folder``: a tmpfs where this process may mount one, else a limit of file size."""

    folder: Path
    is_mounted: bool
    _filler: Path | None = None

    def fill(self) -> None:
        """Leave no room for anything."""
        if not self.is_mounted:
            # Files may not grow beyond what the largest has now.
            largest = max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
            return
        self._filler = (
            self.folder / "data" / "lethe.db-journal"
        )  # of a name that is nobody else's in WAL mode
        with pytest.raises(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass

    def free(self) -> None:
        """Make room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self._filler is not None:
            self._filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield Disk(folder, mounted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path, encoder: TextEncoder) -> None:
    """Refused while it is full, work waits; with room again all of it is done."""
    with small_disk(tmp_path / "disk") as disk:
        world = open_world(disk.folder / "data", encoder)
        kept, _ = tell(world)
        kept.append(world.tell(plain(4), drain=False))  # to be worked on when there is no room
        world.house.lethe.work._queue(TENANT, COMPACT)
        disk.fill()
        with pytest.raises(UnavailableError):
            world.house.lethe.remember(TENANT, [document("Once upon a time. " * 200_000)])
        world.house.ids.given = []
        for _ in range(20):
            due = world.house.lethe.kernel.jobs.list_due(100)
            for _ in due:
                try:
                    world.house.lethe.work.run_next()
                except (UnavailableError, OSError):
                    continue
        assert world.house.lethe.recall(TENANT, "ferry", limit=9).hits, "it still answers"

        disk.free()
        for _ in range(4):
            world.pass_time()
        assert not world.house.lethe.kernel.jobs.count_open()
        request = world.forget(ALICE)
        assert verify_certificate(world.house.lethe.get_certificate(TENANT, request)).valid
        world.house.restart()
        world.house.waker.drain()
        world.compact()
        assert find_unowned(world.house.data, world.house.lethe.stores) == []
        assert_like_twin(world, kept, tmp_path / "twin")
        world.close()


def test_a_forget_on_a_full_disk_is_fenced_or_refused_and_ends_with_room(
    tmp_path: Path, encoder: TextEncoder
) -> None:
    """Rewriting needs room: the request waits for it, hidden, and fails for good never."""
    with small_disk(tmp_path / "disk") as disk:
        world = open_world(disk.folder / "data", encoder)
        kept, _ = tell(world)
        request = world.forget(ALICE, drain=False)
        disk.fill()
        for _ in range(3):
            try:
                world.house.lethe.work.run_next()
            except (UnavailableError, OSError):
                continue
        assert world.house.lethe.get_forget(TENANT, request).state != "certified"
        disk.free()
        for _ in range(4):
            world.pass_time()
        assert world.house.lethe.get_forget(TENANT, request).state == "certified"
        assert_like_twin(world, kept, tmp_path / "twin")
        world.close()


def test_a_read_only_folder_is_said_and_harms_nothing(tmp_path: Path, encoder: TextEncoder) -> None:
    with small_disk(tmp_path / "disk") as disk:
        world = open_world(disk.folder / "data", encoder)
        kept = [world.tell(plain(1))]
        world.house.lethe.stop()
        with (
            read_only(disk),
            pytest.raises((UnavailableError, OSError), match=r"(?i)read-?only|permission|unable to open"),
        ):
            world.house.open()
        world.house.open()
        world.compact()
        assert_like_twin(world, kept, tmp_path / "twin")
        world.close()


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    if disk.is_mounted:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
        return
    if os.geteuid() == 0:
        pytest.skip("root, who may write anything but mount nothing: there is no read-only folder here")
    paths = [disk.folder / "data", *(disk.folder / "data").rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & ~0o222)
    yield
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode)


@pytest.mark.parametrize("days", [-3, 3])
@pytest.mark.parametrize("at", ["_load", "_replace", "name_index"])
def test_a_clock_that_jumps_in_the_midst_of_jobs_changes_nothing(
    days: int, at: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days back or forth, in the midst of ingesting or forgetting, and back again later."""
    original = getattr(Indexes, at)
    jumps = [days * DAY_US]

    def jump(*args: Any, **kwargs: Any) -> Any:
        if jumps:
            world.house.clock.now_us += jumps.pop()
        return original(*args, **kwargs)

    kept, _ = tell(world)
    monkeypatch.setattr(Indexes, at, jump)
    request = world.forget(ALICE, drain=False)
    world.house.waker.drain()
    world.pass_time()
    world.house.clock.now_us -= days * DAY_US  # somebody set it right
    kept.append(world.tell(plain(5)))
    world.pass_time()
    assert world.house.lethe.get_forget(TENANT, request).state == "certified"
    assert not world.house.lethe.kernel.jobs.count_open()
    monkeypatch.undo()
    world.compact()
    assert_like_twin(world, kept, tmp_path / "twin")


def test_what_a_dead_worker_held_is_free_although_the_clock_was_set_back(world: World) -> None:
    """Its lease would else last for days."""
    world.tell(plain(1), drain=False)
    jobs = world.house.lethe.kernel.jobs
    (held,) = [jobs.claim(i) for i in jobs.list_due(9)]
    assert isinstance(held, Job)
    assert not jobs.list_due(9)
    world.house.clock.now_us -= 3 * DAY_US
    assert jobs.list_due(9) == [held.id]
    world.house.waker.drain()
    assert jobs.get(TENANT, held.id).status == "done"


@pytest.mark.parametrize("seed", range(4))
def test_deliveries_twice_and_in_any_order_change_nothing(seed: int, world: World, tmp_path: Path) -> None:
    """Messages are hints: the rows decide what is done, once."""
    rng = random.Random(seed)
    kept = [world.tell(plain(n), drain=False) for n in range(4)]
    world.tell(secret(1), drain=False)
    kept.append(world.tell(document("A later word.", external_id="w"), drain=False))
    kept.append(world.tell(document("The last word.", external_id="w"), drain=False))
    world.house.lethe.work._queue(TENANT, COMPACT)
    request = world.forget(ALICE, drain=False)
    lethe = world.house.lethe
    while due := lethe.kernel.jobs.list_due(100):
        deliveries = [*due, *due, *due]
        rng.shuffle(deliveries)
        for job_id in deliveries:
            lethe.work.run(job_id)
        if not lethe.kernel.jobs.list_due(1):
            world.house.clock.now_us += 40 * STEP_US
    world.pass_time()
    assert lethe.get_forget(TENANT, request).state == "certified"
    done = [job.attempts for job in lethe.kernel.jobs.list_page(TENANT, None, 100) if job.status == "done"]
    assert set(done) <= {1, 2}, "one attempt; two where it had to wait for another job"
    world.compact()
    assert_like_twin(world, kept, tmp_path / "twin")
