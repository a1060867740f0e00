"""What a process that parses denies itself before it reads a byte of anyone's.

Limits of the kernel hold for native code, too; the audit hook holds for Python code, on every system.
Where the kernel has no such limit, or allows this user none, the others stand. Nothing here knows a format.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import sys

MAX_OPEN_FILES = 32

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
_CAPABILITIES_VERSION_3 = 0x2008_0522

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
    "socket.",
    "subprocess.",
    "ctypes.dlopen",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "pty.",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.",
    "tempfile.",
    "sqlite3.",
)
"""Audit events (Python's documentation lists them) of what no parser needs."""


def confine(memory_bytes: int) -> None:
    """Give up the network, other processes, writing files, privileges, and memory beyond ``memory_bytes``.

    To be called when all modules are loaded and before any other thread runs. Cannot be undone.
    """
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _leave_kernel_rights()
    sys.dont_write_bytecode = True
    sys.addaudithook(_refuse)


def limit_processor_time(seconds: int) -> None:
    """Let the kernel end this process once it has computed so much longer."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(used.ru_utime + used.ru_stime) + seconds
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(kind: int, most: int) -> None:
    """Lower a limit for good; one that is lower already stays."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # Systems other than Linux know some of these limits by name only.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (most, most))


def _leave_kernel_rights() -> None:
    """Enter an empty network, drop every capability, gain none by executing, and end with the parent.

    A container or an old kernel may forbid a network of one's own: the audit hook refuses sockets then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWNET)
    libc.capset((ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)())
    # Last: the kernel forgets it when credentials change.
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & _WRITING:
            raise PermissionError("a parser may not write files")
    elif event.startswith(_REFUSED):
        raise PermissionError(f"a parser may not use {event}")
