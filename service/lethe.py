"""The service as its doors see it: the use cases, one method each, and its life from start to stop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
import structlog

from memory.errors import CorruptionError, InvalidInputError, LetheError
from memory.fence import shared
from memory.journal import list_entry_ids
from memory.kernel import Kernel, find_denied
from memory.ledger import list_artifacts
from memory.ports import Store
from memory.tables import forgets
from memory.values import Content, EntryId, JsonValue, SourceId, TenantId
from reader.switch import SwitchingReader
from service.access import Access
from service.answer import Answerer
from service.browsing import Browser
from service.cursor import make_cursor, read_cursor
from service.excerpts import Excerpt, Excerpts
from service.forgetting import Forgetting
from service.gauges import Gauges, render
from service.index import Indexes
from service.listing import list_sources, view_source
from service.measuring import measure
from service.recall import Recaller
from service.remember import remember, view_job
from service.repeating import Repeating
from service.shelves import Shelves
from service.stream_events import StreamEvents
from service.streams import Streams
from service.views import (
    Answered,
    ForgetView,
    JobView,
    NodeView,
    Page,
    Principal,
    Recalled,
    Remembered,
    Scope,
    SourceView,
)
from service.watches import Watches
from service.work import COMPACT, FORGET, REBUILD, Work

POLL_SECONDS = 0.02
TEND_SECONDS = 1.0
ORPHAN_SECONDS = 900.0
"""Longer than any request takes from making its keys to writing its entries."""
OPEN = ("queued", "running")
CHILDREN = "children"
"""What the cursor of a node's children says instead of a name."""

log = structlog.get_logger()


class Waker(Protocol):
    """Runs jobs somewhere: embedded threads, or workers behind a broker."""

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None: ...

    def wake(self, job_id: str) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Lethe:
    """Everything wired; made by ``service.wiring``."""

    kernel: Kernel
    access: Access
    indexes: Indexes
    shelves: Shelves
    recaller: Recaller
    answerer: Answerer
    streams: Streams
    excerpts: Excerpts
    stream_events: StreamEvents
    watches: Watches
    forgetting: Forgetting
    close_cutter: Callable[[], None]
    """Ends what forgetting cuts recordings with."""
    work: Work
    waker: Waker
    stores: Sequence[Store]
    load_reader: SwitchingReader | None
    default_tenant: TenantId
    admin_key_file: Path
    stop_seconds: float = 30.0
    """How long running jobs may take to finish when the service stops."""
    _started: bool = False
    _stopping: bool = False
    _tending: Repeating | None = None
    _orphans: defaultdict[TenantId, set[EntryId]] = field(default_factory=lambda: defaultdict(set))
    """Keys that had no entry when they were last looked for."""
    _orphans_found_at: float = -math.inf

    # Life

    def start(self) -> None:
        """Open the indexes, make the first key, start workers, begin to load the reader."""
        self._check_journal()
        self.kernel.create_tenant(self.default_tenant)
        self.access.ensure_admin_key(self.default_tenant, self.admin_key_file)
        if self.kernel.database.is_shared:
            self._tending = Repeating("tending", TEND_SECONDS, self._tend)
        else:
            # The only process: whatever looks under way was left by one that ended.
            self.kernel.jobs.release_all()
            self._destroy_keys(self._find_orphan_keys())
        self.indexes.presence.start()
        self.indexes.open_all()
        self.shelves.open()
        self._stopping = False
        self.work.leases.open()
        self.waker.start(self.work.run_next, self.kernel.jobs.list_due)
        self._resume()
        if self.load_reader is not None:
            self.load_reader.start()
        if self._tending is not None:
            self._tending.start()
        self._started = True

    def _check_journal(self) -> None:
        """Refuse to start when the journal is lost: what follows would take its keys for orphans."""
        if not self.kernel.list_tenants() and not self.kernel.vault.is_empty():
            raise CorruptionError(
                "the database is new, but the key store has keys of entries: the journal was lost. Bring it "
                "back with: lethe restore FILE. To begin anew without it, move keys.db and root.key away"
            )

    def _tend(self) -> None:
        """Keep up with what the other processes do, and clear up after those that ended."""
        self.indexes.keep_up()
        if time.monotonic() - self._orphans_found_at > ORPHAN_SECONDS:
            # Keys come before their entry: what was an orphan for so long has no request behind it.
            found = self._find_orphan_keys()
            self._destroy_keys({tenant: ids & self._orphans[tenant] for tenant, ids in found.items()})
            self._orphans, self._orphans_found_at = self._find_orphan_keys(), time.monotonic()

    def _find_orphan_keys(self) -> defaultdict[TenantId, set[EntryId]]:
        """Return the keys of entries that are not in the journal: not yet, or not any more."""
        orphans: defaultdict[TenantId, set[EntryId]] = defaultdict(set)
        for tenant_id in self.kernel.list_tenants():
            held = set(self.kernel.vault.list_entry_ids(tenant_id))
            with self.kernel.database.read() as connection:
                orphans[tenant_id] = held - set(list_entry_ids(connection, tenant_id))
        return orphans

    def _destroy_keys(self, orphans: Mapping[TenantId, Set[EntryId]]) -> None:
        for tenant_id, entry_ids in orphans.items():
            if entry_ids:
                self.kernel.vault.destroy_keys(tenant_id, entry_ids)

    def _resume(self) -> None:
        """Wake what an earlier process left, derive again what today's recipes have not made, write files
        where there are none of today's format, and bring vectors to where the settings want them searched.

        A forget request that failed is tried again: what it denied stays hidden, but is not gone yet.
        """
        for tenant_id in self.kernel.list_tenants():
            with self.kernel.database.write(alone=tenant_id) as connection:
                if self._lacks_derived(connection, tenant_id):
                    self.kernel.jobs.add_once(connection, tenant_id, REBUILD)
                elif self.indexes.is_to_move(tenant_id) or self.indexes.is_worth_saving(tenant_id):
                    self.kernel.jobs.add_once(connection, tenant_id, COMPACT)
        self._queue_unfinished_forgets()
        for job_id in self.kernel.jobs.list_due(1_000):
            self.waker.wake(job_id)

    def _queue_unfinished_forgets(self) -> None:
        with self.kernel.database.write(alone="unfinished forgets") as connection:
            unfinished = connection.execute(
                sa.select(forgets.c.id, forgets.c.tenant_id).where(forgets.c.state != "certified")
            ).all()
            for row in unfinished:
                job = self.kernel.jobs.find_by_target(connection, row.tenant_id, FORGET, row.id)
                if job is None or job.status not in OPEN:
                    self.kernel.jobs.add(connection, row.tenant_id, FORGET, [row.id])

    def _lacks_derived(self, connection: sa.Connection, tenant_id: TenantId) -> bool:
        indexed = set(self.indexes.get(tenant_id).state.ordinals)
        ids = set(list_entry_ids(connection, tenant_id))
        missing = ids - indexed - find_denied(connection, tenant_id, ids)
        made = {EntryId(under) for _, under in list_artifacts(connection, tenant_id, "nodes")}
        return bool(missing & made)

    def drain(self) -> None:
        """Say from now on that this process is not ready: it is about to stop."""
        self._stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether this process is about to stop: whoever waits here had better ask another."""
        return self._stopping

    def stop(self) -> int:
        """Let running jobs finish, within a limit, and close everything.

        Return how many jobs did not finish and were given back; the threads that run them may live on.
        """
        self._started, self._stopping = False, True
        unfinished = self.work.leases.close(timeout_seconds=self.stop_seconds)
        if unfinished:
            log.warning("jobs given back unfinished", job_ids=[job.id for job in unfinished])
        self.waker.stop()
        if self._tending is not None:
            self._tending.stop()
        self.work.parser.close()
        self.excerpts.close()
        self.close_cutter()
        self.indexes.presence.stop()
        self.indexes.close()
        self.kernel.fence.close()
        self.kernel.database.close()
        self.kernel.vault.close()
        return len(unfinished)

    def is_ready(self) -> dict[str, str]:
        """Return what is missing before requests can be served; nothing when ready.

        A broker that is away is not among it: requests are served, and jobs wait in the database.
        """
        if self._stopping:
            return {"service": "stopping"}
        if not self._started:
            return {"service": "starting"}
        looked_at: dict[str, Callable[[], object]] = {
            "database": self.kernel.list_tenants,
            "keys": self.kernel.vault.is_empty,
        }
        return {name: why for name, look in looked_at.items() if (why := _find_trouble(look))}

    def render_metrics(self) -> bytes:
        """Return this process's metrics in Prometheus' text format."""
        return render(Gauges(self.kernel, self.indexes, self.shelves))

    def authenticate(self, key: str) -> Principal:
        """Return who a key belongs to."""
        return self.access.authenticate(key)

    def reading(self, tenant_id: TenantId) -> AbstractContextManager[None]:
        """Hold the fence shared: content leaves only inside this block, after a recheck."""
        return shared(self.kernel.fence, tenant_id)

    # Remember

    def remember(
        self, tenant_id: TenantId, contents: Sequence[Content], *, source_id: SourceId | None = None
    ) -> list[Remembered]:
        """Append contents and wake workers for them."""
        done = remember(self.kernel, tenant_id, contents, source_id)
        queued = [item.job.id for item in done if item.job.status == "queued"]
        # Ties the request's id to its jobs', which their own lines carry.
        log.info("queued", jobs=len(queued), job_ids=queued[:INGEST_STRIDE])
        for job_id in queued[::INGEST_STRIDE]:
            self.waker.wake(job_id)
        return [self._with_passages(tenant_id, item) for item in done]

    def _with_passages(self, tenant_id: TenantId, item: Remembered) -> Remembered:
        if item.job.status != "done":
            return item
        view = self.get_source(tenant_id, item.source_id)
        return Remembered(item.source_id, item.version, item.job, view.passages, item.unchanged)

    def get_job(self, tenant_id: TenantId, job_id: str) -> JobView:
        """Return a job of this tenant."""
        return view_job(self.kernel.jobs.get(tenant_id, job_id))

    def wait_job(self, tenant_id: TenantId, job_id: str, *, timeout_seconds: float) -> JobView:
        """Return a job once it has ended, or as it is when the time is up."""
        deadline = time.monotonic() + timeout_seconds
        while (view := self.get_job(tenant_id, job_id)).status in OPEN and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return view

    def retry_job(self, tenant_id: TenantId, job_id: str) -> JobView:
        """Have a job that ended without success done once more."""
        self.work.retry(self.kernel.jobs.get(tenant_id, job_id))
        return self.get_job(tenant_id, job_id)

    def cancel_job(self, tenant_id: TenantId, job_id: str) -> JobView:
        """Cancel a job that has not ended, and take back the content it was for."""
        self.work.cancel(self.kernel.jobs.get(tenant_id, job_id))
        return self.get_job(tenant_id, job_id)

    def list_jobs(self, tenant_id: TenantId, *, cursor: str | None, limit: int) -> Page[JobView]:
        """Return a page of jobs, newest first."""
        found = self.kernel.jobs.list_page(tenant_id, read_cursor(cursor), limit + 1)
        more = len(found) > limit
        last = found[limit - 1] if more else None
        following = None if last is None else make_cursor(last.created_us, last.id)
        return Page(tuple(view_job(job) for job in found[:limit]), following)

    # Sources

    def get_source(
        self, tenant_id: TenantId, source_id: SourceId, *, as_of: datetime | None = None
    ) -> SourceView:
        """Return a source's newest version, or the one that held at a time, with its text."""
        return view_source(self.kernel, self.recaller, tenant_id, source_id, as_of=as_of)

    def list_sources(
        self,
        tenant_id: TenantId,
        *,
        kind: str,
        user_id: str | None,
        cursor: str | None,
        limit: int,
        filter: JsonValue = None,
        pending: bool = False,
    ) -> Page[SourceView]:
        """Return a page of the sources of one kind, newest first; with ``pending`` also those not indexed."""
        views, last = list_sources(
            self.kernel,
            tenant_id,
            self.indexes.get(tenant_id).state,
            kind=kind,
            user_id=user_id,
            filter=filter,
            pending=pending,
            after=read_cursor(cursor),
            limit=limit,
        )
        return Page(tuple(views), None if last is None else make_cursor(*last))

    def get_frame(self, tenant_id: TenantId, source_id: SourceId, at_ms: int) -> Excerpt:
        """Return what a video shows at a time; to be rechecked while ``reading`` when handed over."""
        return self.excerpts.get_frame(tenant_id, source_id, at_ms)

    def get_clip(self, tenant_id: TenantId, source_id: SourceId, start_ms: int, end_ms: int) -> Excerpt:
        """Return an excerpt of a video or recording; to be rechecked while ``reading`` when handed over."""
        return self.excerpts.get_clip(tenant_id, source_id, start_ms, end_ms)

    def recheck_excerpt(self, tenant_id: TenantId, excerpt: Excerpt) -> None:
        """Raise ``ForgottenError`` when its source was denied meanwhile."""
        self.excerpts.recheck(tenant_id, excerpt)

    # The hierarchy

    def list_topics(
        self, tenant_id: TenantId, *, level: int | None = None, cursor: str | None, limit: int
    ) -> Page[NodeView]:
        """Return a page of topics, of one level or the topmost; called while ``reading``."""
        with self.kernel.database.read() as connection:
            browser = Browser(self.kernel, self.indexes, self.recaller, connection, tenant_id)
            views, last = browser.list_topics(level=level, after=read_cursor(cursor), limit=limit)
        return Page(tuple(views), None if last is None else make_cursor(*last))

    def get_node(
        self, tenant_id: TenantId, node_id: str, *, cursor: str | None = None, limit: int = 50
    ) -> tuple[NodeView, str | None]:
        """Return a topic, source or section with a page of its children, and the next page's cursor.

        Called while ``reading``.
        """
        skip, what = read_cursor(cursor) or (0, CHILDREN)
        if what != CHILDREN or skip < 0:
            raise InvalidInputError("not a cursor of this node", where="cursor")
        with self.kernel.database.read() as connection:
            browser = Browser(self.kernel, self.indexes, self.recaller, connection, tenant_id)
            view = browser.get_node(node_id, skip=skip, limit=limit)
        return view, make_cursor(skip + limit, CHILDREN) if view.more_children else None

    # Recall and answer

    def recall(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 10,
        filter: JsonValue = None,
        as_of: datetime | None = None,
        hierarchy: bool | None = None,
    ) -> Recalled:
        """Return passages for a query; to be rechecked while ``reading`` when handed over."""
        return self.recaller.recall(
            tenant_id, query, limit=limit, filter=filter, as_of=as_of, hierarchy=hierarchy
        )

    def recheck_recall(self, tenant_id: TenantId, recalled: Recalled) -> Recalled:
        """Drop what was denied meanwhile."""
        return self.recaller.recheck(tenant_id, recalled)

    def answer(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 8,
        filter: JsonValue = None,
        as_of: datetime | None = None,
        explain: bool = False,
    ) -> Answered:
        """Return a checked answer or an abstention; to be rechecked when handed over.

        ``explain`` adds how it came about, for which the model is asked once more, without evidence.
        """
        return self.answerer.answer(
            tenant_id, query, limit=limit, filter=filter, as_of=as_of, explain=explain
        )

    def iter_answer(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 8,
        filter: JsonValue = None,
        as_of: datetime | None = None,
        explain: bool = False,
    ) -> Generator[Answered, None, None]:
        """Yield one answer per supported claim, then the whole."""
        return self.answerer.iter_answer(
            tenant_id, query, limit=limit, filter=filter, as_of=as_of, explain=explain
        )

    def recheck_answer(self, tenant_id: TenantId, answered: Answered) -> Answered:
        """Abstain when any of the evidence was denied meanwhile."""
        return self.answerer.recheck(tenant_id, answered)

    # Forget

    def forget(self, tenant_id: TenantId, scope: Scope, *, preview: bool) -> ForgetView:
        """Count what a scope means, or fence it: once this returns, nothing of it leaves."""
        if preview:
            return self.forgetting.preview(tenant_id, scope)
        view, job_id = self.forgetting.execute(tenant_id, scope)
        self.waker.wake(job_id)
        return view

    def get_forget(self, tenant_id: TenantId, forget_id: str) -> ForgetView:
        """Return a forget request's progress."""
        return self.forgetting.view(tenant_id, forget_id)

    def wait_forget(self, tenant_id: TenantId, forget_id: str, *, timeout_seconds: float) -> ForgetView:
        """Return a forget request once it is certified or failed, or as it is when the time is up."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            view = self.get_forget(tenant_id, forget_id)
            if view.state in ("certified", "failed"):
                return view
            time.sleep(POLL_SECONDS)
        return self.get_forget(tenant_id, forget_id)

    def get_certificate(self, tenant_id: TenantId, forget_id: str) -> dict[str, JsonValue]:
        """Return the signed certificate of a certified request."""
        return self.forgetting.get_certificate(tenant_id, forget_id)

    # Operations

    def rebuild(self, tenant_id: TenantId) -> JobView:
        """Queue the remaking of everything derived from the journal."""
        with self.kernel.database.write() as connection:
            job = self.kernel.jobs.add(connection, tenant_id, REBUILD, [""])[0]
        self.waker.wake(job.id)
        return view_job(job)

    def stats(self, tenant_id: TenantId) -> dict[str, JsonValue]:
        """Return counts of what is held, and how far the work is."""
        return {
            **measure(self.kernel, self.indexes.get(tenant_id), tenant_id),
            "certificate_key": self.forgetting.signing_key.public_key.hex(),
            "vectors_searched_in": self.indexes.name_searching(tenant_id),
            "kv": self.shelves.measure(tenant_id),
            "embedder": self.indexes.encoder.space.model,
            "reader": self.answerer.reader.name,
            "hierarchy": self.recaller.hierarchy,
        }


INGEST_STRIDE = 16
"""One message per so many queued entries: a worker that wakes takes all that wait."""


def _find_trouble(look: Callable[[], object]) -> str:
    """Return why something does not answer; empty when it does. No driver's words: they may hold a URL."""
    try:
        look()
    except LetheError as error:
        return str(error)
    except sa.exc.SQLAlchemyError as error:
        return f"does not answer ({type(error).__name__})"
    return ""
