"""Texts that know when they are said: times lie in the text, in order, and are those of the cues."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from memory.parsed import check_parsed, dump_parsed, load_parsed
from memory.values import Content, Place, Times
from sources.captions import Cue
from sources.parse import SourceParser, parse_cues

FILM = Content("document", "text/vtt", b"of no matter")
CUES = st.lists(
    st.tuples(
        st.integers(0, 9_000),
        st.integers(0, 9_000),
        st.sampled_from(
            ["", "The tower.", "a ferry leaves", "- Who?\n- You.", "  \n", "塔は灯台です。", "x" * 1_300]
        ),
        st.sampled_from([None, "Ann", "Ben"]),
    ),
    min_size=1,
    max_size=40,
)
SAID = [
    Cue(1_000, 2_500, "A spectre is haunting Europe,"),
    Cue(2_600, 4_000, "the spectre of communism."),
    Cue(60_000, 61_000, "Workers, unite!", "Ann"),
]


@given(CUES)
def test_times_are_in_order_and_inside_the_text(drawn: list[tuple[int, int, str, str | None]]) -> None:
    at, cues = 0, []
    for number, (pause, length, text, speaker) in enumerate(drawn):
        at += pause
        cues.append(Cue(at, at + length, f"{number} {text}", speaker, str(number)))
    parsed = check_parsed(parse_cues(FILM, cues))
    times = parsed.times
    assert [*times.start_ms] == [cue.start_ms for cue in cues]
    assert [*times.end_ms] == [cue.end_ms for cue in cues]
    for cue, start, end in zip(cues, times.starts, times.ends, strict=True):
        assert cue.text.split()[0] in parsed.text[start:end]
        assert times.find(start, end) == Place("time", cue.start_ms, cue.end_ms)
    assert load_parsed(dump_parsed(parsed)) == parsed


@given(CUES, st.data())
def test_a_span_is_said_from_its_first_cue_to_its_last(
    drawn: list[tuple[int, int, str, str | None]], data: st.DataObject
) -> None:
    cues = [
        Cue(at * 10_000, at * 10_000 + length, f"{at} {text}")
        for at, (_, length, text, _) in enumerate(drawn)
    ]
    parsed = parse_cues(FILM, cues)
    start = data.draw(st.integers(0, len(parsed.text) - 1))
    end = data.draw(st.integers(start + 1, len(parsed.text)))
    times = parsed.times
    over = [cue for cue, a, b in zip(cues, times.starts, times.ends, strict=True) if a < end and start < b]
    expected = Place("time", over[0].start_ms, max(cue.end_ms for cue in over)) if over else None
    assert times.find(start, end) == expected


def test_a_quote_over_two_cues_has_the_time_of_both() -> None:
    parsed = parse_cues(FILM, SAID)
    start = parsed.text.index("haunting")
    assert parsed.times.find(start, start + 8) == Place("time", 1_000, 2_500)
    assert parsed.times.find(start, parsed.text.index("communism")) == Place("time", 1_000, 4_000)
    assert parsed.times.find(parsed.text.index("unite"), len(parsed.text)) == Place("time", 60_000, 61_000)
    joint = parsed.text.index("\n\n")
    assert parsed.times.find(joint, joint + 2) is None


def test_a_text_without_times_is_written_as_before_there_were_any() -> None:
    """Byte for byte: what a recipe made of it, and its digest, are as they were."""
    parsed = SourceParser().parse(Content("document", "text/plain", b"A plain note."))
    assert parsed.times == Times()
    payload = dump_parsed(parsed)
    assert payload == (
        b'{"title":null,"text":"A plain note.","sections":[{"start":0,"end":13,"heading":[],"parent":null}],'
        b'"passages":[{"start":0,"end":13,"section":0,"place":null,"heading":[],"messages":[],"context":"",'
        b'"occurred_at":null}],"warnings":[]}'
    )
    assert load_parsed(payload) == parsed
    assert "times" in orjson.loads(dump_parsed(parse_cues(FILM, SAID)))
