"""Memory that was freed goes back to the system, not at every turn."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from bench.processes import memory_mib
from service import trimming
from service.trimming import Trimmer

BLOCK = 4096
COUNT = 50_000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason=f"no glibc on {sys.platform}")
def test_what_lies_free_between_what_does_not_is_given_back() -> None:
    # Small blocks with one that stays at the end: the heap cannot shrink by itself.
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    held = memory_mib([os.getpid()])
    for block in blocks[:-1]:
        libc.free(block)

    assert Trimmer().trim()

    assert held - memory_mib([os.getpid()]) > 0.8 * BLOCK * COUNT / 2**20
    libc.free(blocks[-1])


def test_it_is_done_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmer, now = Trimmer(), [100.0]
    monkeypatch.setattr(trimming.time, "monotonic", lambda: now[0])
    done = [trimmer.trim()]
    for seconds in (1, 8.9, 0.2):
        now[0] += seconds
        done.append(trimmer.trim())
    assert done == [True, False, False, True]


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmer = Trimmer()
    monkeypatch.setattr(trimmer, "_trim", None)
    assert not trimmer.trim()
