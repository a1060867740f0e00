"""How much memory an index takes, page cache included, and what of a removed vector is left in its files.

Counted: every page that the processes have of their own or share among themselves (proportional set size of
all mappings, memory shared with other programs by its share), except mappings of the index's own files; of
those files every page that the kernel holds in memory, mapped or not, is counted once (``mincore``). Before
an index is opened and again once it is open the cached pages of its files are dropped, so that what is
counted was held or read to answer queries, and not left over from writing or from reading once.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
TRACE = slice(100, 116)
"""The dimensions whose bytes are looked for: sixteen in a row are nobody else's by chance."""
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: in the processes, and cached of the index's files."""

    processes: int
    files: int

    @property
    def total(self) -> int:
        return self.processes + self.files


def read_memory(processes: Iterable[int], folder: Path, *, apart: Sequence[Path] = ()) -> Memory:
    """Return what an index takes whose files are in ``folder``; mapped files in ``apart`` do not count."""
    left_out = tuple(f"{each.resolve()}/" for each in (folder, *apart))
    return Memory(sum(_own_bytes(process, left_out) for process in processes), cached_bytes(folder))


def _own_bytes(process: int, left_out: tuple[str, ...]) -> int:
    """Return the proportional set size of a process; of mapped files left out only what it changed."""
    total, counted = 0, "Pss:"
    for line in _lines_about(process, "smaps"):
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # a mapping's first line: addresses, rights, offset, device, inode, path
            path = rest.split(maxsplit=4)
            counted = "Anonymous:" if len(path) == 5 and path[4].startswith(left_out) else "Pss:"
        elif name == counted:
            total += 1024 * int(rest.split()[0])
    return total


def _lines_about(process: int, name: str) -> list[str]:
    """Return the lines of a file of the process in /proc; none where it has ended meanwhile."""
    try:
        return Path(f"/proc/{process}/{name}").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cached_bytes(folder: Path) -> int:
    """Return how many bytes of the files under a folder the kernel holds in memory."""
    return sum(_cached_of(path) for path in files_under(folder))


def _cached_of(path: Path) -> int:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0
        with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
            pages = -(-size // mmap.PAGESIZE)
            resident = np.zeros(pages, dtype=np.uint8)
            view = np.frombuffer(mapped, dtype=np.uint8)
            failed = _libc.mincore(view.ctypes.data, size, resident.ctypes.data)
            del view  # else the map cannot be closed
            if failed:
                raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return int((resident & 1).sum()) * mmap.PAGESIZE


def drop_cache(folder: Path) -> None:
    """Write the files under a folder to disk and let the kernel forget those pages that nobody maps."""
    for path in files_under(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes(folder: Path) -> int:
    """Return the bytes of disk that the files under a folder take."""
    return sum(512 * path.stat().st_blocks for path in files_under(folder))


def files_under(folder: Path) -> list[Path]:
    """Return the regular files under a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


@contextmanager
def sample_anonymous(processes: Callable[[], Iterable[int]]) -> Iterator[list[int]]:
    """Yield a list that grows by the bytes of memory without a file behind it, five times a second."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(sum(map(_anonymous_bytes, processes())))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _anonymous_bytes(process: int) -> int:
    lines = _lines_about(process, "smaps_rollup")
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def find_traces(vectors: npt.NDArray[np.float32], folder: Path) -> list[str]:
    """Return the files under a folder that hold raw bytes of any of the vectors, single or half precision."""
    parts = [np.ascontiguousarray(vector[TRACE]) for vector in vectors]
    traces = [part.astype(kind).tobytes() for part in parts for kind in ("<f4", "<f2", ">f4")]
    found = []
    for path in files_under(folder):
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            if any(mapped.find(trace) >= 0 for trace in traces):
                found.append(str(path.relative_to(folder)))
    return found
