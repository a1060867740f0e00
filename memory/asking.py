"""Who asks, and whether they are still there.

Carried beside the calls, as a log's request id is: readers hand questions on to one another and to models,
and only where requests compete for one does it matter whose they are. A worker thread of anyio has it from
the task that started it (``contextvars``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from memory.errors import LeftError

_party: ContextVar[str] = ContextVar("party", default="")
_gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)


@contextmanager
def asked_by(party: str) -> Iterator[None]:
    """Have what is done within count as this party's: a tenant's, for one. Not to be held over a yield."""
    token = _party.set(party)
    try:
        yield
    finally:
        _party.reset(token)


@contextmanager
def while_there(gone: threading.Event) -> Iterator[None]:
    """Have what is done within be given up, where it waits or goes on for long, once ``gone`` is set."""
    token = _gone.set(gone)
    try:
        yield
    finally:
        _gone.reset(token)


def whose() -> str:
    """Return the party that asks; an empty name where nobody said."""
    return _party.get()


def check_there() -> None:
    """Raise ``LeftError`` when whoever asked has gone."""
    gone = _gone.get()
    if gone is not None and gone.is_set():
        raise LeftError
