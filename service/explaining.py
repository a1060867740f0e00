"""An answer's explanation as the doors show it: a reader's, with every quote traced back to its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory.values import Citation, Evidence, Reading
from service.views import AnswerCitation, AnswerConflict, AnswerExplanation


def explanation_of(
    reading: Reading, evidence: Sequence[Evidence], trace: Callable[[Citation], AnswerCitation]
) -> AnswerExplanation | None:
    """Return what a reading tells of itself; ``None`` when it was not asked to."""
    told = reading.explanation
    if told is None:
        return None
    shown = (Citation(at, 0, len(evidence[at].text), evidence[at].text) for at in told.shown)
    conflicts = (
        AnswerConflict(tuple(map(trace, one.sides)), one.holds, one.reason) for one in told.conflicts
    )
    return AnswerExplanation(
        told.model,
        tuple(map(trace, shown)),
        tuple((claim.text, claim.reason or "") for claim in reading.claims if not claim.supported),
        tuple(conflicts),
        told.answerable,
        told.abstain_below,
        told.signals,
        told.closed_book,
    )
