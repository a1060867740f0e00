"""What the use cases take and return: plain immutable values, no HTTP and no SQL in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from memory.values import (
    Attributes,
    ClosedBook,
    EntryId,
    ForgetId,
    JobId,
    JsonValue,
    Part,
    PassageId,
    Place,
    SourceId,
    TenantId,
)

Role = Literal["read", "write", "forget", "admin"]
ALL_ROLES: tuple[Role, ...] = ("read", "write", "forget", "admin")
JobStatus = Literal["queued", "running", "done", "failed", "dead", "cancelled"]
"""``failed``: refused for good. ``dead``: given up after several tries; it may be tried again."""

ForgetState = Literal[
    "previewed", "fenced", "erasing", "folding", "verifying", "purging", "certified", "failed"
]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the tenant a key belongs to, what the key may do, and the key's id.

    ``operator``: an admin of the default tenant, who may also make tenants.
    """

    tenant_id: TenantId
    roles: frozenset[Role]
    key_id: str
    operator: bool = False


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key as its admin sees it: everything but the key. ``replaced_by`` is set once it is rotated."""

    id: str
    tenant_id: TenantId
    name: str
    roles: tuple[Role, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with the secret itself: shown once and kept nowhere."""

    view: KeyView
    key: str


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant: its name and when it was made."""

    id: TenantId
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its owner sees it. ``error`` is problem JSON (RFC 9457) when it failed."""

    id: JobId
    kind: str
    status: JobStatus
    progress: float
    error: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """The acknowledgement of one remembered entry. ``unchanged``: it was there already, word for word."""

    source_id: SourceId
    version: int
    job: JobView
    passages: int | None = None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """A remembered document or memory in one version; ``job`` is what an unindexed one waits for."""

    source_id: SourceId
    kind: str
    external_id: str | None
    version: int
    title: str | None
    subjects: tuple[str, ...]
    metadata: Mapping[str, JsonValue]
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    occurred_at: datetime | None
    recorded_at: datetime
    passages: int | None
    text: str | None = None
    job: JobView | None = None


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream and how far it has come. ``attributes`` are what was said of it when it was opened.

    ``next_number`` is the first that was not received; ``ahead`` are those received behind it. ``segments``
    counts what is held, ``waiting`` what of it is not searchable yet; ``end_ms`` is where the last searchable
    segment ends.
    """

    id: SourceId
    kind: str
    attributes: Attributes
    created_at: datetime
    closed_at: datetime | None
    next_number: int
    ahead: tuple[int, ...]
    segments: int
    waiting: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Received:
    """The acknowledgement of a segment. ``job`` is ``None`` for one that was received before and is gone."""

    stream_id: SourceId
    number: int
    next_number: int
    source_id: SourceId | None
    job: JobView | None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A passage of a stream: what is said or shown from ``start_ms`` until ``end_ms`` of its time."""

    passage_id: PassageId
    source_id: SourceId
    entry_id: EntryId
    number: int
    start_ms: int
    end_ms: int
    text: str
    heading: str | None
    occurred_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a listing; ``next_cursor`` is opaque and None on the last page."""

    items: tuple[Item, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a text stands: code points in the extracted text, and the reader's landmarks."""

    start: int
    end: int
    place: Place | None = None
    heading: str | None = None
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecallHit:
    """One passage found. ``entry_id`` is its lineage, for the check before sending.

    ``duplicates`` are near-duplicates it stands for, each with its lineage.
    """

    passage_id: PassageId
    source_id: SourceId
    entry_id: EntryId
    external_id: str | None
    version: int
    title: str | None
    text: str
    score: float
    span: Span
    subjects: tuple[str, ...]
    metadata: Mapping[str, JsonValue]
    occurred_at: datetime | None = None
    duplicates: tuple[tuple[PassageId, EntryId], ...] = ()
    part: Part | None = None
    """Of which stream it is a part."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """The result of a recall, at the epoch at which it was last checked."""

    epoch: int
    hits: tuple[RecallHit, ...]
    timings_ms: Mapping[str, float] = field(default_factory=dict)


NodeKind = Literal["topic", "source", "section", "passage"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that stands for a node, verbatim, and where it is: code points in its source's text."""

    source_id: SourceId
    entry_id: EntryId
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeChild:
    """What lies right below a node."""

    id: str
    kind: NodeKind
    title: str | None
    sources: int
    passages: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of the hierarchy. ``level`` counts topics from the sources up; ``label`` are telling words.

    ``subjects`` with the number of sources about each, most frequent first; None where they were not
    counted. ``parent`` is None at the top, and while what lies above is folded again.
    """

    id: str
    kind: NodeKind
    level: int | None
    label: tuple[str, ...]
    title: str | None
    parent: str | None
    children: tuple[NodeChild, ...]
    more_children: bool
    summary: tuple[Sentence, ...]
    sources: int
    passages: int
    first_at: datetime
    last_at: datetime
    subjects: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True, slots=True)
class AnswerCitation:
    """A verbatim quote and where it stands (``span``: the quote's own place in the source's text)."""

    source_id: SourceId
    entry_id: EntryId
    external_id: str | None
    passage_id: PassageId
    quote: str
    span: Span
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class AnswerClaim:
    """One sentence of the answer; ``citations`` index into the answer's citations."""

    text: str
    supported: bool
    citations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerConflict:
    """Sides of the evidence that say otherwise, one quote each; ``holds`` is the one believed, if any is."""

    sides: tuple[AnswerCitation, ...]
    holds: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerExplanation:
    """How an answer came about, as ``memory.values.Explanation`` has it.

    ``shown`` stood before the model, each piece quoted whole; ``removed`` are claims with the reason.
    """

    model: str | None
    shown: tuple[AnswerCitation, ...]
    removed: tuple[tuple[str, str], ...]
    conflicts: tuple[AnswerConflict, ...]
    answerable: float
    abstain_below: float
    signals: Mapping[str, float]
    closed_book: ClosedBook | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A checked answer, or an abstention (``answer`` None). ``reader`` names which reader answered.

    ``lineage`` is every entry the reader saw, cited or not.
    """

    epoch: int
    answer: str | None
    abstained: bool
    confidence: float
    claims: tuple[AnswerClaim, ...]
    citations: tuple[AnswerCitation, ...]
    reader: str
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    lineage: tuple[EntryId, ...] = ()
    explanation: AnswerExplanation | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What to forget. Every condition that is given must hold; an empty scope is refused."""

    ids: tuple[str, ...] = ()
    external_ids: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    filter: Mapping[str, JsonValue] | None = None
    time_from: datetime | None = None
    time_to: datetime | None = None
    user_id: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    """Of streams and recordings: what is seen or heard between these, half-open."""
    speakers: tuple[str, ...] = ()
    """Of transcripts: what these say."""

    @property
    def takes_parts(self) -> bool:
        """Whether it may mean a part of an entry, the rest of which stays."""
        return bool(self.speakers) or self.start_ms is not None or self.end_ms is not None


@dataclass(frozen=True, slots=True)
class ForgetView:
    """A forget request's progress. ``remaining`` counts what still has to go, per store."""

    id: ForgetId
    state: ForgetState
    epoch: int
    counts: Mapping[str, int]
    remaining: Mapping[str, int] = field(default_factory=dict)
    error: Mapping[str, JsonValue] | None = None
