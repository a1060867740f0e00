"""Memory and CPU time of process trees, as Linux's /proc tells them.

Trees have names. A named process that runs below another one belongs to its own tree alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

PROC = Path("/proc")


def find_trees(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the processes at and below each root, by the root's name."""
    below: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        fields = _stat(int(folder.name)) if folder.name.isdecimal() else None
        if fields is not None:
            below.setdefault(int(fields[1]), []).append(int(folder.name))
    named = set(roots.values())

    def walk(pid: int) -> list[int]:
        return [pid, *(deep for child in below.get(pid, []) if child not in named for deep in walk(child))]

    return {name: walk(pid) for name, pid in roots.items()}


def memory_mib(pids: Sequence[int], *, shared: bool = False) -> float:
    """Return the resident memory of processes.

    With ``shared`` each page counts once however many of them map it (proportional set size): PostgreSQL's
    buffers are resident in every backend that touched them, and a plain sum would grow as backends warm up.
    """
    return sum((_proportional_kib(pid) if shared else _resident_kib(pid)) for pid in pids) / 1024


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that processes, and those of their children that ended, have used."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def reset_peak() -> None:
    """Have ``peak_mib`` count from now on."""
    (PROC / "self" / "clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """Return the highest resident memory of this process since ``reset_peak``, or ever."""
    lines = (PROC / "self" / "status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024, 1)


def growth_ratio(samples: Sequence[tuple[float, float]], window: float) -> float:
    """Return the mean of a series of (time, value) in its last ``window`` over that in its first one."""
    first = [value for at, value in samples if at <= samples[0][0] + window]
    last = [value for at, value in samples if at >= samples[-1][0] - window]
    return (sum(last) / len(last)) / (sum(first) / len(first))


def _stat(pid: int) -> list[str] | None:
    """Return a process's fields from its state on; None when it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _resident_kib(pid: int) -> float:
    try:
        pages = int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def _proportional_kib(pid: int) -> float:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)
