"""An answer from a film cites the seconds of its quotes; what was recalled, those of whole passages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.replies import answer_reply, recall_reply
from embedding.encoder import TextEncoder
from memory.values import Attributes, Content, EntryId, Part, Place, SourceId
from service.ingest import parse_contents
from sources.captions import Cue, iter_cues
from sources.parse import SourceParser
from tests.service.harness import TENANT, House

SRT = Path(__file__).parents[3] / "shared" / "data" / "video" / "manifesto.srt"
MOST_MS = 15_000
LINES = (
    "The lighthouse keeper climbs the stairs at dusk.",
    "The ferry to the island leaves at nine.",
    "A storm is coming from the west.",
    "The harbour bridge opened in March 1932.",
    "Nobody fishes on Sundays in this bay.",
    "The bakery by the pier sells rye bread.",
)


@pytest.fixture
def home(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder)
    yield opened
    opened.close()


def remember(home: House, media_type: str, body: bytes) -> None:
    home.lethe.remember(TENANT, [Content("document", media_type, body, Attributes(title="A film"))])
    home.waker.drain()


def write_captions(count: int = 6) -> tuple[bytes, list[Cue]]:
    cues = [Cue(5_000 * at, 5_000 * at + 4_000, LINES[at]) for at in range(count)]
    lines = [f"00:{c.start_ms // 1000:02}.000 --> 00:{c.end_ms // 1000:02}.000\n{c.text}\n" for c in cues]
    return "\n".join(["WEBVTT\n", *lines]).encode(), cues


def test_a_quote_cites_its_own_seconds_and_a_hit_its_passage(home: House) -> None:
    body, cues = write_captions()
    remember(home, "text/vtt", body)
    (hit,) = recall_reply(home.lethe.recall(TENANT, "When did the harbour bridge open?"))["hits"]
    assert hit["span"]["place"] == {"kind": "time", "first": 0, "last": cues[-1].end_ms}

    reply = answer_reply(home.lethe.answer(TENANT, "When did the harbour bridge open?"))

    [citation] = [one for one in reply["citations"] if "1932" in one["quote"]]
    assert citation["span"]["place"] == {"kind": "time", "first": cues[3].start_ms, "last": cues[3].end_ms}


def test_an_explanation_shows_the_seconds_of_each_piece(home: House) -> None:
    body, cues = write_captions()
    remember(home, "text/vtt", body)
    answered = home.lethe.answer(TENANT, "When did the harbour bridge open?", explain=True)
    assert answered.explanation is not None
    for piece in answered.explanation.shown:
        place = piece.span.place
        assert place is not None and (place.first, place.last) == (0, cues[-1].end_ms)


def test_times_of_a_segment_are_its_streams(tmp_path: Path) -> None:
    body, cues = write_captions()
    part = Part(SourceId("s"), 3, 600_000, 630_000)
    segment = Content("segment", "text/vtt", body, Attributes(part=part))
    parsed = parse_contents(SourceParser(), [(EntryId("e"), segment)]).parsed[EntryId("e")]
    start = parsed.text.index("1932")
    assert parsed.times.find(start, start + 4) == Place("time", 615_000, 619_000)
    assert parsed.passages[0].place == Place("time", 600_000, 600_000 + cues[-1].end_ms)


def test_texts_that_are_not_timed_are_cited_as_before(home: House) -> None:
    remember(home, "text/csv", b"bridge,opened\nharbour bridge,March 1932\ncanal bridge,May 1951\n")
    for citation in home.lethe.answer(TENANT, "When did the harbour bridge open?").citations:
        assert citation.span.place is not None and citation.span.place.kind == "row"


def test_the_manifesto_is_cited_at_its_cues(home: House) -> None:
    if not SRT.exists():
        pytest.skip("manifesto.srt is not among the shared data")
    body = SRT.read_bytes()
    remember(home, "application/x-subrip", body)
    cues = list(iter_cues(body.decode()))
    answered = home.lethe.answer(TENANT, "What is haunting Europe?")
    [citation] = [one for one in answered.citations if "haunting" in one.quote]
    place = citation.span.place
    [cue] = [cue for cue in cues if "haunting" in cue.text]
    assert place is not None and place.kind == "time"
    assert place.first < cue.end_ms and cue.start_ms < place.last
    assert place.last - place.first < MOST_MS
    hit = home.lethe.recall(TENANT, "What is haunting Europe?").hits[0]
    assert hit.span.place is not None and hit.span.place.last - hit.span.place.first > MOST_MS
