"""What each kind of job does. A worker calls ``run`` with a job id; the row decides everything else."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple
from functools import partial

import sqlalchemy as sa
import structlog
from structlog.contextvars import bound_contextvars

from memory.database import chunked
from memory.digest import digest_content
from memory.errors import ConflictError, InvalidInputError, LetheError, UnavailableError
from memory.jobs import Job
from memory.journal import delete_entries, get_content, list_entry_ids, list_rows, record_changes
from memory.kernel import Kernel, find_denied, find_entries
from memory.ledger import add_edges, delete, drop_edges_from, list_artifacts, put
from memory.ports import Parser
from memory.tables import changes, jobs
from memory.values import Content, EntryId, JobId, JsonValue, TenantId
from service.forgetting import Forgetting
from service.index import Indexes
from service.ingest import (
    Derived,
    Names,
    derive,
    list_names,
    name_artifacts,
    parse_contents,
    to_artifacts,
)
from service.leases import Leases
from service.metrics import jobs_total, passages_total
from service.remember import INGEST
from service.topics import fold_topics
from service.tracing import span
from service.trimming import Trimmer

FOLD, COMPACT, FORGET, REBUILD = "fold", "compact", "forget", "rebuild"
INGEST_BATCH = 64
READ_SECONDS = 2.0
"""What was read so far is indexed then, before the rest of a batch."""
TELL_SECONDS = 1.0
"""A job's progress is written so often at most."""
PARSED_SHARE = 0.9
"""How far an ingest job is when its content is parsed and encoded."""
RECORD_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds between tries to write down that a job failed."""

log = structlog.get_logger()


class Work:
    """Runs jobs, one or a batch at a time."""

    def __init__(
        self,
        kernel: Kernel,
        indexes: Indexes,
        forgetting: Forgetting,
        parser: Parser,
        wake: Callable[[str], None],
    ) -> None:
        self.kernel = kernel
        self.indexes = indexes
        self.forgetting = forgetting
        self.parser = parser
        self.wake = wake
        self.leases = Leases(kernel.jobs)
        self.trimmer = Trimmer()
        self._kinds: Mapping[str, Callable[[Job], None]] = {
            INGEST: self._ingest_with_others,
            FOLD: self._fold,
            COMPACT: self._compact,
            FORGET: self.forgetting.run,
            REBUILD: self._rebuild,
        }

    def run(self, job_id: str) -> None:
        """Do a job if it is still to be done; whatever happens is written on its row."""
        self._do(lambda: self.kernel.jobs.claim(job_id))

    def run_next(self, _message: str = "") -> None:
        """Do the job whose turn it is. A worker's message says that there is work, not which."""
        self._do(self.kernel.jobs.claim_next)

    def _do(self, claim: Callable[[], Job | None]) -> None:
        with self.leases.working() as allowed:
            job = claim() if allowed else None
            if job is not None:
                self._run(job)

    def _run(self, job: Job) -> None:
        # Every line written on the way carries the job's id.
        with (
            bound_contextvars(job_id=job.id, job_kind=job.kind),
            span(f"job {job.kind}", {"lethe.job_id": job.id}),
            self.leases.keep([job]),
        ):
            error = _attempt(lambda: self._kinds[job.kind](job))
            if error is not None:
                self._fail([job], error)
        if job.kind == FORGET:
            # The next one may have used up its message while this one was under way.
            for waiting in self.kernel.jobs.list_due(1):
                self.wake(waiting)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            jobs_total.labels(job.kind, "failed").inc()
        log.warning("job failed", job_ids=[job.id for job in jobs], error=type(error).__name__)
        retry = isinstance(error, UnavailableError)
        fail = partial(self.kernel.jobs.fail, jobs, _problem(error), retry=retry)
        for pause in RECORD_PAUSES:
            try:
                return fail()
            except UnavailableError:
                # A database that starts anew is back in a moment, the lease is not.
                time.sleep(pause)
        return fail()

    def _queue(self, tenant_id: TenantId, kind: str) -> JobId | None:
        with self.kernel.database.write(alone=tenant_id) as connection:
            job = self.kernel.jobs.add_once(connection, tenant_id, kind)
        if job is not None:
            self.wake(job.id)
        return None if job is None else job.id

    def _ingest_with_others(self, job: Job) -> None:
        """Ingest the claimed entry together with others of its tenant that are waiting."""
        alone = job.crashes > 0  # it would take the others with it
        others = [] if alone else self.kernel.jobs.claim_batch(job.tenant_id, INGEST, INGEST_BATCH - 1)
        batch = [job, *others]
        with self.leases.keep(others):
            error = self._ingest_in_parts(job.tenant_id, batch)
            if isinstance(error, UnavailableError):
                return
        if len(batch) == INGEST_BATCH:
            # Those that still wait may have had their messages used up by this batch.
            for waiting in self.kernel.jobs.list_due(1):
                self.wake(waiting)
        if error is not None:
            self._queue(job.tenant_id, FOLD)  # a batch before this one may have left it to this one
        if self.indexes.is_worth_saving(job.tenant_id):
            self._queue(job.tenant_id, COMPACT)

    def _ingest_in_parts(self, tenant_id: TenantId, batch: Sequence[Job]) -> Exception | None:
        """Ingest a batch, indexing what has been read every few seconds, so that no film holds up the rest.

        Return what went wrong: an ``UnavailableError`` failed all that was not ingested yet, anything else
        only the entries to blame.
        """
        left = list(batch)
        while left:
            taken: list[Job] = []
            error = _attempt(lambda left=left, taken=taken: taken.extend(self._ingest(tenant_id, left)))  # type: ignore[misc]
            if isinstance(error, UnavailableError):
                self._fail(left, error)
                return error
            if error is not None:
                self._ingest_one_by_one(left)
                return error
            left = left[len(taken) :]
        return None

    def _ingest_one_by_one(self, batch: Sequence[Job]) -> None:
        """Ingest each entry of a batch that failed by itself, so that only the one to blame fails."""
        for job in batch:
            error = _attempt(partial(self._ingest, job.tenant_id, [job]))
            if error is not None:
                self._fail([job], error)

    def _ingest(self, tenant_id: TenantId, batch: Sequence[Job]) -> Sequence[Job]:
        """Ingest as many of a batch, from its beginning, as can be read in a few seconds; return these."""
        kernel = self.kernel
        contents = self._iter_contents(tenant_id, [EntryId(job.target) for job in batch])
        read = parse_contents(self.parser, contents, seconds=READ_SECONDS, told=self._telling(batch))
        more, batch = read.count < len(batch), batch[: read.count]
        jobs = {EntryId(job.target): job for job in batch}
        if read.timed:
            self.trimmer.trim()
        made = derive(read.parsed, self.indexes.encoder, read.timed)
        kernel.jobs.extend(batch, PARSED_SHARE)
        with kernel.commit(tenant_id, list(jobs)) as commit:
            kept = [derived for derived in made if derived.entry_id not in commit.denied]
            artifacts = to_artifacts(kernel, self.indexes.recipes, tenant_id, kept)
            put(commit.connection, kernel.vault, tenant_id, artifacts)
            ids = [derived.entry_id for derived in kept]
            self._link_to_index(commit.connection, tenant_id, kept)
            record_changes(commit.connection, tenant_id, ids, "indexed")
            kernel.jobs.finish(commit.connection, [jobs[entry_id] for entry_id in ids])
            kernel.jobs.cancel_targets(commit.connection, sorted(commit.denied))
            fold = None if more else self._queue_fold(commit.connection, batch)
        passages_total.inc(sum(len(derived.parsed.passages) for derived in kept))
        jobs_total.labels(INGEST, "done").inc(len(kept))
        for entry_id, error in read.refused.items():
            self._refuse(tenant_id, jobs[entry_id], entry_id, error)
        if fold is not None:
            self.wake(fold.id)
        self.indexes.get(tenant_id)  # follow now, so that the next recall need not
        return batch

    def _telling(self, batch: Sequence[Job]) -> Callable[[EntryId, float], None]:
        """Return what writes down how far the parsing of an entry is, once in a while."""
        jobs = {EntryId(job.target): job for job in batch}
        written = time.monotonic()

        def tell(entry_id: EntryId, share: float) -> None:
            nonlocal written
            if time.monotonic() - written < TELL_SECONDS:
                return
            written = time.monotonic()
            try:
                self.kernel.jobs.extend([jobs[entry_id]], share * PARSED_SHARE)
            except UnavailableError as error:
                # The next one tells more; an hour of listening is not lost for it.
                log.warning("progress cannot be written", error=str(error))

        return tell

    def _queue_fold(self, connection: sa.Connection, batch: Sequence[Job]) -> Job | None:
        """Have the topics folded, in the transaction that changes what they are made of.

        Folding goes over the whole set: once at the end of a bulk load, not after each batch of it.
        """
        tenant_id = batch[0].tenant_id
        if len(batch) == INGEST_BATCH and self.kernel.jobs.is_waiting(connection, tenant_id, INGEST):
            return None
        return self.kernel.jobs.add_once(connection, tenant_id, FOLD)

    def _iter_contents(
        self, tenant_id: TenantId, entry_ids: Sequence[EntryId]
    ) -> Iterator[tuple[EntryId, Content | None]]:
        """Yield entries with their contents, one in memory at a time; ``None`` for those forgotten."""
        opener = self.kernel.vault.opener(tenant_id, entry_ids)
        for entry_id in entry_ids:
            with self.kernel.database.read() as connection:
                hidden = find_denied(connection, tenant_id, [entry_id])
                content = None if hidden else get_content(connection, opener, entry_id)
            yield entry_id, content

    def _link_to_index(self, connection: sa.Connection, tenant_id: TenantId, made: Sequence[Derived]) -> None:
        index = self.indexes.name_index(tenant_id)
        names = [self._name(tenant_id, derived).vectors for derived in made]
        add_edges(connection, tenant_id, [(index, name) for name in names])

    def _name(self, tenant_id: TenantId, derived: Derived) -> Names:
        recipes = self.indexes.recipes
        return name_artifacts(self.kernel, recipes, tenant_id, derived.entry_id, timed=derived.timed)

    def _refuse(self, tenant_id: TenantId, job: Job, entry_id: EntryId, error: LetheError) -> None:
        """Fail a job whose content cannot be read, and take the content back: nothing stays by halves."""
        if not isinstance(error, InvalidInputError):
            self._fail([job], error)
            return
        log.warning("content refused", job_id=job.id, error=type(error).__name__)
        with self.kernel.database.write(alone=tenant_id) as connection:
            delete_entries(connection, tenant_id, [entry_id])
            self.kernel.jobs.refuse(connection, job, _problem(error))
        self.kernel.vault.destroy_keys(tenant_id, [entry_id])

    def retry(self, job: Job) -> None:
        """Have a job that ended without success done once more; ``ConflictError`` when it did not."""
        with self.kernel.database.write(alone=job.tenant_id) as connection:
            if job.kind == INGEST and not find_entries(connection, job.tenant_id, [EntryId(job.target)]):
                raise ConflictError("the content was taken back; send it again")
            if not self.kernel.jobs.retry(connection, job):
                raise ConflictError(f"the job is {job.status}: there is nothing to try again")
        self.wake(job.id)

    def cancel(self, job: Job) -> None:
        """Cancel a job that has not ended, and take back the content it was for.

        ``ConflictError`` for one that has ended, and for a forget request: what it denied stays denied.
        """
        if job.kind == FORGET:
            raise ConflictError("a forget request cannot be cancelled: what it denied is hidden already")
        entry_ids = [EntryId(job.target)] if job.kind == INGEST else []
        with self.kernel.database.write(alone=job.tenant_id) as connection:
            if any(row.kind == "stream" for row in list_rows(connection, job.tenant_id, entry_ids)):
                raise ConflictError("this only has the stream listed; forget the stream to take it back")
            if not self.kernel.jobs.cancel(connection, job):
                raise ConflictError(f"the job is {job.status}: there is nothing to cancel")
            delete_entries(connection, job.tenant_id, entry_ids)
        self.kernel.vault.destroy_keys(job.tenant_id, entry_ids)

    def _fold(self, job: Job, *, anew: bool = False) -> None:
        if not fold_topics(self.kernel, self.indexes, job.tenant_id, anew=anew):
            raise UnavailableError("a forget came between; folding again")
        self._finish(job)

    def _compact(self, job: Job) -> None:
        self.indexes.save(job.tenant_id)
        self._finish(job)

    def _rebuild(self, job: Job) -> None:
        """Make everything derived again from the journal: the same recipes, so the same content."""
        tenant_id = job.tenant_id
        before = digest_content(self.forgetting.derived, tenant_id)
        with self.kernel.database.read() as connection:
            everything = list_entry_ids(connection, tenant_id)
            untold = _find_untold(connection, tenant_id, everything)
        wanted: set[str] = set()
        for at, batch in enumerate(chunked(everything, INGEST_BATCH)):
            wanted |= self._derive_again(tenant_id, batch, untold)
            self.kernel.jobs.extend([job], min(0.9, at * INGEST_BATCH / max(1, len(everything))))
        self._drop_stale(tenant_id, everything, wanted)
        self.indexes.rewrite(tenant_id, anew=True)
        self._fold(job, anew=True)
        # Different after a change of recipe, or when something was lost or not folded yet; else a defect.
        same = digest_content(self.forgetting.derived, tenant_id) == before
        log.info("rebuilt", entries=len(everything), same_content=same)

    def _derive_again(
        self, tenant_id: TenantId, entry_ids: Sequence[EntryId], untold: Set[EntryId]
    ) -> set[str]:
        """Derive entries by today's recipes; return the names of what these make of them.

        Of those in ``untold`` nobody was told yet that they are indexed.
        """
        read = parse_contents(self.parser, self._iter_contents(tenant_id, entry_ids))
        for entry_id, error in read.refused.items():
            log.warning("entry cannot be read again", entry_id=entry_id, error=type(error).__name__)
        made = derive(read.parsed, self.indexes.encoder, read.timed)
        with self.kernel.commit(tenant_id, entry_ids) as commit:
            kept = [derived for derived in made if derived.entry_id not in commit.denied]
            artifacts = to_artifacts(self.kernel, self.indexes.recipes, tenant_id, kept)
            put(commit.connection, self.kernel.vault, tenant_id, artifacts)
            self._link_to_index(commit.connection, tenant_id, kept)
            fresh = [derived.entry_id for derived in kept if derived.entry_id in untold]
            record_changes(commit.connection, tenant_id, fresh, "indexed")
        # Of what could not be made again, whatever today's recipes made before.
        left = set(entry_ids) - {derived.entry_id for derived in kept}
        names = [self._name(tenant_id, derived) for derived in kept]
        for entry_id in left:
            names += list_names(self.kernel, self.indexes.recipes, tenant_id, entry_id)
        return {name for each in names for name in astuple(each)}

    def _drop_stale(self, tenant_id: TenantId, entry_ids: Sequence[EntryId], wanted: Set[str]) -> None:
        """Delete what other recipes made of these entries: an earlier model's vectors, say."""
        recipes, ours = self.indexes.recipes, frozenset[str](entry_ids)
        with self.kernel.database.write(alone=tenant_id) as connection:
            for recipe in (recipes.parse, recipes.timed, recipes.vectors, recipes.nodes):
                there = list_artifacts(connection, tenant_id, recipe.name)
                # Entries that came since are none of ours: what was made of them is not stale.
                stale = {name for name, under in there if under in ours} - wanted
                drop_edges_from(connection, tenant_id, stale)
                delete(connection, tenant_id, stale)

    def _finish(self, job: Job) -> None:
        with self.kernel.database.write() as connection:
            self.kernel.jobs.finish(connection, [job])


def _find_untold(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Sequence[EntryId]
) -> Set[EntryId]:
    """Return the entries that no change says are indexed, nor any job is about to: a backup brought them."""
    told = sa.select(changes.c.entry_id).where(changes.c.tenant_id == tenant_id, changes.c.kind == "indexed")
    coming = sa.select(jobs.c.target).where(
        jobs.c.tenant_id == tenant_id, jobs.c.kind == INGEST, jobs.c.status.in_(("queued", "running"))
    )
    known = {*connection.scalars(told), *connection.scalars(coming)}
    return {entry_id for entry_id in entry_ids if entry_id not in known}


def _attempt(do: Callable[[], object]) -> Exception | None:
    """Do some work and return what went wrong: the process edge, where a defect must not end the worker."""
    try:
        do()
    except LetheError as error:
        return error
    except OSError as error:
        # A disk that is full or broken, or a folder that cannot be written, may be mended.
        log.warning("the machine refused", error=type(error).__name__, errno=error.errno)
        return UnavailableError(f"the data folder cannot be used now: {error.strerror}")
    except Exception as error:  # noqa: BLE001
        # Where it failed, but no message and no values: they may hold content.
        places = traceback.format_tb(error.__traceback__)
        log.error("a defect ended some work", error=type(error).__name__, places=places)
        return error
    return None


def _problem(error: Exception) -> dict[str, JsonValue]:
    detail = str(error) if isinstance(error, LetheError) else "an internal error"
    return {"type": "about:blank", "title": type(error).__name__, "detail": detail}
