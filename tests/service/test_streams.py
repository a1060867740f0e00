"""What is listed of streams: passages without opening more segments than are asked for, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from memory.values import CUES_MEDIA_TYPE, Attributes, Content, EntryId, Parsed, Part, SourceId, TenantId
from service import streams
from service.views import Scope, StreamView
from tests.service.harness import TENANT, House

COUNT = 12
Moments = list[tuple[int, int]]


@pytest.fixture
def home(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder)
    yield opened
    opened.close()


def open_stream(house: House) -> SourceId:
    house.clock.now_us += 1_000_000
    view, _ = house.lethe.streams.open(TENANT, "text", Attributes(title="Log"))
    return view.id


def append(house: House, stream_id: SourceId, number: int, begins_ms: int, said_ms: int) -> None:
    cue = {"start_ms": said_ms, "end_ms": said_ms + 900, "text": f"Said in segment {number}."}
    part = Part(stream_id, number, begins_ms, said_ms + 900)
    content = Content("segment", CUES_MEDIA_TYPE, json.dumps([cue]).encode(), Attributes(part=part))
    house.lethe.streams.append(TENANT, stream_id, content)


@pytest.fixture
def stream_id(home: House) -> SourceId:
    """A stream whose segments came out of turn; the second says nothing until others have begun."""
    stream_id = open_stream(home)
    for number in reversed(range(COUNT)):
        append(home, stream_id, number, number * 10_000, 60_500 if number == 1 else number * 10_000)
    home.waker.drain()
    return stream_id


def find(house: House, stream_id: SourceId, start_ms: int = 0, limit: int = 100) -> Moments:
    found = house.lethe.streams.list_moments(TENANT, stream_id, start_ms, 10**9, limit=limit)
    return [(one.start_ms, one.number) for one in found]


def test_a_few_passages_open_the_segments_they_are_in(
    home: House, stream_id: SourceId, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find(home, stream_id)
    assert whole == sorted(
        [(60_500, 1), *((number * 10_000, number) for number in range(COUNT) if number != 1)]
    )
    monkeypatch.setattr(streams, "SEGMENTS", 2)
    opened: list[EntryId] = []
    recaller = home.lethe.recaller
    real = recaller.load_parsed

    def load_parsed(tenant_id: TenantId, entry_ids: Sequence[EntryId]) -> Mapping[EntryId, Parsed]:
        opened.extend(entry_ids)
        return real(tenant_id, entry_ids)

    monkeypatch.setattr(recaller, "load_parsed", load_parsed)
    for limit in range(1, len(whole) + 1):
        opened.clear()
        assert find(home, stream_id, limit=limit) == whole[:limit]
        assert len(opened) <= limit + 2
        assert len(opened) == len(set(opened))
    assert find(home, stream_id, 61_000, limit=2) == [(60_500, 1), (70_000, 7)]


def test_a_page_is_listed_without_a_stream_that_is_forgotten_meanwhile(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, gone, newer = (open_stream(home) for _ in range(3))
    home.waker.drain()
    listed = home.lethe.streams
    real = listed.get

    def get(tenant_id: TenantId, stream_id: SourceId) -> StreamView:
        if stream_id == newer:
            home.lethe.forget(TENANT, Scope(ids=(gone,)), preview=False)
        return real(tenant_id, stream_id)

    monkeypatch.setattr(listed, "get", get)
    page = listed.list(TENANT, cursor=None, limit=50)
    assert [view.id for view in page.items] == [newer, older]
