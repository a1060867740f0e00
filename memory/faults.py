"""Named points at which a fault may strike: around every commit, change of a file, and call of the broker.

In operation nothing strikes, and a point costs one comparison. Tests let one fail there, or end the
process as far as it can tell. Nothing here knows what a fault is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Strike = Callable[[str], None]

POINTS: Mapping[str, str] = {
    "commit": "all of a transaction is said, and it is about to be committed",
    "committed": "a transaction is committed, and its caller does not know it yet",
    "purge": "freed bytes are about to be removed from a database",
    "purged": "freed bytes have been removed",
    "segment.write": "a new segment's temporary file is about to be written",
    "segment.sync": "it is written, and about to be synced",
    "segment.rename": "it is synced, and about to get its name",
    "segment.renamed": "it has its name, which the folder may not have kept yet",
    "segment.discard": "writing it failed, and what there is of it is about to be deleted",
    "segment.damaged": "what is saved of the index is damaged and about to be remade",
    "index.unlink": "a file of the index that nobody names is about to be deleted",
    "index.rmtree": "the word index of a process that ended is about to be deleted",
    "words.commit": "the word index is about to be committed",
    "words.save": "the committed word index is about to be linked into what is saved",
    "words.open": "the saved word index is about to be linked into a process's own folder",
    "words.rmtree": "the word index of a former generation is about to be deleted",
    "kv.write": "a key/value memory's temporary file is about to be written",
    "kv.rename": "it is written, and about to get its name",
    "kv.unlink": "a key/value memory's file is about to be deleted",
    "private.sync": "a key file is written, and about to be synced",
    "private.rename": "it is synced, and about to get its name",
    "private.renamed": "it has its name",
    "broker.send": "a message is about to be sent",
    "broker.sent": "a message was sent, and the sender does not know it yet",
}
"""Every point there is, and where the work stands there."""

_strike: Strike | None = None


def point(name: str) -> None:
    """Say that a point is reached."""
    if _strike is not None:
        _strike(name)


@contextmanager
def striking(strike: Strike) -> Iterator[None]:
    """Call ``strike`` with the name of every point that any thread reaches during the block."""
    global _strike
    _strike = strike
    try:
        yield
    finally:
        _strike = None
