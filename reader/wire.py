"""Evidence, claims and readings as JSON, for a reader in another process. One place, both directions.

What is written is read back equal: texts, spans, numbers and instants. Nothing here knows how lines travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from memory.errors import CorruptionError
from memory.values import Claim, Evidence, Reading


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A question, what to answer it from, and whether the reading is to be explained."""

    question: str
    evidence: tuple[Evidence, ...]
    explain: bool = False
    party: str = ""
    """Whose turn it takes, where many ask (``memory.asking``)."""


@dataclass(frozen=True, slots=True)
class ClaimLine:
    """A claim that is ready."""

    claim: Claim
    type: Literal["claim"] = "claim"


@dataclass(frozen=True, slots=True)
class ReadingLine:
    """The last line: all there is to the reading, its claims included."""

    reading: Reading
    type: Literal["reading"] = "reading"


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """The last line of a reading that failed after it had begun; ``problem`` is problem JSON."""

    problem: dict[str, Any]
    type: Literal["error"] = "error"


Line = ClaimLine | ReadingLine | ErrorLine
Value = TypeVar("Value")

REQUEST: TypeAdapter[ReadRequest] = TypeAdapter(ReadRequest)
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="type")])


def request_to_json(request: ReadRequest) -> bytes:
    """Return a request as JSON."""
    return REQUEST.dump_json(request)


def line_to_json(line: Line) -> bytes:
    """Return a line as JSON, without its end; it holds no line feed."""
    return _LINE.dump_json(line)


def parse_line(line: bytes) -> Line:
    """Return what ``line_to_json`` was given; ``CorruptionError`` when it made no such line."""
    try:
        return _LINE.validate_json(line, strict=True)
    except ValidationError as error:
        raise CorruptionError("a line of the reading is not one that an engine writes") from error
