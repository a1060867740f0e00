"""Answering: recall, pack, read, check; every quote traced back to its place in the source."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from datetime import datetime

from memory.kernel import Kernel, find_denied, get_position
from memory.ports import Reader
from memory.values import Claim, Evidence, JsonValue, Reading, TenantId
from service.recall import Recaller
from service.views import AnswerCitation, AnswerClaim, Answered, Recalled, RecallHit


class Answerer:
    """Answers questions from recalled evidence through a reader."""

    def __init__(self, kernel: Kernel, recaller: Recaller, reader: Reader) -> None:
        self.kernel = kernel
        self.recaller = recaller
        self.reader = reader

    def answer(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 8,
        filter: JsonValue = None,
        as_of: datetime | None = None,
    ) -> Answered:
        """Return the checked answer, or an abstention."""
        recalled = self.recaller.recall(tenant_id, query, limit=limit, filter=filter, as_of=as_of)
        started = time.perf_counter()
        reading = self.reader.read(query, to_evidence(recalled.hits))
        return _compose(recalled, reading, (time.perf_counter() - started) * 1000)

    def iter_answer(
        self,
        tenant_id: TenantId,
        query: str,
        *,
        limit: int = 8,
        filter: JsonValue = None,
        as_of: datetime | None = None,
    ) -> Generator[Answered, None, None]:
        """Yield one answer per supported claim as it is ready, then the whole one."""
        recalled = self.recaller.recall(tenant_id, query, limit=limit, filter=filter, as_of=as_of)
        started = time.perf_counter()
        claims: list[Claim] = []
        for claim in self.reader.iter_claims(query, to_evidence(recalled.hits)):
            claims.append(claim)
            if claim.supported:
                yield _compose(recalled, Reading((claim,), 0.0, self.reader.name), 0.0)
        reading = self.reader.read_claims(query, to_evidence(recalled.hits), claims)
        yield _compose(recalled, reading, (time.perf_counter() - started) * 1000)

    def recheck(self, tenant_id: TenantId, answered: Answered) -> Answered:
        """Drop claims any of whose evidence was denied meanwhile; with none left, abstain."""
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, set(answered.lineage))
            epoch = get_position(connection, tenant_id).epoch
        if not hidden:
            return replace(answered, epoch=epoch)
        # A reader sees all its evidence at once: what was said beside a denied passage may rest on it.
        return Answered(epoch, None, True, 0.0, (), (), answered.reader, answered.timings_ms)


def to_evidence(hits: Sequence[RecallHit]) -> list[Evidence]:
    """Return recalled passages as a reader takes them."""
    return [
        Evidence(
            hit.passage_id,
            hit.text,
            hit.title,
            tuple(hit.span.heading.split(" > ")) if hit.span.heading else (),
            hit.occurred_at,
            hit.score,
        )
        for hit in hits
    ]


def _compose(recalled: Recalled, reading: Reading, read_ms: float) -> Answered:
    citations: list[AnswerCitation] = []
    claims: list[AnswerClaim] = []
    for claim in reading.claims:
        cited: list[int] = []
        for citation in claim.citations:
            hit = recalled.hits[citation.index]
            span = replace(hit.span, start=hit.span.start + citation.start, end=hit.span.start + citation.end)
            made = AnswerCitation(
                hit.source_id, hit.entry_id, hit.external_id, hit.passage_id, citation.quote, span
            )
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
        timings_ms={**recalled.timings_ms, **reading.timings_ms, "read": round(read_ms, 3)},
        tokens=reading.tokens,
        lineage=tuple(dict.fromkeys(hit.entry_id for hit in recalled.hits)),
    )
