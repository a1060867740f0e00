"""The use case of forgetting: what a scope means, the job, and the certificate."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
import structlog

from memory.canonical import canonical_json
from memory.clock import to_datetime, to_micros
from memory.database import chunked
from memory.digest import digest_store
from memory.errors import (
    BusyError,
    ForgottenError,
    InvalidInputError,
    LetheError,
    NotFoundError,
    UnavailableError,
)
from memory.filters import compile_filter
from memory.jobs import Job
from memory.journal import EntryRow, get_content, iter_headers
from memory.kernel import Kernel
from memory.ledger import find_closure, iter_payloads
from memory.parsed import load_parsed
from memory.ports import Store
from memory.tables import certificates, denied, entries, forgets
from memory.values import Attributes, Content, EntryId, JobId, JsonValue, Part, TenantId
from service.index import Indexes
from service.ingest import list_names
from service.metrics import certificate_seconds, fence_seconds
from service.payloads import load_vectors
from service.remember import fresh_keys
from service.sparing import Cutter, append_rest, spare
from service.topics import fold_topics
from service.views import ForgetView, Scope
from sources.parse import is_media
from unlearning.certificate import CertificatePayload, Counts, SigningKey, StoreResult, issue_certificate
from unlearning.forget import (
    Erased,
    ForgetRow,
    Purge,
    Resolve,
    Settle,
    count_remaining,
    erase,
    fence,
    find_earlier,
    get_forget,
    list_denied,
    set_state,
)
from unlearning.log import entry_hash

DRAIN_SECONDS = 600.0
DRAIN_POLL_SECONDS = 0.1
PREPARATIONS = 5
"""So often what stays of entries is made ready, while others change them."""

log = structlog.get_logger()

Predicate = Callable[[EntryRow, Attributes], bool]


class _ChangedError(Exception):
    """Other entries are meant than those of which the rest was made ready."""


class Forgetting:
    """Resolves scopes, fences them, and erases what is fenced."""

    def __init__(
        self,
        kernel: Kernel,
        indexes: Indexes,
        *,
        derived: Sequence[Store],
        truth: Sequence[Store],
        purges: Mapping[str, Purge],
        engines: Mapping[str, Settle],
        signing_key: SigningKey,
        version: str,
        cutter: Cutter,
        wake: Callable[[str], None],
    ) -> None:
        self.kernel = kernel
        self.indexes = indexes
        self.derived = derived
        self.truth = truth
        self.purges = purges
        self.engines = engines
        self.signing_key = signing_key
        self.version = version
        self.cutter = cutter
        self.wake = wake

    def preview(self, tenant_id: TenantId, scope: Scope) -> ForgetView:
        """Count what a scope would forget now; nothing changes."""
        matches = _compile_scope(scope)
        with self.kernel.database.read() as connection:
            found = self._resolve(connection, tenant_id, scope, matches)
        left = spare(self.kernel, self.cutter, tenant_id, scope, found)
        with self.kernel.database.read() as connection:
            closure = find_closure(connection, tenant_id, found)
            rows = connection.execute(
                sa.select(entries.c.source_id, entries.c.id).where(entries.c.tenant_id == tenant_id)
            )
            sources = {row.source_id for row in rows if row.id in found}
        counts = {"sources": len(sources), "entries": len(found), "artifacts": len(closure)}
        if scope.takes_parts:
            counts["kept_in_part"] = len(left)
        return ForgetView(id="", state="previewed", epoch=0, counts=counts)  # type: ignore[arg-type]

    def execute(self, tenant_id: TenantId, scope: Scope) -> tuple[ForgetView, str]:
        """Fence a scope; return the request and the id of the job that erases it."""
        started = time.perf_counter()
        matches = _compile_scope(scope)
        digest = self.kernel.vault.name(tenant_id, "scope", canonical_json(_scope_json(scope)))
        # Opening headers takes long. Those of indexed entries are in memory, and the rest are opened once
        # before the fence, which leaves little to do under it.
        cards = self.indexes.get(tenant_id).state.cards
        known: dict[EntryId, bool] = {card.row.id: matches(card.row, card.attributes) for card in cards}

        def resolve(connection: sa.Connection) -> set[EntryId]:
            return self._resolve(connection, tenant_id, scope, matches, known)

        queued: list[JobId] = []
        if scope.takes_parts:
            row, queued = self._fence_parts(tenant_id, scope, resolve, digest)
        else:
            # A header erased by another request meanwhile no longer opens, and is looked at again below.
            with suppress(ForgottenError), self.kernel.database.read() as connection:
                resolve(connection)
            row = fence(self.kernel, tenant_id, resolve, digest)
        for job_id in queued:
            self.wake(job_id)
        fence_seconds.observe(time.perf_counter() - started)
        self.indexes.get(tenant_id)  # takes it out of view now, so that no recall need do it
        log.info("fenced", forget_id=row.id, epoch=row.epoch, **row.counts)
        return _view(row), row.job_id

    def _fence_parts(
        self, tenant_id: TenantId, scope: Scope, resolve: Resolve, digest: str
    ) -> tuple[ForgetRow, list[JobId]]:
        """Fence entries of which a part is meant, and write down what stays of them, in one transaction.

        What stays is made ready before; when other entries are meant by then, or one of them is being
        forgotten by another request, it is made ready again. Raises ``BusyError`` when that does not end.
        """
        for _ in range(PREPARATIONS):
            with suppress(_ChangedError, ForgottenError):
                with self.kernel.database.read() as connection:
                    seen = resolve(connection)
                left = spare(self.kernel, self.cutter, tenant_id, scope, seen)
                return self._fence_prepared(tenant_id, resolve, digest, seen, left)
        raise BusyError("what is to be forgotten in part keeps changing", retry_in_seconds=1)

    def _fence_prepared(
        self,
        tenant_id: TenantId,
        resolve: Resolve,
        digest: str,
        seen: set[EntryId],
        left: Mapping[EntryId, Content],
    ) -> tuple[ForgetRow, list[JobId]]:
        """Fence what was seen, of which ``left`` stays. Raises ``_ChangedError`` if more is meant by now."""
        with fresh_keys(self.kernel, tenant_id, list(left.values())) as fresh:
            parts = dict(zip(left, fresh.items(), strict=True))
            opener = self.kernel.vault.opener(tenant_id, fresh)
            queued: list[JobId] = []

            def keep_rest(connection: sa.Connection, rows: Sequence[EntryRow]) -> int:
                if not {row.id for row in rows} <= seen:
                    raise _ChangedError
                queued.extend(append_rest(self.kernel, connection, tenant_id, opener, rows, parts))
                return len(queued)

            return fence(self.kernel, tenant_id, resolve, digest, rest=keep_rest), queued

    def _resolve(
        self,
        connection: sa.Connection,
        tenant_id: TenantId,
        scope: Scope,
        matches: Predicate,
        known: dict[EntryId, bool] | None = None,
    ) -> set[EntryId]:
        """Return the entries that a scope means and no request has denied yet.

        ``known`` remembers the verdict on entries seen.
        """
        known = {} if known is None else known
        # What an earlier request denied is gone for every reader, and its headers may no longer open.
        gone = sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id)
        query = sa.select(entries.c.id).where(entries.c.tenant_id == tenant_id, entries.c.id.not_in(gone))
        if scope.ids and len(scope.ids) <= 500:
            named = (entries.c.source_id, entries.c.id, entries.c.stream_id)
            query = query.where(sa.or_(*(column.in_(scope.ids) for column in named)))
        wanted = [EntryId(i) for i in connection.scalars(query)]
        unknown = [entry_id for entry_id in wanted if entry_id not in known]
        for row, header in iter_headers(connection, self.kernel.vault, tenant_id, unknown):
            known[row.id] = matches(row, header.attributes)
        found = {entry_id for entry_id in wanted if known.get(entry_id)}
        return found | _list_parts(connection, tenant_id, found)

    def view(self, tenant_id: TenantId, forget_id: str) -> ForgetView:
        """Return a forget request's progress."""
        return _view(get_forget(self.kernel, tenant_id, forget_id))

    def get_certificate(self, tenant_id: TenantId, forget_id: str) -> dict[str, JsonValue]:
        """Return the signed certificate; ``NotFoundError`` until the request is certified."""
        with self.kernel.database.read() as connection:
            document = connection.scalar(
                sa.select(certificates.c.document).where(
                    certificates.c.forget_id == forget_id, certificates.c.tenant_id == tenant_id
                )
            )
        if document is None:
            raise NotFoundError("certificate of forget request", forget_id)
        return dict(document)

    def run(self, job: Job) -> None:
        """Erase what the request denied, verify, certify. A failure keeps the fence and is recorded."""
        forget = get_forget(self.kernel, job.tenant_id, job.target)
        if forget.state == "certified":
            with self.kernel.database.write() as connection:
                self.kernel.jobs.finish(connection, [job])
            return
        try:
            if find_earlier(self.kernel, forget):
                raise UnavailableError("an earlier forget request is not certified yet")
            erased = erase(
                self.kernel,
                forget,
                derived=self.derived,
                truth=self.truth,
                remains=self,
                passages=self._count_passages(forget),
                purges=self.purges,
                engines=self.engines,
            )
            self._certify(forget, job, erased)
        except Exception as error:
            self._record_failure(forget, error)
            raise

    def _record_failure(self, forget: ForgetRow, error: Exception) -> None:
        """Say on the request what went wrong and what remains; what may still come right is tried again."""
        detail = str(error) if isinstance(error, LetheError) else "an internal error"
        said: dict[str, JsonValue] = {"title": type(error).__name__, "detail": detail}
        state = "fenced" if isinstance(error, UnavailableError | OSError) else "failed"
        set_state(self.kernel, forget, state, error=said)
        remaining = count_remaining(self.kernel, forget, (*self.derived, *self.truth))
        set_state(self.kernel, forget, state, remaining=remaining, error=said)

    def _count_passages(self, forget: ForgetRow) -> int:
        state = self.indexes.get(forget.tenant_id).state
        ids = list_denied(self.kernel, forget)
        return int(state.passages[[state.ordinals[i] for i in ids if i in state.ordinals]].sum())

    def _certify(self, forget: ForgetRow, job: Job, erased: Erased) -> None:
        tenant_id = forget.tenant_id
        results = [
            StoreResult(store.name, erased.held[store.name], 0, digest_store(store, tenant_id))
            for store in (*self.derived, *self.truth)
        ]
        combined = hashlib.sha256("".join(result.content_digest for result in results).encode()).hexdigest()
        keys = erased.held["keys"]
        counts = Counts(
            sources=forget.counts["sources"],
            entries=forget.counts["entries"],
            artifacts=erased.artifacts,
            passages=erased.passages,
            keys=keys,
        )
        certified_us = max(self.kernel.clock(), forget.fenced_us)  # a clock may be set back
        with self.kernel.database.write(alone="certificates") as connection:
            last = connection.execute(
                sa.select(certificates.c.position, certificates.c.entry_hash)
                .order_by(certificates.c.position.desc())
                .limit(1)
            ).one_or_none()
            previous = None if last is None else last.entry_hash
            payload = CertificatePayload(
                forget_id=forget.id,
                tenant=self.kernel.vault.name(tenant_id, "fingerprint", b"tenant"),
                scope_digest=forget.scope_digest,
                requested_at=to_datetime(forget.requested_us),
                fenced_at=to_datetime(forget.fenced_us),
                certified_at=to_datetime(certified_us),
                epoch=forget.epoch,
                counts=counts,
                stores=tuple(results),
                scan=dict(erased.scan or {}),
                media=erased.media,
                engines=erased.engines,
                content_digest=combined,
                keys_destroyed=keys,
                lethe_version=self.version,
                previous=previous,
            )
            document = issue_certificate(payload.to_json(), self.signing_key)
            connection.execute(
                certificates.insert().values(
                    forget_id=forget.id,
                    tenant_id=tenant_id,
                    position=1 if last is None else last.position + 1,
                    entry_hash=entry_hash(previous, document),
                    document=document,
                )
            )
            connection.execute(
                forgets.update()
                .where(forgets.c.id == forget.id)
                .values(
                    state="certified", remaining={}, error=None, counts={**forget.counts, **counts.to_json()}
                )
            )
            self.kernel.jobs.finish(connection, [job])
        seconds = (certified_us - forget.fenced_us) / 1_000_000
        certificate_seconds.observe(seconds)
        log.info("certified", forget_id=forget.id, seconds=round(seconds, 3))

    # What the state machine asks of the service (unlearning.forget.Remains).

    def iter_texts(self, tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> Iterable[str]:
        """Yield the words of entries: the body as it came where it is text, and what was parsed from it."""
        for entry_id in entry_ids:
            names = list_names(self.kernel, self.indexes.recipes, tenant_id, entry_id)
            with self.kernel.database.read() as connection:
                opener = self.kernel.vault.opener(tenant_id, [entry_id])
                content = get_content(connection, opener, entry_id)
                parsed = [each.parse for each in names]
                payloads = dict(iter_payloads(connection, self.kernel.vault, tenant_id, parsed))
            if content is not None:
                # Of a film only the words: runs of zeros in it stand in any file, and would be found there.
                if not is_media(content.media_type):
                    yield content.body.decode("utf-8", "ignore")
                yield from _attribute_texts(content)
            for payload in payloads.values():
                yield load_parsed(payload).text

    def iter_vectors(
        self, tenant_id: TenantId, entry_ids: Sequence[EntryId]
    ) -> Iterable[npt.NDArray[np.float32]]:
        """Yield the vectors of entries."""
        for entry_id in entry_ids:
            found = list_names(self.kernel, self.indexes.recipes, tenant_id, entry_id)
            names = [each.vectors for each in found]
            with self.kernel.database.read() as connection:
                for _, payload in iter_payloads(connection, self.kernel.vault, tenant_id, names):
                    yield load_vectors(payload, self.indexes.encoder.space.dimension)

    def iter_surviving(self, tenant_id: TenantId) -> tuple[Iterable[str], Iterable[npt.NDArray[np.float32]]]:
        """Return the words and vectors of every entry of any tenant that is not denied."""
        surviving = [(other, self._list_surviving(other)) for other in self.kernel.list_tenants()]
        texts = (text for other, ids in surviving for text in self.iter_texts(other, ids))
        vectors = (rows for other, ids in surviving for rows in self.iter_vectors(other, ids))
        return texts, vectors

    def _list_surviving(self, tenant_id: TenantId) -> list[EntryId]:
        hidden = sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id)
        with self.kernel.database.read() as connection:
            found = connection.scalars(
                sa.select(entries.c.id).where(entries.c.tenant_id == tenant_id, entries.c.id.not_in(hidden))
            )
            return [EntryId(i) for i in found]

    def drain(self, tenant_id: TenantId, epoch: int) -> None:
        """Wait until every process has let go of what it opened before an epoch."""
        late = time.monotonic() + DRAIN_SECONDS
        while behind := self.indexes.presence.list_behind(tenant_id, epoch):
            if time.monotonic() > late:
                raise UnavailableError(
                    f"{len(behind)} other processes still hold an index from before the request; trying again"
                )
            time.sleep(DRAIN_POLL_SECONDS)

    def fold(self, tenant_id: TenantId) -> None:
        """Make the topics again from what survives."""
        while not fold_topics(self.kernel, self.indexes, tenant_id):
            log.info("another forget came between; folding again")


def _list_parts(connection: sa.Connection, tenant_id: TenantId, found: Collection[EntryId]) -> set[EntryId]:
    """Return the segments of streams that are among these: what was said of a stream stands in each."""
    gone = sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id)
    parts: set[EntryId] = set()
    for chunk in chunked(sorted(found)):
        mine = (entries.c.tenant_id == tenant_id) & entries.c.stream_id.in_(chunk)
        ids = connection.scalars(sa.select(entries.c.id).where(mine, entries.c.id.not_in(gone)))
        parts |= {EntryId(i) for i in ids}
    return parts


def _attribute_texts(content: Content) -> Iterable[str]:
    """Yield the words said about a content: title, file name, names of people, metadata."""
    attributes = content.attributes
    named = (attributes.title, content.filename, attributes.external_id, attributes.user_id)
    yield from (text for text in (*named, attributes.agent_id, attributes.run_id) if text)
    yield from attributes.subjects
    yield from _strings(dict(attributes.metadata))


def _strings(value: JsonValue) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _view(row: ForgetRow) -> ForgetView:
    return ForgetView(row.id, row.state, row.epoch, row.counts, row.remaining, row.error)  # type: ignore[arg-type]


def _scope_json(scope: Scope) -> JsonValue:
    def text(instant: datetime | None) -> str | None:
        return None if instant is None else instant.isoformat()

    ranged = {"start_ms": scope.start_ms, "end_ms": scope.end_ms}
    told: dict[str, JsonValue] = {name: value for name, value in ranged.items() if value is not None}
    if scope.speakers:
        told["speakers"] = list(scope.speakers)
    return told | {
        "ids": list(scope.ids),
        "external_ids": list(scope.external_ids),
        "subjects": list(scope.subjects),
        "filter": None if scope.filter is None else dict(scope.filter),
        "time_from": text(scope.time_from),
        "time_to": text(scope.time_to),
        "user_id": scope.user_id,
    }


def _compile_scope(scope: Scope) -> Predicate:
    """Return a predicate that holds when every condition given holds; an empty scope is refused."""
    tests: list[Predicate] = []
    if scope.ids:
        ids = frozenset(scope.ids)
        tests.append(lambda row, _: row.source_id in ids or row.id in ids or row.stream_id in ids)
    if scope.external_ids:
        names = frozenset(scope.external_ids)
        tests.append(lambda _, attributes: attributes.external_id in names)
    if scope.subjects:
        subjects = frozenset(scope.subjects)
        tests.append(lambda _, attributes: not subjects.isdisjoint(attributes.subjects))
    if scope.user_id is not None:
        tests.append(lambda _, attributes: attributes.user_id == scope.user_id)
    if scope.filter:
        condition = compile_filter(dict(scope.filter))
        tests.append(
            lambda row, attributes: condition.matches(attributes, recorded_at=to_datetime(row.recorded_us))
        )
    if scope.time_from is not None or scope.time_to is not None:
        tests.append(lambda row, attributes: _happened(row, attributes, scope.time_from, scope.time_to))
    if scope.takes_parts and not (scope.ids or scope.external_ids):
        raise InvalidInputError("a range or speakers need what they are of, by id", where="scope")
    if scope.start_ms is not None or scope.end_ms is not None:
        start_ms, end_ms = scope.start_ms or 0, scope.end_ms
        tests.append(lambda row, attributes: _overlaps(row, attributes.part, start_ms, end_ms))
    if scope.speakers:
        speakers = frozenset(scope.speakers)
        tests.append(lambda row, attributes: _says(row, attributes.part, speakers))
    if not tests:
        raise InvalidInputError("give at least one condition; an empty scope forgets nothing", where="scope")
    return lambda row, attributes: all(test(row, attributes) for test in tests)


def _overlaps(row: EntryRow, part: Part | None, start_ms: int, end_ms: int | None) -> bool:
    """Say whether something of a segment is seen or heard in a range, half-open; of a document it may be."""
    if part is None:
        return row.kind == "document"
    return (end_ms is None or part.start_ms < end_ms) and max(part.start_ms + 1, part.end_ms) > start_ms


def _says(row: EntryRow, part: Part | None, speakers: frozenset[str]) -> bool:
    """Say whether one of these speaks in a segment; of a document nothing is known."""
    if part is None and row.kind == "document":
        raise InvalidInputError("only streams know who speaks; name the document's seconds instead")
    return part is not None and not speakers.isdisjoint(part.speakers)


def _happened(row: EntryRow, attributes: Attributes, start: datetime | None, end: datetime | None) -> bool:
    """Say whether an entry is of a range of time; of a segment, whether any of it is.

    What is said of a stream is of no time: its segments are.
    """
    if row.kind == "stream":
        return False
    part, occurred_at = attributes.part, attributes.occurred_at
    begun = row.recorded_us if occurred_at is None else to_micros(occurred_at)
    lasts = 0 if part is None or occurred_at is None else 1000 * (part.end_ms - part.start_ms)
    before = end is None or begun < to_micros(end)
    return before and (start is None or begun + max(0, lasts - 1) >= to_micros(start))
