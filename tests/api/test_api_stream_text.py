"""Lines become cues with times, and cues batches, whatever says the time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream_text import BATCH_CUES, BATCH_MS, LineReader, find_moment, guess_form, iter_batches

BEGINS = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def read(lines, form="lines", begins=BEGINS, arrived=None):
    notes = []
    reader = LineReader(form, begins, arrived, notes.append)
    return list(iter_batches(lines, reader)), notes


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (b"WEBVTT - Talk\n", "captions"),
        (b"\xef\xbb\xbf1\r\n00:00:01,000 --> 00:00:02,000\r\nAye.\r\n", "captions"),
        (b'{"text": "Aye."}\n', "json"),
        (b"the tide --> the quay\n", "lines"),
        (b"2026-03-01 up\n", "lines"),
    ],
)
def test_the_form_is_seen_from_the_beginning(head, form):
    assert guess_form(head) == form


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("2026-03-01T09:30:02Z Aye.", 2),
        ("[2026-03-01 09:30:02,500] Aye.", 2.5),
        ("2026-03-01T10:30:02.25+01:00: Aye.", 2.25),
        ("2026-03-01T09:31 Aye.", 60),
        ("2026-13-01T09:31 Aye.", None),
        ("at 2026-03-01T09:31 Aye.", None),
    ],
)
def test_the_time_at_the_beginning_of_a_line_is_read(line, seconds):
    found = find_moment(line, "lines")
    assert found == (None if seconds is None else BEGINS + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"time": "2026-03-01T09:30:02Z"}, 2),
        ({"ts": BEGINS.timestamp() + 3}, 3),
        ({"timestamp": BEGINS.timestamp() * 1000 + 4000}, 4),
        ({"at": True}, None),
        ({"time": 1e300}, None),
        ({"time": "soon"}, None),
    ],
)
def test_the_time_in_an_object_is_read(told, seconds):
    found = find_moment(json.dumps(told), "json")
    assert found == (None if seconds is None else BEGINS + timedelta(seconds=seconds))


def test_a_line_without_a_time_belongs_to_the_one_before():
    (batch,), notes = read(["2026-03-01T09:30:05Z down", "  at quay 2", "2026-03-01T09:29:00Z late"])
    assert [cue["start_ms"] for cue in batch.cues] == [5000, 5000, 0]
    assert (batch.lines, notes) == (3, [])


def test_lines_that_arrive_have_the_time_of_their_arrival():
    clock = iter([10, 20])
    (batch,), notes = read(["Aye.", "", "Aye, aye."], arrived=lambda: next(clock))
    assert [cue["start_ms"] for cue in batch.cues] == [10, 20] and notes == []


def test_what_is_no_message_is_left_out_and_told_once():
    rows = ['{"text": "Aye.", "speaker": "Bridge", "start_ms": 5, "end_ms": 2}', "{", "[1]", '{"text": " "}']
    (batch,), notes = read(rows, "json")
    assert batch.cues == [{"start_ms": 5, "text": "Aye.", "speaker": "Bridge"}]
    assert batch.lines == 4 and len(notes) == 1 and "line 2" in notes[0]


def test_quiet_ends_a_batch_but_tears_no_caption():
    lines = [
        "WEBVTT",
        "",
        "00:01.000 --> 00:02.000",
        None,
        "<v Bridge>Aye.",
        "",
        None,
        "00:03.000 --> 00:04.000",
    ]
    batches, _ = read([*lines, "Late."], "captions")
    assert [batch.cues for batch in batches] == [
        [{"start_ms": 1000, "end_ms": 2000, "text": "Aye.", "speaker": "Bridge"}],
        [{"start_ms": 3000, "end_ms": 4000, "text": "Late."}],
    ]
    assert [batch.lines for batch in batches] == [5, 7]


@given(
    gaps=st.lists(st.integers(-BATCH_MS, 2 * BATCH_MS), max_size=120),
    quiet=st.sets(st.integers(0, 119), max_size=9),
)
def test_batches_hold_every_line_once_and_no_more_than_they_may(gaps, quiet):
    at, lines = 0, []
    for number, gap in enumerate(gaps):
        at = max(0, at + gap)
        lines.append(json.dumps({"start_ms": at, "text": f"line {number}"}))
        lines += [None] * (number in quiet)

    batches, _ = read(lines, "json")

    cues = [cue for batch in batches for cue in batch.cues]
    assert [cue["text"] for cue in cues] == [f"line {number}" for number in range(len(gaps))]
    for batch in batches:
        times = [cue["start_ms"] for cue in batch.cues]
        assert 0 < len(times) <= BATCH_CUES and max(times) - min(times) <= BATCH_MS
        # Gone on with behind it, nothing is missing and nothing twice.
        assert batch.cues[-1]["text"] == f"line {batch.lines - 1}"
