"""A reader in another process, the engine's: the same claims and readings, none of the weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from memory.asking import check_there, whose
from memory.errors import CorruptionError, UnavailableError
from memory.ports import Engine, Shelf
from memory.values import Claim, Evidence, Reading
from reader.wire import ClaimLine, ErrorLine, ReadingLine, ReadRequest, parse_line, request_to_json

READ_ROUTE = "/v1/read"


class RemoteReader:
    """Implements ``memory.ports.Reader`` over an engine; safe to share between threads."""

    def __init__(self, engine: Engine, *, name: str) -> None:
        """``name`` is the engine's reader at this moment."""
        self._engine = engine
        self._name = name

    @property
    def name(self) -> str:
        """The name of the reader that read last: the engine may still be loading its language model."""
        return self._name

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield each claim as the engine sends it; closing this ends the reading there.

        Raises ``UnavailableError`` when the engine cannot be reached, is busy, fails or breaks off.
        """
        body = request_to_json(ReadRequest(question, tuple(evidence), explain, whose()))
        with closing(self._engine.iter_lines(READ_ROUTE, body)) as lines:
            for line in lines:
                check_there()
                match _parse(line):
                    case ClaimLine(claim):
                        yield claim
                    case ReadingLine(reading):
                        self._name = reading.reader
                        return reading
                    case ErrorLine(problem):
                        raise UnavailableError(f"the engine failed while reading: {problem.get('detail')}")
        raise UnavailableError("the engine broke the reading off")

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return the whole reading; raises as ``iter_claims`` does."""
        with closing(self.iter_claims(question, evidence, shelf, explain=explain)) as claims:
            while True:
                try:
                    next(claims)
                except StopIteration as end:
                    reading: Reading = end.value
                    return reading


def _parse(line: bytes) -> ClaimLine | ReadingLine | ErrorLine:
    try:
        return parse_line(line)
    except CorruptionError as error:  # nothing that is kept is damaged: the other end speaks otherwise
        raise UnavailableError(f"{error}; do engine and service run the same version?") from error
