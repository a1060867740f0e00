"""What the service says back: the shapes of its JSON, and the use cases' values put into them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NotRequired

from typing_extensions import TypedDict

from memory.values import Part, PlaceKind
from service.views import (
    AnswerCitation,
    AnswerClaim,
    Answered,
    AnswerExplanation,
    ForgetView,
    JobView,
    KeyView,
    NewKey,
    Page,
    Recalled,
    RecallHit,
    Remembered,
    Role,
    SourceView,
    Span,
    TenantView,
)


class ProblemReply(TypedDict):
    """An error, as RFC 9457 has it; ``errors`` names each field of the request that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: NotRequired[list[dict[str, str]]]


class JobReply(TypedDict):
    """A job and how far it is, 0 to 1; ``error`` is a problem when it failed."""

    id: str
    kind: str
    status: str
    progress: float
    error: NotRequired[dict[str, Any]]


class JobStub(TypedDict):
    """A job in short."""

    id: str
    status: str


class RememberedReply(TypedDict):
    """One acknowledged document or memory; ``passages`` once they are counted."""

    id: str
    version: int
    passages: NotRequired[int]
    job: JobStub


class SourceReply(TypedDict):
    """A document or memory in its newest version (or the one ``as_of`` asked for).

    ``job`` is what one that is not indexed yet waits for.
    """

    id: str
    external_id: str | None
    version: int
    title: str | None
    subjects: list[str]
    metadata: dict[str, Any]
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    occurred_at: str | None
    recorded_at: str
    passages: int | None
    text: NotRequired[str]
    job: NotRequired[JobStub]


class SourcePage(TypedDict):
    """One page of a listing; ``next_cursor`` is null on the last."""

    items: list[SourceReply]
    next_cursor: str | None


class JobPage(TypedDict):
    """One page of a listing; ``next_cursor`` is null on the last."""

    items: list[JobReply]
    next_cursor: str | None


class PlaceReply(TypedDict):
    """Where it stands in the file, first and last included: pages, slides, rows and lines from 1, or ms."""

    kind: PlaceKind
    first: int
    last: int


class SpanReply(TypedDict):
    """Half-open range of code points in the extracted text, with the reader's landmarks."""

    start: int
    end: int
    place: NotRequired[PlaceReply]
    heading: NotRequired[str]
    messages: NotRequired[list[str]]


class PartReply(TypedDict):
    """Which part of a stream it is from: the segment's number, and its times in the stream's own time."""

    id: str
    number: int
    start_ms: int
    end_ms: int


class HitReply(TypedDict):
    """One passage found. ``duplicates``: ids of the passages nearly the same that it stands for, up to 20.

    ``stream`` of what came in one.
    """

    passage_id: str
    source_id: str
    external_id: str | None
    version: int
    title: str | None
    text: str
    score: float
    span: SpanReply
    subjects: list[str]
    metadata: dict[str, Any]
    duplicates: list[str]
    stream: NotRequired[PartReply]


class RecallReply(TypedDict):
    """What a recall found, best first, as of an epoch."""

    epoch: int
    hits: list[HitReply]


class ClaimReply(TypedDict):
    """One sentence; ``citations`` index into the answer's citations."""

    text: str
    supported: bool
    citations: list[int]


class CitationReply(TypedDict):
    """A verbatim quote and where it stands."""

    source_id: str
    external_id: str | None
    passage_id: str
    quote: str
    span: SpanReply
    stream: NotRequired[PartReply]


class ClaimEvent(TypedDict):
    """One sentence of a streamed answer with its quotes."""

    text: str
    citations: list[CitationReply]


class RemovedReply(TypedDict):
    """A claim that was not let through, and why."""

    text: str
    reason: str


class ConflictReply(TypedDict):
    """Sides of the evidence that say otherwise; ``holds``: the index of the one believed, null while open."""

    sides: list[CitationReply]
    holds: int | None
    reason: str | None


class ClosedBookReply(TypedDict):
    """What the model says without any evidence, and whether that is the answer that was given."""

    answer: str
    knew: bool


class ExplanationReply(TypedDict):
    """How an answer came about. ``model`` is null when the reader only quotes: no model was asked.

    ``shown`` is what stood before the model, whole. Below ``abstain_below`` of ``answerable``, the estimate
    that the evidence holds the answer, nothing is said; ``signals`` make the confidence.
    """

    model: str | None
    closed_book: ClosedBookReply | None
    shown: list[CitationReply]
    removed: list[RemovedReply]
    conflicts: list[ConflictReply]
    answerable: float
    abstain_below: float
    signals: dict[str, float]


class AnswerReply(TypedDict):
    """A checked answer, or an abstention (``answer`` is null)."""

    epoch: int
    answer: str | None
    abstained: bool
    confidence: float
    claims: list[ClaimReply]
    citations: list[CitationReply]
    reader: str
    timings_ms: dict[str, float]
    tokens: dict[str, int]
    explanation: NotRequired[ExplanationReply]


class ForgetReply(TypedDict):
    """A forget request; ``remaining`` counts what still has to go, per store."""

    id: str
    state: str
    epoch: int
    counts: dict[str, int]
    remaining: NotRequired[dict[str, int]]
    error: NotRequired[dict[str, Any]]


class KeyReply(TypedDict):
    """An API key without the key: what it may do, and how long. ``replaced_by`` is set once it is rotated."""

    id: str
    tenant: str
    name: str
    roles: list[Role]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    replaced_by: str | None


class NewKeyReply(KeyReply):
    """A key just made, and ``key``, the secret itself, which is shown this once."""

    key: str


class KeyPage(TypedDict):
    """One page of a listing; ``next_cursor`` is null on the last."""

    items: list[KeyReply]
    next_cursor: str | None


class TenantReply(TypedDict):
    """A tenant."""

    id: str
    created_at: str


class TenantPage(TypedDict):
    """One page of a listing; ``next_cursor`` is null on the last."""

    items: list[TenantReply]
    next_cursor: str | None


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as RFC 3339 writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def job_reply(job: JobView) -> JobReply:
    """Return a job whole."""
    reply = JobReply(id=job.id, kind=job.kind, status=job.status, progress=job.progress)
    if job.error is not None:
        reply["error"] = dict(job.error)
    return reply


def job_page(page: Page[JobView]) -> JobPage:
    """Return a page of jobs."""
    return JobPage(items=[job_reply(job) for job in page.items], next_cursor=page.next_cursor)


def remembered_reply(remembered: Remembered, job: JobView, passages: int | None) -> RememberedReply:
    """Return an acknowledgement with its job as it is now."""
    stub = JobStub(id=job.id, status=job.status)
    if passages is None:
        return RememberedReply(id=remembered.source_id, version=remembered.version, job=stub)
    return RememberedReply(id=remembered.source_id, version=remembered.version, passages=passages, job=stub)


def source_reply(source: SourceView) -> SourceReply:
    """Return a document or memory; with its text where the view has it."""
    reply = SourceReply(
        id=source.source_id,
        external_id=source.external_id,
        version=source.version,
        title=source.title,
        subjects=list(source.subjects),
        metadata=dict(source.metadata),
        user_id=source.user_id,
        agent_id=source.agent_id,
        run_id=source.run_id,
        occurred_at=None if source.occurred_at is None else rfc3339(source.occurred_at),
        recorded_at=rfc3339(source.recorded_at),
        passages=source.passages,
    )
    if source.text is not None:
        reply["text"] = source.text
    if source.job is not None:
        reply["job"] = JobStub(id=source.job.id, status=source.job.status)
    return reply


def source_page(page: Page[SourceView]) -> SourcePage:
    """Return a page of documents or memories."""
    return SourcePage(items=[source_reply(source) for source in page.items], next_cursor=page.next_cursor)


def span_reply(span: Span) -> SpanReply:
    """Return a span; landmarks it does not have are left out."""
    reply = SpanReply(start=span.start, end=span.end)
    if span.place is not None:
        reply["place"] = PlaceReply(kind=span.place.kind, first=span.place.first, last=span.place.last)
    if span.heading:
        reply["heading"] = span.heading
    if span.messages:
        reply["messages"] = list(span.messages)
    return reply


def recall_reply(recalled: Recalled) -> RecallReply:
    """Return what a recall found."""
    return RecallReply(epoch=recalled.epoch, hits=[hit_reply(hit) for hit in recalled.hits])


def part_reply(part: Part) -> PartReply:
    """Return which part of a stream it is."""
    return PartReply(id=part.stream_id, number=part.number, start_ms=part.start_ms, end_ms=part.end_ms)


def hit_reply(hit: RecallHit) -> HitReply:
    """Return one passage found."""
    reply = HitReply(
        passage_id=hit.passage_id,
        source_id=hit.source_id,
        external_id=hit.external_id,
        version=hit.version,
        title=hit.title,
        text=hit.text,
        score=hit.score,
        span=span_reply(hit.span),
        subjects=list(hit.subjects),
        metadata=dict(hit.metadata),
        duplicates=[passage_id for passage_id, _ in hit.duplicates],
    )
    if hit.part is not None:
        reply["stream"] = part_reply(hit.part)
    return reply


def citation_reply(citation: AnswerCitation) -> CitationReply:
    """Return one citation."""
    reply = CitationReply(
        source_id=citation.source_id,
        external_id=citation.external_id,
        passage_id=citation.passage_id,
        quote=citation.quote,
        span=span_reply(citation.span),
    )
    if citation.part is not None:
        reply["stream"] = part_reply(citation.part)
    return reply


def claim_reply(answered: Answered, claim: AnswerClaim) -> ClaimEvent:
    """Return one claim with the citations it points to."""
    return ClaimEvent(
        text=claim.text,
        citations=[citation_reply(answered.citations[index]) for index in claim.citations],
    )


def answer_reply(answered: Answered) -> AnswerReply:
    """Return a whole answer."""
    reply = AnswerReply(
        epoch=answered.epoch,
        answer=answered.answer,
        abstained=answered.abstained,
        confidence=answered.confidence,
        claims=[
            ClaimReply(text=claim.text, supported=claim.supported, citations=list(claim.citations))
            for claim in answered.claims
        ],
        citations=[citation_reply(citation) for citation in answered.citations],
        reader=answered.reader,
        timings_ms=dict(answered.timings_ms),
        tokens=dict(answered.tokens),
    )
    if answered.explanation is not None:
        reply["explanation"] = explanation_reply(answered.explanation)
    return reply


def explanation_reply(told: AnswerExplanation) -> ExplanationReply:
    """Return how an answer came about."""
    asked = told.closed_book
    return ExplanationReply(
        model=told.model,
        closed_book=None if asked is None else ClosedBookReply(answer=asked.answer, knew=asked.knew),
        shown=[citation_reply(piece) for piece in told.shown],
        removed=[RemovedReply(text=text, reason=reason) for text, reason in told.removed],
        conflicts=[
            ConflictReply(
                sides=[citation_reply(side) for side in one.sides], holds=one.holds, reason=one.reason
            )
            for one in told.conflicts
        ],
        answerable=told.answerable,
        abstain_below=told.abstain_below,
        signals=dict(told.signals),
    )


def forget_reply(view: ForgetView, *, whole: bool) -> ForgetReply:
    """Return a forget request; ``whole`` adds what remains."""
    reply = ForgetReply(id=view.id, state=view.state, epoch=view.epoch, counts=dict(view.counts))
    if whole:
        reply["remaining"] = dict(view.remaining)
    if view.error is not None:
        reply["error"] = dict(view.error)
    return reply


def key_reply(view: KeyView) -> KeyReply:
    """Return a key without its secret."""
    return KeyReply(
        id=view.id,
        tenant=view.tenant_id,
        name=view.name,
        roles=list(view.roles),
        created_at=rfc3339(view.created_at),
        expires_at=None if view.expires_at is None else rfc3339(view.expires_at),
        revoked_at=None if view.revoked_at is None else rfc3339(view.revoked_at),
        replaced_by=view.replaced_by,
    )


def new_key_reply(new: NewKey) -> NewKeyReply:
    """Return a key with its secret; the one reply that holds it."""
    return NewKeyReply(**key_reply(new.view), key=new.key)


def key_page(page: Page[KeyView]) -> KeyPage:
    """Return a page of keys."""
    return KeyPage(items=[key_reply(view) for view in page.items], next_cursor=page.next_cursor)


def tenant_reply(view: TenantView) -> TenantReply:
    """Return a tenant."""
    return TenantReply(id=view.id, created_at=rfc3339(view.created_at))


def tenant_page(page: Page[TenantView]) -> TenantPage:
    """Return a page of tenants."""
    return TenantPage(items=[tenant_reply(view) for view in page.items], next_cursor=page.next_cursor)
