"""What is left of removed rows in an external vector engine, in words that a certificate may hold.

A client sees what an engine serves, not what lies on its disks: how long files and logs outlive a removal is
the operator's to configure and to tell. Nothing here asks an engine anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.values import JsonValue


@dataclass(frozen=True, slots=True)
class Compacted:
    """What an engine said after a compaction: its live segments hold ``rows`` rows, and none is removed."""

    version: str
    segments: int
    rows: int
    rewritten: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the engine is set to keep what it no longer serves; the defaults are Milvus's 2.3.

    ``garbage_seconds``: ``dataCoord.gc.interval`` + ``dropTolerance``. ``log_seconds``: that of the message
    log (RocksMQ, Pulsar or Kafka); None where it is not known, or goes by size alone.
    """

    garbage_seconds: float = 3600.0 + 10_800.0
    log_seconds: float | None = 259_200.0


def state_residue(compacted: Compacted, retention: Retention) -> dict[str, JsonValue]:
    """Return what a certificate may say about rows that were removed before this compaction."""
    assured = [
        "No query, search or export of the collection returns a removed row.",
        f"After a forced compaction its {compacted.segments} live segments store {compacted.rows} rows, "
        "as many as the collection holds: none of them stores a removed row.",
    ]
    return _state(compacted.version, assured, compacted.rewritten, retention)


def state_absence(version: str, retention: Retention) -> dict[str, JsonValue]:
    """Return what a certificate may say where the engine has no collection of a tenant, or none now."""
    return _state(version, ["The engine lists no collection of this tenant."], 0, retention)


def _state(version: str, assured: list[str], rewritten: int, retention: Retention) -> dict[str, JsonValue]:
    not_assured: list[JsonValue] = [
        "Segment files that were rewritten or dropped are deleted by the engine's garbage collection, by its "
        f"setting {retention.garbage_seconds:.0f} s after the compaction; a client cannot see that they are.",
        "The engine's message log holds the vectors as they were written"
        + (
            " until its retention ends, which is not known."
            if retention.log_seconds is None
            else f"; by its setting whole pages are given up {retention.log_seconds:.0f} s after the write, "
            "a page that is not full later."
        ),
        "Snapshots and backups of its object storage, log or disks are outside what was checked.",
    ]
    return {
        "engine": f"Milvus {version}",
        "assured": list(assured),
        "not_assured": not_assured,
        "segments_rewritten": rewritten,
        "garbage_seconds": retention.garbage_seconds,
        "log_seconds": retention.log_seconds,
    }
