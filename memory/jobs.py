"""Jobs: the row is the truth, the broker's message only wakes a worker.

A worker claims a job by a conditional update that gives it a lease and a token; whoever comes
later with an older token changes nothing. A lease that ran out may be claimed again. Whose turn it is
goes by tenant: none waits for another's bulk load. What fails time and again is dead: kept, with its
reason, until somebody has it tried again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from memory.clock import Clock, NewId
from memory.database import Database, chunked
from memory.errors import NotFoundError
from memory.tables import jobs
from memory.values import JobId, JsonValue, TenantId

LEASE_SECONDS = 120
MAX_CRASHES = 5
"""So many workers may end while they are at a job."""
BACKOFF_SECONDS = (1, 5, 30, 120)
MAX_ATTEMPTS = 720
"""What cannot be done now is tried again for about a day: an engine or a disk may be away that long."""
FARTHEST_US = 2 * max(LEASE_SECONDS, *BACKOFF_SECONDS) * 1_000_000
"""No pause and no lease ends farther ahead, not even by the clock of another host that is minutes ahead."""
NEVER_GIVEN_UP = frozenset({"forget"})
"""Kinds that are tried again for as long as it takes, where a retry may help at all."""
FIRST = "forget"
"""A tenant's jobs of this kind come before its others, one at a time: each has to wait for the last."""
OPEN = ("queued", "running")
TO_RETRY = ("failed", "dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """One row. ``target`` is the entry or forget request it works on, or empty."""

    id: JobId
    tenant_id: TenantId
    kind: str
    target: str
    status: str
    progress: float
    attempts: int
    error: Mapping[str, JsonValue] | None
    created_us: int
    lease_token: str | None = None
    crashes: int = 0
    """How many workers ended while at it."""


class Jobs:
    """The queue over the ``jobs`` table."""

    def __init__(self, database: Database, clock: Clock, new_id: NewId) -> None:
        self.database = database
        self.clock = clock
        self.new_id = new_id
        self._turns = itertools.count(1)
        self._served: dict[str, int] = {}

    def add(
        self, connection: sa.Connection, tenant_id: TenantId, kind: str, targets: Sequence[str]
    ) -> list[Job]:
        """Queue one job per target, inside the caller's transaction."""
        now = self.clock()
        made = [
            Job(JobId(self.new_id()), tenant_id, kind, target, "queued", 0.0, 0, None, now)
            for target in targets
        ]
        if made:
            connection.execute(
                jobs.insert(),
                [
                    {
                        "id": job.id,
                        "tenant_id": tenant_id,
                        "kind": kind,
                        "target": job.target,
                        "status": job.status,
                        "progress": 0.0,
                        "attempts": 0,
                        "crashes": 0,
                        "lease_until_us": 0,
                        "not_before_us": 0,
                        "created_us": now,
                    }
                    for job in made
                ],
            )
        return made

    def add_once(self, connection: sa.Connection, tenant_id: TenantId, kind: str) -> Job | None:
        """Queue a job without target unless one of its kind is queued already."""
        if self.is_waiting(connection, tenant_id, kind):
            return None
        return self.add(connection, tenant_id, kind, [""])[0]

    def is_waiting(self, connection: sa.Connection, tenant_id: TenantId, kind: str) -> bool:
        """Say whether a job of a kind is queued."""
        waiting = sa.select(jobs.c.id).where(
            jobs.c.tenant_id == tenant_id, jobs.c.kind == kind, jobs.c.status == "queued"
        )
        return connection.execute(waiting.limit(1)).first() is not None

    def get(self, tenant_id: TenantId, job_id: str) -> Job:
        """Return a job of this tenant; ``NotFoundError`` for any other."""
        with self.database.read() as connection:
            row = connection.execute(
                sa.select(jobs).where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id)
            ).one_or_none()
        if row is None:
            raise NotFoundError("job", job_id)
        return _job(row)

    def find(self, job_id: str) -> Job | None:
        """Return a job whoever owns it; for workers."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
        return None if row is None else _job(row)

    def find_by_target(
        self, connection: sa.Connection, tenant_id: TenantId, kind: str, target: str
    ) -> Job | None:
        """Return the newest job of a kind for a target."""
        row = connection.execute(
            sa.select(jobs)
            .where(jobs.c.target == target, jobs.c.kind == kind, jobs.c.tenant_id == tenant_id)
            .order_by(jobs.c.created_us.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else _job(row)

    def claim(self, job_id: str) -> Job | None:
        """Lease one job, or return ``None`` when it is done, leased, or not due."""
        claimed = self._claim(jobs.c.id == job_id, limit=1)
        return claimed[0] if claimed else None

    def claim_batch(self, tenant_id: TenantId, kind: str, limit: int) -> list[Job]:
        """Lease up to ``limit`` jobs of one kind and tenant that ended no worker yet, oldest first.

        One that did would otherwise take its batch with it again and again.
        """
        innocent = sa.and_(jobs.c.status == "queued", jobs.c.crashes == 0)
        mine = sa.and_(jobs.c.tenant_id == tenant_id, jobs.c.kind == kind, innocent)
        return self._claim(mine, limit)

    def claim_next(self) -> Job | None:
        """Lease the job whose turn it is, or return ``None`` when none is due.

        The tenant with the least work under way comes first, then the one served longest ago; of its
        jobs forget requests come first, then the oldest.
        """
        now = self.clock()
        with self.database.read() as connection:
            number, oldest = sa.func.count().label("number"), sa.func.min(jobs.c.created_us).label("oldest")
            waiting = connection.execute(
                sa.select(jobs.c.tenant_id, oldest).where(_due(now)).group_by(jobs.c.tenant_id)
            ).all()
            under_way = connection.execute(
                sa.select(jobs.c.tenant_id, number)
                .where(jobs.c.status == "running", jobs.c.lease_until_us >= now)
                .group_by(jobs.c.tenant_id)
            )
            busy = {row.tenant_id: row.number for row in under_way}
        served = self._served
        turns = [
            (busy.get(r.tenant_id, 0), served.get(r.tenant_id, 0), r.oldest, r.tenant_id) for r in waiting
        ]
        for *_, tenant_id in sorted(turns):
            claimed = self._claim(jobs.c.tenant_id == tenant_id, 1)
            if claimed:
                served[tenant_id] = next(self._turns)
                return claimed[0]
        return None

    def _claim(self, which: sa.ColumnElement[bool], limit: int) -> list[Job]:
        now, token = self.clock(), self.new_id()
        with self.database.write() as connection:
            self._give_up(connection, sa.and_(_due(now), which))
            ids = list(
                connection.scalars(
                    sa.select(jobs.c.id)
                    .where(_due(now), which)
                    .order_by(jobs.c.kind != FIRST, jobs.c.created_us, jobs.c.id)
                    .limit(limit)
                    .with_for_update(skip_locked=True)
                )
            )
            if not ids:
                return []
            connection.execute(
                jobs.update()
                .where(jobs.c.id.in_(ids))
                .values(
                    status="running",
                    attempts=jobs.c.attempts + 1,
                    crashes=_CRASHES,
                    lease_token=token,
                    lease_until_us=now + LEASE_SECONDS * 1_000_000,
                )
            )
            rows = connection.execute(
                sa.select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.created_us, jobs.c.id)
            )
            return [_job(row) for row in rows]

    def _give_up(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
        """Bury jobs that ended too many workers."""
        hopeless = sa.and_(which, _CRASHES >= MAX_CRASHES, jobs.c.kind.not_in(sorted(NEVER_GIVEN_UP)))
        connection.execute(
            jobs.update().where(hopeless).values(status="dead", lease_token=None, error=_ENDED_ITS_WORKER)
        )

    def extend(self, claimed: Sequence[Job], progress: float | None = None) -> None:
        """Renew the leases (a heartbeat), and say how far the work is (0..1)."""
        values: dict[str, object] = {"lease_until_us": self.clock() + LEASE_SECONDS * 1_000_000}
        if progress is not None:
            values["progress"] = progress
        with self.database.write() as connection:
            self._update(connection, claimed, values)

    def finish(self, connection: sa.Connection, claimed: Sequence[Job]) -> None:
        """Mark jobs done, inside the transaction that holds their work."""
        self._update(connection, claimed, {"status": "done", "progress": 1.0, "lease_token": None})

    def fail(self, claimed: Sequence[Job], error: Mapping[str, JsonValue], *, retry: bool) -> None:
        """Record why jobs failed; with ``retry`` they are queued again after a pause, a few times."""
        with self.database.write() as connection:
            for job in claimed:
                again = retry and (job.kind in NEVER_GIVEN_UP or job.attempts < MAX_ATTEMPTS)
                if not again:
                    ended = "dead" if retry else "failed"
                    self._update(
                        connection, [job], {"status": ended, "error": dict(error), "lease_token": None}
                    )
                    continue
                pause = BACKOFF_SECONDS[min(job.attempts, len(BACKOFF_SECONDS)) - 1]
                values = {
                    "status": "queued",
                    "error": dict(error),
                    "lease_token": None,
                    "not_before_us": self.clock() + pause * 1_000_000,
                }
                self._update(connection, [job], values)

    def give_back(self, claimed: Sequence[Job]) -> None:
        """Queue jobs again at once, as if they had not been tried: their worker stops."""
        with self.database.write() as connection:
            values = {"status": "queued", "lease_token": None, "lease_until_us": 0, "progress": 0.0}
            self._update(connection, claimed, {**values, "attempts": jobs.c.attempts - 1})

    def retry_failed(self, connection: sa.Connection, kind: str, tenant_id: TenantId | None = None) -> None:
        """Queue every failed job of a kind once more, of one tenant where asked."""
        which = (jobs.c.kind == kind) & jobs.c.status.in_(("failed", "dead"))
        if tenant_id is not None:
            which &= jobs.c.tenant_id == tenant_id
        connection.execute(jobs.update().where(which).values(status="queued", not_before_us=0))

    def refuse(self, connection: sa.Connection, job: Job, error: Mapping[str, JsonValue]) -> None:
        """Mark a job failed for good, inside the transaction that takes back what it was for."""
        self._update(connection, [job], {"status": "failed", "error": dict(error), "lease_token": None})

    def retry(self, connection: sa.Connection, job: Job) -> bool:
        """Queue a job that has ended without success once more; say whether it was such a one."""
        mine = (jobs.c.id == job.id) & jobs.c.status.in_(TO_RETRY)
        again = {"status": "queued", "attempts": 0, "crashes": 0, "not_before_us": 0, "progress": 0.0}
        return connection.execute(jobs.update().where(mine).values(**again)).rowcount > 0

    def cancel(self, connection: sa.Connection, job: Job) -> bool:
        """Cancel a job that has not ended; say whether it had not. Its worker's token is void from now on."""
        mine = (jobs.c.id == job.id) & jobs.c.status.in_(OPEN)
        gone = {"status": "cancelled", "lease_token": None}
        return connection.execute(jobs.update().where(mine).values(**gone)).rowcount > 0

    def cancel_targets(self, connection: sa.Connection, targets: Sequence[str]) -> None:
        """Cancel what is still to be done for these targets: their entries were forgotten."""
        for chunk in chunked(targets):
            connection.execute(
                jobs.update()
                .where(jobs.c.target.in_(chunk), jobs.c.status.in_(OPEN))
                .values(status="cancelled", lease_token=None)
            )

    def list_due(self, limit: int) -> list[JobId]:
        """Return jobs that a worker could claim now, oldest first; for the sweeper."""
        now = self.clock()
        with self.database.read() as connection:
            ids = connection.scalars(
                sa.select(jobs.c.id).where(_due(now)).order_by(jobs.c.created_us).limit(limit)
            )
            return [JobId(i) for i in ids]

    def release_all(self) -> int:
        """Take back every lease: for the start of the only process over this database.

        What must never be given up is tried again, too.
        """
        with self.database.write() as connection:
            for kind in sorted(NEVER_GIVEN_UP):
                self.retry_failed(connection, kind)
            return connection.execute(
                jobs.update()
                .where(jobs.c.status == "running")
                .values(status="queued", lease_token=None, crashes=_CRASHES)
            ).rowcount

    def count_open(self, tenant_id: TenantId | None = None) -> dict[str, int]:
        """Return how many jobs are queued or running, by kind."""
        number = sa.func.count().label("number")
        query = sa.select(jobs.c.kind, number).where(jobs.c.status.in_(OPEN))
        if tenant_id is not None:
            query = query.where(jobs.c.tenant_id == tenant_id)
        with self.database.read() as connection:
            return {row.kind: row.number for row in connection.execute(query.group_by(jobs.c.kind))}

    def list_page(self, tenant_id: TenantId, after: tuple[int, str] | None, limit: int) -> list[Job]:
        """Return the tenant's jobs, newest first, from behind ``after`` (created_us, id)."""
        query = sa.select(jobs).where(jobs.c.tenant_id == tenant_id)
        if after is not None:
            created_us, job_id = after
            query = query.where(
                sa.or_(
                    jobs.c.created_us < created_us,
                    sa.and_(jobs.c.created_us == created_us, jobs.c.id < job_id),
                )
            )
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.created_us.desc(), jobs.c.id.desc()).limit(limit))
            return [_job(row) for row in rows]

    def _update(
        self, connection: sa.Connection, claimed: Sequence[Job], values: Mapping[str, object]
    ) -> None:
        for job in claimed:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job.id, jobs.c.lease_token == job.lease_token)
                .values(**values)
            )


_CRASHES = jobs.c.crashes + sa.case((jobs.c.status == "running", 1), else_=0)
"""A job that can be claimed although it runs has a worker that ended."""

_ENDED_ITS_WORKER: dict[str, JsonValue] = {
    "type": "about:blank",
    "title": "WorkerLostError",
    "detail": f"{MAX_CRASHES} workers ended while at it, or did not come to an end",
}


def _due(now_us: int) -> sa.ColumnElement[bool]:
    """Say what may be claimed: what waits and need not wait longer, and what a worker let lie.

    A pause or lease that ends later than any could was given before the clock was set back, and is over.
    """
    paused = jobs.c.not_before_us.between(now_us + 1, now_us + FARTHEST_US)
    leased = jobs.c.lease_until_us.between(now_us, now_us + FARTHEST_US)
    due = sa.or_(
        sa.and_(jobs.c.status == "queued", sa.not_(paused)),
        sa.and_(jobs.c.status == "running", sa.not_(leased)),
    )
    under_way = jobs.alias("under_way")
    another_runs = (
        sa.exists()
        .where(
            under_way.c.tenant_id == jobs.c.tenant_id,
            under_way.c.kind == FIRST,
            under_way.c.status == "running",
            under_way.c.lease_until_us >= now_us,
        )
        .correlate(jobs)
    )
    # Not before it has ended: to be tried and put off costs ever longer pauses.
    return sa.and_(due, sa.or_(jobs.c.kind != FIRST, ~another_runs))


def _job(row: sa.Row[tuple[object, ...]]) -> Job:
    return Job(
        id=row.id,
        tenant_id=row.tenant_id,
        kind=row.kind,
        target=row.target,
        status=row.status,
        progress=row.progress,
        attempts=row.attempts,
        error=row.error,
        created_us=row.created_us,
        lease_token=row.lease_token,
        crashes=row.crashes,
    )
