"""A stream of small segments, some of them recordings with captions, and all that can be seen of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.client import CueFields, LetheClient, Upload
from api.client_watches import iter_events
from api.stream_replies import SegmentReply
from tests.sources.moving import make_media
from tests.tiny import WORDS

SEGMENTS = 24
STEP_MS = 2000
RECORDED = {4: "mp4", 9: "mkv", 17: "mp4"}
"""Segments that are recordings with captions, each in a container."""
TRACKS = {"mp4": "mov_text", "mkv": "subrip"}
ORDER = [0, 1, 3, 2, *range(4, 13), 15, 14, 13, *range(16, SEGMENTS)]
"""Some come before their turn."""
STRETCH = range(6, 13)
"""The segments that are forgotten."""
LIMIT = 100
QUESTIONS = ("winter in the harbour", "the stone tower", "zorvex05 zorvex17", "zquorvex07 zquorvex09 lantern")


@dataclass(frozen=True)
class Segment:
    """A segment as it is sent; of text where it has no file. ``word`` stands in it once and nowhere else."""

    number: int
    word: str
    cues: Sequence[CueFields]
    file: Upload | None

    @property
    def times(self) -> tuple[int, int]:
        """When it begins and ends, in milliseconds of the stream's time."""
        begins = self.number * STEP_MS
        return begins, begins + STEP_MS - 500

    def send(self, client: LetheClient, stream_id: str) -> SegmentReply:
        """Append it."""
        if self.file is None:
            return client.streams.append_cues(stream_id, self.number, self.cues)
        begins, ends = self.times
        return client.streams.append_file(stream_id, self.number, self.file, start_ms=begins, end_ms=ends)


def make_segments() -> dict[int, Segment]:
    """Return all segments of the stream; what those of the stretch say has words of its own."""
    chance = random.Random(5)
    made = {}
    for number in range(SEGMENTS):
        word = f"{'zquorvex' if number in STRETCH else 'zorvex'}{number:02d}"
        begins = number * STEP_MS
        first = f"The {word} {' '.join(chance.choices(WORDS, k=12))}."
        second = f"And {' '.join(chance.choices(WORDS, k=12))}."
        cues: list[CueFields] = [
            {"start_ms": begins, "end_ms": begins + 700, "text": first, "speaker": "Bridge"},
            {"start_ms": begins + 800, "end_ms": begins + 1500, "text": second},
        ]
        file = None
        if kind := RECORDED.get(number):
            spoken = [(cue["start_ms"] - begins, cue["end_ms"] - begins, cue["text"]) for cue in cues]
            body = make_media(kind, seconds=1.5, subtitles=[(TRACKS[kind], "eng", spoken)])
            file = Upload(f"{number}.{kind}", body)
        made[number] = Segment(number, word, cues, file)
    return made


@dataclass(frozen=True)
class Found:
    """All that can be seen of a stream, but for ids and the time of day."""

    stream: dict[str, Any]
    passages: list[dict[str, Any]]
    hits: dict[str, list[Any]]
    """By question, in no order: scores are those of another history."""
    events: list[int]
    """The segments that were told as searchable."""

    def without(self, gone: Collection[int]) -> Found:
        """Return the same as it is where some segments are forgotten."""
        return Found(
            {**self.stream, "segments": self.stream["segments"] - len(gone)},
            [one for one in self.passages if one["number"] not in gone],
            {
                query: [hit for hit in hits if hit["stream"]["number"] not in gone]
                for query, hits in self.hits.items()
            },
            [number for number in self.events if number not in gone],
        )


def look(client: LetheClient, stream_id: str) -> Found:
    """Return what is found of a closed stream."""
    stream = {
        name: value
        for name, value in client.streams.get(stream_id).items()
        if name not in ("id", "created_at", "closed_at")
    }
    passages = [
        {name: value for name, value in one.items() if name not in ("passage_id", "source_id")}
        for one in client.streams.list_passages(stream_id, limit=LIMIT)
    ]
    hits = {}
    for query in QUESTIONS:
        recalled: list[Any] = list(client.recall(query, limit=LIMIT, filter={"stream_id": stream_id})["hits"])
        shown: list[Any] = [
            {
                "text": hit["text"],
                "place": hit["span"]["place"],
                "stream": {name: value for name, value in hit["stream"].items() if name != "id"},
            }
            for hit in recalled
        ]
        hits[query] = sorted(shown, key=lambda hit: hit["place"]["first"])
    told: list[Any] = [data for _, kind, data in iter_events(client, stream_id) if kind == "segment"]
    events = sorted(data["number"] for data in told)
    return Found(stream, passages, hits, events)


def check_once(found: Found, segments: Mapping[int, Segment], numbers: Sequence[int]) -> None:
    """Each of the segments is there word for word, in one place; no other is."""
    texts = dict.fromkeys(numbers, "")
    for one in found.passages:
        texts[one["number"]] += one["text"] + "\n"
    for number, text in texts.items():
        assert Counter(text.split())[segments[number].word] == 1, text
        for cue in segments[number].cues:
            assert text.count(cue["text"]) == 1, text
    for hits in found.hits.values():
        assert len(hits) == len(found.passages)
