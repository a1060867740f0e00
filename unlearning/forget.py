"""The forget state machine: fence, erase, fold, scan, purge, certify.

``fence`` is what the caller waits for; ``run`` is the job behind it. Every step may be repeated: a
job that was killed begins again, and what is gone already stays gone. The journal entries and their keys
go last, so that until the scan has passed the job can still tell what to look for; what was found before
anything was erased, and what the scan saw, is written down for the certificate.
Nothing here knows what a store is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from memory.errors import CorruptionError, NotFoundError, UnavailableError
from memory.journal import EntryRow, list_rows
from memory.kernel import Kernel, find_denied
from memory.ledger import find_closure
from memory.ports import Store
from memory.tables import certificates, denied, forgets, tenants
from memory.values import EntryId, ForgetId, JobId, JsonValue, TenantId
from unlearning.probes import Needles, ScanReport, build_needles, scan_files


class Remains(Protocol):
    """What the forget job asks of the rest of the service."""

    def iter_texts(self, tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> Iterable[str]:
        """Yield the extracted texts and the attributes of entries that are still readable."""

    def iter_vectors(
        self, tenant_id: TenantId, entry_ids: Sequence[EntryId]
    ) -> Iterable[npt.NDArray[np.float32]]:
        """Yield their vectors, shape (passages, dimension)."""

    def iter_surviving(self, tenant_id: TenantId) -> tuple[Iterable[str], Iterable[npt.NDArray[np.float32]]]:
        """Return the texts and vectors of every entry that is not denied."""

    def drain(self, tenant_id: TenantId, epoch: int) -> None:
        """Wait until no process holds an index from before an epoch, or raise ``UnavailableError``."""

    def fold(self, tenant_id: TenantId) -> None:
        """Make again, from what is left, every artifact that had a denied input among others."""


@dataclass(frozen=True, slots=True)
class ForgetRow:
    """A forget request as stored: random ids, counts and times, none of the scope's words."""

    id: ForgetId
    tenant_id: TenantId
    job_id: JobId
    state: str
    epoch: int
    scope_digest: str
    requested_us: int
    fenced_us: int
    counts: Mapping[str, int]
    remaining: Mapping[str, int]
    error: Mapping[str, JsonValue] | None
    evidence: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What a request found before it erased anything, and what the scan saw once the bytes were gone.

    ``held`` counts items per store; ``media`` says, database by database, how far freed bytes
    went, ``engines`` what external engines assure of their copies. Kept on the request's row, so that a job
    which was killed half-way certifies what was there when it first began.
    """

    held: Mapping[str, int]
    artifacts: int
    passages: int
    scan: Mapping[str, JsonValue] | None = None
    media: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the row's form."""
        held: dict[str, JsonValue] = dict(self.held)
        scan = None if self.scan is None else dict(self.scan)
        media: dict[str, JsonValue] = {name: dict(how) for name, how in self.media.items()}
        engines: dict[str, JsonValue] = {name: dict(said) for name, said in self.engines.items()}
        return {
            "held": held,
            "artifacts": self.artifacts,
            "passages": self.passages,
            "scan": scan,
            "media": media,
            "engines": engines,
        }


Surviving = Callable[[], tuple[Iterable[str], Iterable[npt.NDArray[np.float32]]]]
Purge = Callable[[], Mapping[str, str]]
"""Removes a database's freed bytes and says how far that goes, by medium."""
Settle = Callable[[TenantId], Mapping[str, JsonValue]]
"""Has an external engine take removed rows off its storage, and says what that assures and what not."""
Resolve = Callable[[sa.Connection], set[EntryId]]
Rest = Callable[[sa.Connection, Sequence[EntryRow]], int]
"""Writes down what stays of entries that are being denied, and says of how many something does."""


def fence(
    kernel: Kernel, tenant_id: TenantId, resolve: Resolve, scope_digest: str, *, rest: Rest | None = None
) -> ForgetRow:
    """Deny what the scope resolves to and raise the epoch, alone and in one transaction.

    When this returns nothing of the scope leaves any more (G0); the erasing is still to be done.
    """
    requested_us = kernel.clock()
    forget_id = ForgetId(kernel.new_id())
    with (
        kernel.fence.exclusive(tenant_id, timeout_seconds=60.0),
        kernel.database.write(alone=tenant_id) as connection,
    ):
        found = resolve(connection)
        fresh = sorted(found - find_denied(connection, tenant_id, found))
        rows = list_rows(connection, tenant_id, fresh)
        if fresh:
            connection.execute(
                denied.insert(),
                [
                    {
                        "tenant_id": tenant_id,
                        "entry_id": row.id,
                        "forget_id": forget_id,
                        # An id made from an external id would tell the name; a random one tells nothing.
                        "source_id": row.source_id if row.external_key is None else None,
                    }
                    for row in rows
                ],
            )
        epoch = connection.scalar(
            tenants.update()
            .where(tenants.c.id == tenant_id)
            .values(epoch=tenants.c.epoch + 1)
            .returning(tenants.c.epoch)
        )
        kernel.jobs.cancel_targets(connection, fresh)
        kernel.jobs.retry_failed(connection, "forget", tenant_id)
        counts = {"sources": len({row.source_id for row in rows}), "entries": len(fresh)}
        if rest is not None:
            counts["kept_in_part"] = rest(connection, rows)
        job = kernel.jobs.add(connection, tenant_id, "forget", [forget_id])[0]
        row = ForgetRow(
            id=forget_id,
            tenant_id=tenant_id,
            job_id=job.id,
            state="fenced",
            epoch=int(epoch or 0),
            scope_digest=scope_digest,
            requested_us=requested_us,
            fenced_us=max(kernel.clock(), requested_us),  # a clock may be set back
            counts=counts,
            remaining={"entries": len(fresh)},
            error=None,
        )
        connection.execute(
            forgets.insert().values(
                {
                    "id": row.id,
                    "tenant_id": row.tenant_id,
                    "job_id": row.job_id,
                    "state": row.state,
                    "epoch": row.epoch,
                    "scope_digest": row.scope_digest,
                    "requested_us": row.requested_us,
                    "fenced_us": row.fenced_us,
                    "counts": dict(row.counts),
                    "remaining": dict(row.remaining),
                }
            )
        )
    return row


def get_forget(kernel: Kernel, tenant_id: TenantId, forget_id: str) -> ForgetRow:
    """Return a tenant's forget request; ``NotFoundError`` for any other."""
    with kernel.database.read() as connection:
        row = connection.execute(
            sa.select(forgets).where(forgets.c.id == forget_id, forgets.c.tenant_id == tenant_id)
        ).one_or_none()
    if row is None:
        raise NotFoundError("forget request", forget_id)
    return ForgetRow(
        ForgetId(row.id),
        TenantId(row.tenant_id),
        JobId(row.job_id),
        row.state,
        row.epoch,
        row.scope_digest,
        row.requested_us,
        row.fenced_us,
        row.counts,
        row.remaining,
        row.error,
        row.evidence,
    )


def set_state(
    kernel: Kernel,
    forget: ForgetRow,
    state: str,
    *,
    remaining: Mapping[str, int] | None = None,
    error: Mapping[str, JsonValue] | None = None,
    evidence: Erased | None = None,
) -> None:
    """Record how far a forget request has come; one that is certified stays so."""
    values: dict[str, object] = {"state": state, "error": None if error is None else dict(error)}
    if remaining is not None:
        values["remaining"] = dict(remaining)
    if evidence is not None:
        values["evidence"] = evidence.to_json()
    with kernel.database.write() as connection:
        # A connection may be lost after the commit that certified it: what failed then is only the answer.
        open_still = (forgets.c.id == forget.id) & (forgets.c.state != "certified")
        connection.execute(forgets.update().where(open_still).values(**values))


def list_denied(kernel: Kernel, forget: ForgetRow) -> list[EntryId]:
    """Return the entries that this request denied, in order."""
    with kernel.database.read() as connection:
        found = connection.scalars(sa.select(denied.c.entry_id).where(denied.c.forget_id == forget.id))
        return sorted(EntryId(i) for i in found)


def find_earlier(kernel: Kernel, forget: ForgetRow) -> bool:
    """Say whether an earlier request of the tenant is not certified yet.

    A scope may mean entries that an earlier request has denied and not erased yet: no certificate may
    say they are gone.
    """
    earlier = sa.and_(
        forgets.c.tenant_id == forget.tenant_id,
        forgets.c.epoch < forget.epoch,
        forgets.c.state != "certified",
    )
    with kernel.database.read() as connection:
        return connection.execute(sa.select(forgets.c.id).where(earlier).limit(1)).first() is not None


def erase(
    kernel: Kernel,
    forget: ForgetRow,
    *,
    derived: Sequence[Store],
    truth: Sequence[Store],
    remains: Remains,
    passages: int,
    purges: Mapping[str, Purge],
    engines: Mapping[str, Settle],
) -> Erased:
    """Take everything the request denied, which is in ``passages`` passages, out of every store.

    ``derived`` stores are emptied and folded first, then every file is scanned, then ``truth`` goes, in
    its order. Raise ``CorruptionError`` when anything is still held or found: the fence stays, and the
    request says what remains.
    """
    tenant_id = forget.tenant_id
    entry_ids = list_denied(kernel, forget)
    with kernel.database.read() as connection:
        closure = find_closure(connection, tenant_id, entry_ids)
    ids = frozenset[str](entry_ids) | closure
    if forget.evidence is None:
        held = _count([*derived, *truth], tenant_id, ids)
        evidence = Erased(held, len(closure), passages)
        set_state(kernel, forget, "erasing", remaining=held, evidence=evidence)
    else:
        evidence = Erased(**forget.evidence)  # type: ignore[arg-type]
        known = {store.name for store in (*derived, *truth)}
        if others := sorted(set(evidence.held) - known):
            raise UnavailableError(
                f"what was denied was in {', '.join(others)}, too, of which this process knows nothing: "
                "start it with the settings of the one that began the request"
            )
        since = [store for store in derived if store.name not in evidence.held]
        if since:  # other settings than when it began
            evidence = replace(evidence, held={**evidence.held, **_count(since, tenant_id, ids)})
            for store in since:
                store.erase(tenant_id, ids)
    if evidence.scan is None:
        scan = _erase_derived(kernel, forget, entry_ids, ids, derived, remains)
        evidence = replace(evidence, scan=scan.to_json())

    set_state(kernel, forget, "purging", evidence=evidence)
    for store in truth:
        store.erase(tenant_id, ids)
        _check_gone([store], tenant_id, ids)
    media = {name: purge() for name, purge in purges.items()}
    said = {name: settle(tenant_id) for name, settle in engines.items()}
    _check_gone([*derived, *truth], tenant_id, ids)
    return replace(evidence, media=media, engines=said)


def _erase_derived(
    kernel: Kernel,
    forget: ForgetRow,
    entry_ids: Sequence[EntryId],
    ids: frozenset[str],
    derived: Sequence[Store],
    remains: Remains,
) -> ScanReport:
    """Empty the derived stores, fold, and look for what was in them in every file."""
    tenant_id = forget.tenant_id
    needles = build_needles(
        remains.iter_texts(tenant_id, entry_ids), remains.iter_vectors(tenant_id, entry_ids)
    )
    set_state(kernel, forget, "erasing")
    for store in derived:
        store.erase(tenant_id, ids)
    remains.drain(tenant_id, forget.epoch)
    set_state(kernel, forget, "folding")
    remains.fold(tenant_id)
    set_state(kernel, forget, "verifying")
    _check_gone(derived, tenant_id, ids)
    scan = scan_residue(kernel.data, needles, lambda: remains.iter_surviving(tenant_id))
    if not scan.clean:
        places = ", ".join(sorted({finding.path for finding in scan.found}))
        raise CorruptionError(f"content that was to be erased is still in {places}")
    return scan


def count_remaining(kernel: Kernel, forget: ForgetRow, stores: Sequence[Store]) -> dict[str, int]:
    """Return per store how many items are still held under the entries that a request denied."""
    return _count(stores, forget.tenant_id, frozenset[str](list_denied(kernel, forget)))


def scan_residue(root: Path, needles: Needles, surviving: Surviving) -> ScanReport:
    """Scan every file under ``root``; what survivors say too is no residue, and looked up only when found."""
    report = scan_files(root, needles)
    if report.clean:
        return report
    return scan_files(root, needles.exclude(*surviving()))


class Owner(Protocol):
    """A store, or its class: what says which files are its own."""

    def owns(self, path: PurePosixPath) -> bool: ...


def find_unowned(root: Path, stores: Sequence[Owner]) -> list[PurePosixPath]:
    """Return the files under the data folder that no store owns."""
    files = (path.relative_to(root) for path in sorted(root.rglob("*")) if not path.is_dir())
    paths = [PurePosixPath(path.as_posix()) for path in files]
    return [path for path in paths if not any(store.owns(path) for store in stores)]


def _count(stores: Sequence[Store], tenant_id: TenantId, ids: frozenset[str]) -> dict[str, int]:
    return {store.name: store.holds(tenant_id, ids) for store in stores}


def _check_gone(stores: Sequence[Store], tenant_id: TenantId, ids: frozenset[str]) -> None:
    left = {name: count for name, count in _count(stores, tenant_id, ids).items() if count}
    if left:
        said = ", ".join(f"{name}: {count}" for name, count in left.items())
        raise CorruptionError(f"stores still hold what was to be erased ({said})")


def list_certificates(kernel: Kernel) -> list[dict[str, JsonValue]]:
    """Return every certificate in the order of the transparency log."""
    with kernel.database.read() as connection:
        return list(connection.scalars(sa.select(certificates.c.document).order_by(certificates.c.position)))
