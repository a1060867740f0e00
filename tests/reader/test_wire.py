"""Evidence, claims and readings survive the way to another process and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import CorruptionError
from memory.values import (
    Citation,
    Claim,
    ClosedBook,
    Conflict,
    Evidence,
    Explanation,
    PassageId,
    Reading,
)
from reader.wire import (
    REQUEST,
    ClaimLine,
    ErrorLine,
    ReadingLine,
    ReadRequest,
    line_to_json,
    parse_line,
    request_to_json,
)

TEXTS = st.text(max_size=40)
COUNTS = st.integers(min_value=0, max_value=2**53)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC) | ZONES
)
EVIDENCE = st.builds(
    Evidence,
    TEXTS.map(PassageId),
    TEXTS,
    title=st.none() | TEXTS,
    heading=st.lists(TEXTS, max_size=3).map(tuple),
    occurred_at=st.none() | MOMENTS,
    probability=NUMBERS,
)
CITATIONS = st.builds(Citation, COUNTS, COUNTS, COUNTS, TEXTS)
CLAIMS = st.builds(
    Claim, TEXTS, st.booleans(), st.lists(CITATIONS, max_size=3).map(tuple), reason=st.none() | TEXTS
)
CONFLICTS = st.builds(
    Conflict, st.lists(CITATIONS, max_size=2).map(tuple), st.none() | COUNTS, st.none() | TEXTS
)
EXPLANATIONS = st.builds(
    Explanation,
    st.none() | TEXTS,
    NUMBERS,
    NUMBERS,
    st.dictionaries(TEXTS, NUMBERS, max_size=2),
    st.lists(COUNTS, max_size=2).map(tuple),
    st.lists(CONFLICTS, max_size=1).map(tuple),
    st.none() | st.builds(ClosedBook, TEXTS, st.booleans()),
)
READINGS = st.builds(
    Reading,
    st.lists(CLAIMS, max_size=3).map(tuple),
    NUMBERS,
    TEXTS,
    tokens=st.dictionaries(TEXTS, COUNTS, max_size=3),
    timings_ms=st.dictionaries(TEXTS, NUMBERS, max_size=3),
    explanation=st.none() | EXPLANATIONS,
)


@given(question=TEXTS, evidence=st.lists(EVIDENCE, max_size=3).map(tuple), explain=st.booleans())
def test_a_request_is_read_back_equal(question: str, evidence: tuple[Evidence, ...], explain: bool) -> None:
    request = ReadRequest(question, evidence, explain, party=question)
    back = REQUEST.validate_json(request_to_json(request), strict=True)
    assert back == request
    for one, other in zip(back.evidence, evidence, strict=True):
        if other.occurred_at is not None:
            assert one.occurred_at is not None
            assert one.occurred_at.date() == other.occurred_at.date(), "readers are shown the local date"


@given(line=CLAIMS.map(ClaimLine) | READINGS.map(ReadingLine))
def test_a_line_is_read_back_equal_and_is_one_line(line: ClaimLine | ReadingLine) -> None:
    written = line_to_json(line)
    assert b"\n" not in written
    assert parse_line(written) == line


def test_an_error_is_read_back_equal() -> None:
    line = ErrorLine({"status": 503, "detail": "the model is gone", "missing": {"reader": None}})
    assert parse_line(line_to_json(line)) == line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"type":"claim"}',
        b'{"type":"other","claim":{}}',
        b'{"type":"reading","reading":{',
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(CorruptionError, match="not one that an engine writes"):
        parse_line(line)


def test_numbers_are_not_guessed_from_texts() -> None:
    """A lenient parser would read the text "1" as a span's start."""
    good = line_to_json(ClaimLine(Claim("x", True, (Citation(0, 1, 2, "x"),))))
    assert parse_line(good)
    with pytest.raises(CorruptionError):
        parse_line(good.replace(b'"start":1', b'"start":"1"'))
