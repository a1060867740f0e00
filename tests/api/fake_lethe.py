"""A small Lethe in memory: the facade's contract, honest enough to test the doors against.

A text with the word ``poison`` cannot be indexed. A question is answered with every passage that shares a
word with it. The fence is the real one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from prometheus_client import generate_latest

from memory.errors import ConflictError, ForbiddenError, ForgottenError, InvalidInputError, NotFoundError
from memory.fence import InProcessFence, shared
from memory.filters import compile_filter
from memory.values import ClosedBook, Content, EntryId, ForgetId, JobId, PassageId, SourceId, TenantId
from service.excerpts import Excerpt
from service.views import (
    AnswerCitation,
    AnswerClaim,
    AnswerConflict,
    Answered,
    AnswerExplanation,
    ForgetView,
    JobView,
    Page,
    Principal,
    Recalled,
    RecallHit,
    Remembered,
    Scope,
    SourceView,
    Span,
)


def _explanation(citations: list[AnswerCitation]) -> AnswerExplanation:
    """Return one that has something of everything."""
    shown = tuple(citations)
    return AnswerExplanation(
        "told",
        shown,
        (("wrong", "no passage says it"),),
        (AnswerConflict(shown, 0, "newer"),),
        0.8,
        0.4,
        {"lead": 0.5},
        ClosedBook("I do not know.", knew=False),
    )


KEYS = {
    "admin-key": Principal(TenantId("t1"), frozenset({"admin"}), "k1"),
    "read-key": Principal(TenantId("t1"), frozenset({"read"}), "k2"),
    "write-key": Principal(TenantId("t1"), frozenset({"write"}), "k3"),
    "forget-key": Principal(TenantId("t1"), frozenset({"forget"}), "k4"),
    "other-key": Principal(TenantId("t2"), frozenset({"admin"}), "k5"),
}


@dataclass
class Entry:
    source_id: SourceId
    version: int
    content: Content
    job: JobView

    @property
    def id(self) -> EntryId:
        return EntryId(f"{self.source_id}-{self.version}")

    @property
    def text(self) -> str:
        return self.content.body.decode("utf-8", "replace")


@dataclass
class FakeLethe:
    slow: bool = False  # jobs stay queued until ``finish`` is called
    ready: bool = True
    error: Exception | None = None  # raised by every use case
    before_recheck: Callable[[], None] | None = None
    entries: dict[TenantId, list[Entry]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    forgets: dict[ForgetId, ForgetView] = field(default_factory=dict)
    contents: list[Content] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    holds: int = 0
    started: int = 0
    fence: InProcessFence = field(default_factory=InProcessFence)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.started -= 1

    def render_metrics(self) -> bytes:
        return generate_latest()

    def drain(self) -> None:
        self.ready = False

    def is_ready(self) -> dict[str, str]:
        return {} if self.ready else {"worker": "not started"}

    def authenticate(self, key: str) -> Principal:
        if key not in KEYS:
            raise ForbiddenError("unknown key")
        return KEYS[key]

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def _all(self, tenant_id: TenantId) -> list[Entry]:
        return [one for one in self.entries.get(tenant_id, []) if one.id not in self.denied]

    def remember(self, tenant_id, contents, *, source_id=None):
        self._fail()
        return [self._remember(tenant_id, content, source_id) for content in contents]

    def _remember(self, tenant_id: TenantId, content: Content, source_id: SourceId | None) -> Remembered:
        with self.lock:
            self.contents.append(content)
            held = self.entries.setdefault(tenant_id, [])
            name = content.attributes.external_id
            if source_id is None and name is not None:
                source_id = next(
                    (
                        one.source_id
                        for one in self._all(tenant_id)
                        if one.content.attributes.external_id == name
                    ),
                    None,
                )
            elif source_id is not None and not any(
                one.source_id == source_id for one in self._all(tenant_id)
            ):
                raise NotFoundError("document", source_id)
            versions = [one for one in self._all(tenant_id) if one.source_id == source_id]
            if versions and name is None:
                inherited = versions[-1].content.attributes.external_id
                said = replace(content.attributes, external_id=inherited)
                content = self.contents[-1] = replace(content, attributes=said)
            if versions and versions[-1].content == content:
                last = versions[-1]
                return Remembered(last.source_id, last.version, last.job, passages=1, unchanged=True)
            number = sum(map(len, self.entries.values())) + 1
            job = JobView(JobId(f"job{number}"), "ingest", "queued", 0.0)
            held.append(Entry(source_id or SourceId(f"s{number}"), len(versions) + 1, content, job))
            if not self.slow:
                self._finish(held[-1])
            return Remembered(held[-1].source_id, held[-1].version, job)

    def _finish(self, entry: Entry) -> None:
        if "poison" in entry.text:
            problem = {"type": "urn:x", "title": "unreadable", "detail": "poison on line 1"}
            entry.job = replace(entry.job, status="failed", error=problem)
        else:
            entry.job = replace(entry.job, status="done", progress=1.0)

    def finish(self) -> None:
        for entry in [one for held in self.entries.values() for one in held]:
            self._finish(entry)

    def get_job(self, tenant_id, job_id):
        self._fail()
        for entry in self.entries.get(tenant_id, []):
            if entry.job.id == job_id:
                return entry.job
        raise NotFoundError("job", job_id)

    def retry_job(self, tenant_id, job_id):
        job = self.get_job(tenant_id, job_id)
        raise ConflictError(f"the job is {job.status}: there is nothing to try again")

    def cancel_job(self, tenant_id, job_id):
        return replace(self.get_job(tenant_id, job_id), status="cancelled")

    def list_jobs(self, tenant_id, *, cursor, limit):
        self._fail()
        return self._page([entry.job for entry in self.entries.get(tenant_id, [])], cursor, limit)

    def _page(self, items: list, cursor: str | None, limit: int) -> Page:
        if cursor is not None and not cursor.isdecimal():
            raise InvalidInputError("not a cursor", where="cursor")
        start = int(cursor or 0)
        more = start + limit < len(items)
        return Page(tuple(items[start : start + limit]), str(start + limit) if more else None)

    def _view(self, entry: Entry, *, text: bool) -> SourceView:
        said = entry.content.attributes
        return SourceView(
            entry.source_id,
            entry.content.kind,
            said.external_id,
            entry.version,
            said.title,
            said.subjects,
            said.metadata,
            said.user_id,
            said.agent_id,
            said.run_id,
            said.occurred_at,
            datetime(2026, 3, 1, tzinfo=UTC),
            1 if entry.job.status == "done" else None,
            entry.text if text else None,
        )

    def get_source(self, tenant_id, source_id, *, as_of=None):
        self._fail()
        known = [one for one in self.entries.get(tenant_id, []) if one.source_id == source_id]
        if not known:
            raise NotFoundError("document", source_id)
        if known[-1].id in self.denied:
            raise ForgottenError(source_id)
        return self._view(known[-1], text=True)

    def get_frame(self, tenant_id, source_id, at_ms):
        """Return the text itself, as if it were a picture."""
        view = self.get_source(tenant_id, source_id)
        entry = self.entries[tenant_id][-1]
        return Excerpt(view.source_id, entry.id, entry.content.body, "image/jpeg", at_ms, at_ms)

    def recheck_excerpt(self, tenant_id, excerpt):
        assert self.holds > 0, "the fence is not held"
        if excerpt.entry_id in self.denied:
            raise ForgottenError(excerpt.source_id)

    def list_sources(self, tenant_id, *, kind, user_id, cursor, limit, filter=None, pending=False):
        self._fail()
        condition = None if filter is None else compile_filter(filter)
        newest = {one.source_id: one for one in self._all(tenant_id) if one.content.kind == kind}
        chosen = [
            one
            for one in newest.values()
            if condition is None
            or condition.matches(one.content.attributes, recorded_at=datetime(2026, 3, 1, tzinfo=UTC))
        ]
        views = [self._view(one, text=False) for one in chosen]
        return self._page([one for one in views if user_id in (None, one.user_id)], cursor, limit)

    def recall(self, tenant_id, query, *, limit=10, filter=None, as_of=None, hierarchy=True):
        self._fail()
        if filter is not None and "$bad" in filter:
            raise InvalidInputError("unknown operator '$bad'", where="filter")
        words = set(query.lower().split())
        hits = [
            RecallHit(
                PassageId(f"p-{one.id}"),
                one.source_id,
                one.id,
                one.content.attributes.external_id,
                one.version,
                one.content.attributes.title,
                one.text,
                0.5,
                Span(0, len(one.text), heading="Top", place=None),
                one.content.attributes.subjects,
                one.content.attributes.metadata,
            )
            for one in self._all(tenant_id)
            if words & set(one.text.lower().split())
        ]
        return Recalled(1, tuple(hits[:limit]))

    def recheck_recall(self, tenant_id, recalled):
        assert self.holds > 0, "the fence is not held"
        if self.before_recheck is not None:
            self.before_recheck()
        return replace(recalled, hits=tuple(hit for hit in recalled.hits if hit.entry_id not in self.denied))

    def answer(self, tenant_id, query, *, limit=8, filter=None, as_of=None, explain=False):
        *_, whole = self.iter_answer(
            tenant_id, query, limit=limit, filter=filter, as_of=as_of, explain=explain
        )
        return whole

    def recheck_answer(self, tenant_id, answered):
        assert self.holds > 0, "the fence is not held"
        if self.before_recheck is not None:
            self.before_recheck()
        claims = [
            claim
            for claim in answered.claims
            if not any(answered.citations[i].entry_id in self.denied for i in claim.citations)
        ]
        return replace(self._whole(claims, list(answered.citations)), explanation=answered.explanation)

    def iter_answer(self, tenant_id, query, *, limit, filter, as_of, explain=False) -> Iterator[Answered]:
        hits = self.recall(tenant_id, query, limit=limit, filter=filter).hits
        claims, citations = [], []
        for number, hit in enumerate(hits):
            span = Span(0, len(hit.text))
            citation = AnswerCitation(
                hit.source_id, hit.entry_id, hit.external_id, hit.passage_id, hit.text, span
            )
            claims.append(AnswerClaim(hit.text, True, (number,)))
            citations.append(citation)
            yield self._whole([AnswerClaim(hit.text, True, (0,))], [citation])
        whole = self._whole(claims, citations)
        yield replace(whole, explanation=_explanation(citations)) if explain else whole

    def _whole(self, claims: list[AnswerClaim], citations: list[AnswerCitation]) -> Answered:
        kept = sorted({index for claim in claims for index in claim.citations})
        moved = [
            replace(claim, citations=tuple(kept.index(index) for index in claim.citations))
            for claim in claims
        ]
        text = " ".join(claim.text for claim in claims) or None
        return Answered(
            1,
            text,
            text is None,
            0.9 if text else 0.0,
            tuple(moved),
            tuple(citations[index] for index in kept),
            "extractive",
            {"read": 1.0},
            {"prompt": 3},
        )

    @contextmanager
    def reading(self, tenant_id):
        with shared(self.fence, tenant_id):
            with self.lock:
                self.holds += 1
            try:
                yield
            finally:
                with self.lock:
                    self.holds -= 1

    def _matches(self, entry: Entry, scope: Scope) -> bool:
        said = entry.content.attributes
        return (
            (not scope.ids or entry.source_id in scope.ids)
            and (not scope.external_ids or said.external_id in scope.external_ids)
            and (not scope.subjects or bool(set(said.subjects) & set(scope.subjects)))
            and scope.user_id in (None, said.user_id)
        )

    def forget(self, tenant_id, scope, *, preview):
        self._fail()
        self.scopes.append(scope)
        with self.fence.exclusive(tenant_id):
            chosen = {one.id for one in self._all(tenant_id) if self._matches(one, scope)}
            if preview:
                return ForgetView(ForgetId("preview"), "previewed", 1, {"entries": len(chosen)})
            self.denied |= chosen
        id = ForgetId(f"f{len(self.forgets) + 1}")
        fenced = ForgetView(id, "fenced", 2, {"entries": len(chosen)}, {"vectors": len(chosen)})
        self.forgets[id] = fenced if self.slow else replace(fenced, state="certified", remaining={})
        return fenced

    def get_forget(self, tenant_id, forget_id):
        self._fail()
        if forget_id not in self.forgets:
            raise NotFoundError("forget request", forget_id)
        return self.forgets[forget_id]

    def get_certificate(self, tenant_id, forget_id):
        if self.get_forget(tenant_id, forget_id).state != "certified":
            raise NotFoundError("certificate", forget_id)
        return {"forget": forget_id, "counts": {"entries": 1}, "signature": "00"}

    def rebuild(self, tenant_id):
        self._fail()
        content = Content("memory", "text/plain", b"rebuild")
        job = JobView(JobId("rebuild1"), "rebuild", "done", 1.0)
        self.entries.setdefault(TenantId(f"{tenant_id}"), []).append(
            Entry(SourceId("rebuild"), 1, content, job)
        )
        return job

    def stats(self, tenant_id):
        self._fail()
        return {"documents": len(self._all(tenant_id)), "epoch": 1}
