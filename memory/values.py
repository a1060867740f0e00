"""The values that cross between the kernel and the organs.

All are immutable and plain. Spans are half-open ranges of code points in the
extracted text of one journal entry.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NewType

TenantId = NewType("TenantId", str)
SourceId = NewType("SourceId", str)
EntryId = NewType("EntryId", str)
PassageId = NewType("PassageId", str)
ArtifactName = NewType("ArtifactName", str)
JobId = NewType("JobId", str)
ForgetId = NewType("ForgetId", str)

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

EntryKind = Literal["document", "memory", "stream", "segment", "watch"]
"""A document is a file or text with its own structure; a memory is a short text or a chat.

A stream is what is said of a recording as a whole; a segment is a part of it, as it came in. A watch is a
query that stands: what comes in is held against it.
"""

MESSAGES_MEDIA_TYPE = "application/vnd.lethe.messages+json"
"""Body of a chat: a JSON array of messages {role, content, id?, name?, at?}."""
CUES_MEDIA_TYPE = "application/vnd.lethe.cues+json"
"""Body of a part of a transcript: a JSON array of cues {start_ms, end_ms, text, speaker?}."""
STREAM_MEDIA_TYPE = "application/vnd.lethe.stream+json"
"""Body of a stream itself: a JSON object {kind}; there is nothing to read in it."""
WATCH_MEDIA_TYPE = "application/vnd.lethe.watch+json"
"""Body of a watch: a JSON object {query, name, filter, threshold}; nothing in it is ever found."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a stream a segment is: its number, and when it is seen or heard, in the stream's time.

    Half-open: from ``start_ms`` until ``end_ms``. ``speakers`` are named by its cues.
    """

    stream_id: SourceId
    number: int
    start_ms: int
    end_ms: int
    speakers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the user said about an entry, beside its content. Filters and scopes match on these."""

    title: str | None = None
    external_id: str | None = None
    subjects: tuple[str, ...] = ()
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    occurred_at: datetime | None = None
    part: Part | None = None
    """Of a segment alone."""
    is_rest: bool = False
    """Whether it is what a forget request left of an entry of which it meant a part."""

    @property
    def stream_id(self) -> str | None:
        """The stream that a segment is a part of."""
        return None if self.part is None else self.part.stream_id


@dataclass(frozen=True, slots=True)
class Content:
    """One thing a user told Lethe, as it came in."""

    kind: EntryKind
    media_type: str
    body: bytes
    attributes: Attributes = Attributes()
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A node of a document's outline. ``parent`` is an index into ``Parsed.sections``."""

    start: int
    end: int
    heading: tuple[str, ...]
    parent: int | None = None


PlaceKind = Literal["page", "slide", "row", "line", "time"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stretch of text stands in the file it came from, ``first`` and ``last`` included.

    Pages, slides, rows and lines count from 1 as a reader counts them (a sheet's name is a heading);
    time is in milliseconds.
    """

    kind: PlaceKind
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A leaf: what is embedded, found and cited.

    ``context`` is set in front of the text when it is embedded or lexically
    indexed (title, heading path; in chats speakers and date); it is never shown as evidence.
    ``section`` is an index into ``Parsed.sections``.
    """

    start: int
    end: int
    section: int = 0
    place: Place | None = None
    heading: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    context: str = ""
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """When stretches of a text are shown or said: cues of captions, utterances.

    Stretch ``i`` is ``text[starts[i]:ends[i]]``, from ``start_ms[i]`` to ``end_ms[i]``. Columns, all of one
    length, in reading order: recalls read those of whole films.
    """

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    start_ms: tuple[int, ...] = ()
    end_ms: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    def find(self, start: int, end: int) -> Place | None:
        """Return when a span of the text is said; ``None`` where no time of it is known."""
        first, last = bisect_right(self.ends, start), bisect_left(self.starts, end)
        if first >= last:
            return None
        return Place("time", min(self.start_ms[first:last]), max(self.end_ms[first:last]))


@dataclass(frozen=True, slots=True)
class Parsed:
    """An entry's extracted text with its structure.

    ``sections[0]`` is always the whole text. Passages are in reading order, do not
    overlap, and lie inside their section. Only a text with places in time has ``times``.
    """

    title: str | None
    text: str
    sections: tuple[Section, ...]
    passages: tuple[Passage, ...]
    warnings: tuple[str, ...] = ()
    times: Times = Times()


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was said from ``start_ms`` to ``end_ms`` of a recording: a sentence, or a breath of a long one."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in a recording, in order. ``language`` is an ISO 639 code, ``None`` where nobody speaks.

    ``warnings`` say what could not be made out.
    """

    utterances: tuple[Utterance, ...]
    language: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text in a picture; ``confidence`` is 0..1, the box in pixels from the upper left."""

    text: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Space:
    """Where vectors may be compared: one model, one dimension, one numeric class."""

    model: str
    digest: str
    dimension: int
    numeric_class: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A passage handed to a reader. ``probability`` is recall's belief that it matters, 0..1.

    ``is_whole`` says that ``text`` is the passage's whole text, and nothing beside it.
    Passages of one ``source_id`` are one witness; ``None`` where it is not known.
    """

    passage_id: PassageId
    text: str
    title: str | None = None
    heading: tuple[str, ...] = ()
    occurred_at: datetime | None = None
    probability: float = 0.0
    is_whole: bool = False
    source_id: SourceId | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A verbatim quote: ``evidence.text[start:end] == quote`` for ``evidence`` at ``index``."""

    index: int
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One checked sentence of an answer."""

    text: str
    supported: bool
    citations: tuple[Citation, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Sides of the evidence that say otherwise, one quote each; ``holds`` is the one believed, if any is."""

    sides: tuple[Citation, ...]
    holds: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ClosedBook:
    """What the model says without evidence, and whether that is the answer that was given from evidence."""

    answer: str
    knew: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a reading came about.

    ``model`` was asked to write, ``None`` when the reader only quotes; ``shown`` are indices of the evidence
    that it was shown, in the prompt's order. ``answerable``, 0..1, estimates that the evidence holds the
    answer: below ``abstain_below`` nothing is said. ``signals``, 0..1 each, make the confidence.
    ``closed_book`` is ``None`` when there is no model, or when it was busy or out of reach: an answer asks
    within the place it was written in, an abstention for a place of its own.
    """

    model: str | None
    answerable: float
    abstain_below: float
    signals: Mapping[str, float]
    shown: tuple[int, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    closed_book: ClosedBook | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of the evidence: supported claims only form the answer."""

    claims: tuple[Claim, ...]
    confidence: float
    reader: str
    tokens: Mapping[str, int] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    explanation: Explanation | None = None

    @property
    def abstained(self) -> bool:
        """True when no claim is supported."""
        return not any(claim.supported for claim in self.claims)
