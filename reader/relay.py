"""Two readers in turn: a small one reads, and hands over to a larger one what it is not sure of.

Whose reading is taken is known before the first claim leaves: claims of the two are never mixed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import structlog

from memory.errors import UnavailableError
from memory.ports import Reader, Shelf
from memory.values import Claim, Evidence, Reading

HAND_OVER_BELOW = 0.6
"""The least confidence with which the small reader's reading is taken. Not fitted."""

SMALL = "small_"
"""Before the names of the small reader's tokens and times in a reading that is the large one's."""

Count = TypeVar("Count", int, float)

_log = structlog.get_logger(__name__)


class RelayReader:
    """Implements ``memory.ports.Reader`` over a small reader and a large one.

    When the large one is unavailable, the small one's reading is taken as it is.
    """

    def __init__(self, small: Reader, large: Reader, *, hand_over_below: float = HAND_OVER_BELOW) -> None:
        self._small = small
        self._large = large
        self._hand_over_below = hand_over_below

    @property
    def name(self) -> str:
        """Both names; ``Reading.reader`` says whose a reading is."""
        return f"{self._small.name}, then {self._large.name}"

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield the claims of the one whose reading is taken: the small one's at once, when it has read all.

        Raises ``UnavailableError`` when the large one fails after its first claim is out.
        """
        first = self._small.read(question, evidence, shelf, explain=explain)
        if self._is_sure(first):
            yield from first.claims
            return first
        begun = False
        with closing(self._large.iter_claims(question, evidence, shelf, explain=explain)) as claims:
            try:
                while True:
                    claim = next(claims)
                    begun = True
                    yield claim
            except StopIteration as end:
                return _with_cost_of(first, end.value)
            except UnavailableError as error:
                if begun:
                    raise
                _tell(error)
        yield from first.claims
        return first

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return the small reader's reading when it is sure, else the large one's with the cost of both.

        What the small one spent then stands under ``small_…`` in tokens and times.
        """
        first = self._small.read(question, evidence, shelf, explain=explain)
        if self._is_sure(first):
            return first
        try:
            return _with_cost_of(first, self._large.read(question, evidence, shelf, explain=explain))
        except UnavailableError as error:
            _tell(error)
            return first

    def _is_sure(self, reading: Reading) -> bool:
        return not reading.abstained and reading.confidence >= self._hand_over_below


def _with_cost_of(first: Reading, taken: Reading) -> Reading:
    return replace(
        taken,
        tokens={**taken.tokens, **_as_small(first.tokens)},
        timings_ms={**taken.timings_ms, **_as_small(first.timings_ms)},
    )


def _as_small(counts: Mapping[str, Count]) -> dict[str, Count]:
    return {f"{SMALL}{name}": count for name, count in counts.items()}


def _tell(error: UnavailableError) -> None:
    _log.warning("large reader unavailable", error=type(error).__name__, reason=str(error))
