"""Answering: recall, pack, read, check; every quote traced back to its place in the source."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

from memory.asking import asked_by
from memory.kernel import Kernel, find_denied, get_position
from memory.ports import Reader
from memory.values import Citation, EntryId, Evidence, JsonValue, Parsed, Reading, TenantId
from retrieval.pack import Candidate, pack
from service.explaining import explanation_of
from service.recall import HEADING_SEPARATOR, Recaller
from service.shelves import Shelves
from service.views import AnswerCitation, AnswerClaim, Answered, Recalled, RecallHit

EVIDENCE_CHARACTERS = 9_000
"""What a reader is handed at most: about 2,200 tokens of English, unless it shows many passages."""

PASSAGE_CHARACTERS = 1_500
"""For each passage that a reader is shown it may be handed so much."""

PASSAGES_OF_A_SOURCE = 4
"""Where other sources were found, too, a reader is shown no more passages of one: none outshouts the rest."""


class Answerer:
    """Answers questions from recalled evidence through a reader."""

    def __init__(
        self, kernel: Kernel, recaller: Recaller, reader: Reader, shelves: Shelves, *, passages: int = 1
    ) -> None:
        """``passages`` are shown to a model, at most."""
        self.kernel = kernel
        self.recaller = recaller
        self.reader = reader
        self.shelves = shelves
        self.characters = max(EVIDENCE_CHARACTERS, passages * PASSAGE_CHARACTERS)

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
        """Return the checked answer, or an abstention."""
        recalled, stretches = self._gather(tenant_id, query, limit, filter, as_of)
        started = time.perf_counter()
        evidence = [stretch.evidence for stretch in stretches]
        with asked_by(tenant_id):
            reading = self.reader.read(query, evidence, self.shelves.of(tenant_id), explain=explain)
        return _compose(recalled, stretches, reading, {"read": _since(started)})

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
        """Yield one answer per supported claim as it is ready, then the whole one."""
        recalled, stretches = self._gather(tenant_id, query, limit, filter, as_of)
        started = time.perf_counter()
        evidence = [stretch.evidence for stretch in stretches]
        coming = self.reader.iter_claims(query, evidence, self.shelves.of(tenant_id), explain=explain)
        with closing(coming) as claims:
            while True:
                try:
                    with asked_by(tenant_id):
                        claim = next(claims)
                except StopIteration as end:
                    reading: Reading = end.value
                    break
                if claim.supported:
                    yield _compose(recalled, stretches, Reading((claim,), 0.0, self.reader.name), {})
        yield _compose(recalled, stretches, reading, {"read": _since(started)})

    def _gather(
        self, tenant_id: TenantId, query: str, limit: int, filter: JsonValue, as_of: datetime | None
    ) -> tuple[Recalled, list[Stretch]]:
        recalled = self.recaller.recall(tenant_id, query, limit=limit, filter=filter, as_of=as_of)
        entry_ids = list(dict.fromkeys(hit.entry_id for hit in recalled.hits))
        parsed = self.recaller.load_parsed(tenant_id, entry_ids)
        return recalled, pack_hits(recalled.hits, parsed, self.characters)

    def recheck(self, tenant_id: TenantId, answered: Answered) -> Answered:
        """Abstain when any of the evidence was denied meanwhile."""
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, set(answered.lineage))
            epoch = get_position(connection, tenant_id).epoch
        if not hidden:
            return replace(answered, epoch=epoch)
        # A reader sees all its evidence at once: what was said beside a denied passage may rest on it.
        return Answered(epoch, None, True, 0.0, (), (), answered.reader, answered.timings_ms)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of evidence and the hits it was joined from, in the order of their text, that of ``parsed``."""

    evidence: Evidence
    start: int
    hits: tuple[RecallHit, ...]
    parsed: Parsed

    def find_hit(self, start: int) -> RecallHit:
        """Return the hit in whose passage a place in the source's text lies, or the one before it."""
        return next((hit for hit in reversed(self.hits) if hit.span.start <= start), self.hits[0])


def pack_hits(
    hits: Sequence[RecallHit], texts: Mapping[EntryId, Parsed], characters: int = EVIDENCE_CHARACTERS
) -> list[Stretch]:
    """Join neighbouring passages and keep what fits into ``characters``, most probable first."""
    candidates = [
        Candidate(at, hit.entry_id, hit.span.start, hit.span.end, hit.score)
        for at, hit in enumerate(hits)
        if hit.entry_id in texts
    ]
    whole = {str(entry_id): parsed.text for entry_id, parsed in texts.items()}
    is_alone = len({candidate.source for candidate in candidates}) < 2
    quota = None if is_alone else PASSAGES_OF_A_SOURCE
    stretches: list[Stretch] = []
    for packed in pack(candidates, whole, characters=characters, per_source=quota):
        joined = sorted((hits[key] for key in packed.keys), key=lambda hit: hit.span.start)
        best = hits[packed.keys[0]]
        heading = tuple(best.span.heading.split(HEADING_SEPARATOR)) if best.span.heading else ()
        evidence = Evidence(
            best.passage_id,
            packed.text,
            best.title,
            heading,
            best.occurred_at,
            packed.probability,
            is_whole=len(packed.keys) == 1,
            # Segments of one stream are one witness.
            source_id=best.source_id if best.part is None else best.part.stream_id,
        )
        stretches.append(Stretch(evidence, packed.start, tuple(joined), texts[best.entry_id]))
    return stretches


def _compose(
    recalled: Recalled, stretches: Sequence[Stretch], reading: Reading, timings_ms: Mapping[str, float]
) -> Answered:
    citations: list[AnswerCitation] = []
    claims: list[AnswerClaim] = []
    for claim in reading.claims:
        cited: list[int] = []
        for citation in claim.citations:
            made = _trace(stretches[citation.index], citation)
            if made not in citations:
                citations.append(made)
            cited.append(citations.index(made))
        claims.append(AnswerClaim(claim.text, claim.supported, tuple(cited)))
    said = [claim.text for claim in claims if claim.supported]
    return Answered(
        epoch=recalled.epoch,
        answer=" ".join(said) if said else None,
        abstained=not said,
        confidence=reading.confidence,
        claims=tuple(claims),
        citations=tuple(citations),
        reader=reading.reader,
        timings_ms={**recalled.timings_ms, **reading.timings_ms, **timings_ms},
        tokens=reading.tokens,
        lineage=tuple(dict.fromkeys(hit.entry_id for hit in recalled.hits)),
        explanation=explanation_of(
            reading,
            [stretch.evidence for stretch in stretches],
            lambda one: _trace(stretches[one.index], one),
        ),
    )


def _trace(stretch: Stretch, citation: Citation) -> AnswerCitation:
    """Return a reader's citation as a place in the source's text; of a recording, with its own seconds."""
    start, end = stretch.start + citation.start, stretch.start + citation.end
    hit = stretch.find_hit(start)
    place = stretch.parsed.times.find(start, end) or hit.span.place
    span = replace(hit.span, start=start, end=end, place=place)
    return AnswerCitation(
        hit.source_id, hit.entry_id, hit.external_id, hit.passage_id, citation.quote, span, hit.part
    )
