"""The client's part for streams, against a live service over TCP."""

from __future__ import annotations

import pytest
from doors import serving_app
from real import real_service, tiny_encoder

import api.client
from api.client import BusyError, LetheClient, Upload
from memory.errors import ConflictError, InvalidInputError, NotFoundError
from service import streams
from tests.sources.moving import CUES, make_media


@pytest.fixture
def service(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened


@pytest.fixture
def client(service):
    with (
        serving_app(service.app, lifespan="off") as port,
        LetheClient(f"http://127.0.0.1:{port}", service.key("read", "write", "forget")) as client,
    ):
        yield client


def test_a_transcript_is_fed_and_looked_into(client):
    opened = client.streams.open("text", title="Bridge log", external_id="bridge", metadata={"quay": 2})

    first = client.streams.append_cues(
        opened["id"],
        0,
        [{"start_ms": 0, "end_ms": 900, "text": "The anchor is up.", "speaker": "Bridge"}],
        wait=5,
    )
    again = client.streams.append_cues(
        opened["id"], 0, [{"start_ms": 0, "end_ms": 900, "text": "The anchor is up.", "speaker": "Bridge"}]
    )
    client.streams.append_cues(
        opened["id"], 1, [{"start_ms": 5000, "text": "The pilot boards."}], wait=5, metadata={"buoy": 4}
    )

    assert (first["next_number"], first["unchanged"], again["unchanged"]) == (1, False, True)
    assert client.streams.open("text", external_id="bridge")["next_number"] == 2
    texts = [one["text"] for one in client.streams.list_passages(opened["id"])]
    assert texts == ["Bridge: The anchor is up.", "The pilot boards."]
    (late,) = client.streams.list_passages(opened["id"], start_ms=4000, end_ms=6000, limit=5)
    assert late["number"] == 1
    (hit,) = client.recall("pilot", filter={"stream_id": opened["id"], "metadata.buoy": 4})["hits"]
    assert hit["metadata"] == {"quay": 2, "buoy": 4}
    closed = client.streams.close(opened["id"])
    assert closed["closed_at"] is not None
    assert client.streams.get(opened["id"]) == closed == client.streams.list_streams()[0]
    with pytest.raises(ConflictError, match="closed"):
        client.streams.append_cues(opened["id"], 2, [{"start_ms": 9000, "text": "Late."}])


def test_a_recording_is_fed_and_forgotten(client):
    stream_id = client.streams.open("video")["id"]
    body = make_media("mp4", seconds=5.0, subtitles=[("mov_text", "eng", CUES)])

    client.streams.append_file(
        stream_id,
        0,
        Upload("0.mp4", body),
        start_ms=60_000,
        end_ms=65_000,
        media_type="video/mp4",
        metadata={"lens": 1},
        wait=5,
    )

    (passage,) = client.streams.list_passages(stream_id)
    assert (passage["start_ms"], passage["end_ms"]) == (60_500, 64_000)
    part = {"ids": [stream_id], "stream_range": {"start_ms": 60_000, "end_ms": 61_000}}
    assert client.forget(part, preview=True)["counts"]["entries"] == 1
    assert client.streams.forget(stream_id, wait=5)["state"] == "certified"
    assert client.streams.list_streams() == []


def test_it_waits_as_it_is_told_where_too_many_segments_wait(service, client, monkeypatch):
    stream_id = client.streams.open("text")["id"]
    monkeypatch.setattr(streams, "MOST_WAITING", 1)
    monkeypatch.setattr(service.house.waker, "_running", True)  # nobody works
    client.streams.append_cues(stream_id, 0, [{"start_ms": 0, "text": "Aye."}])
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            monkeypatch.setattr(service.house.waker, "_running", False)
            service.house.waker.drain()

    monkeypatch.setattr(api.client.time, "sleep", pause)
    reply = client.streams.append_cues(stream_id, 1, [{"start_ms": 1000, "text": "Aye, aye."}])

    assert reply["next_number"] == 2
    assert streams.RETRY_SECONDS in pauses


def test_it_does_not_wait_for_ever(service, client, monkeypatch):
    stream_id = client.streams.open("text")["id"]
    monkeypatch.setattr(streams, "MOST_WAITING", 0)
    monkeypatch.setattr(api.client.time, "sleep", lambda seconds: None)

    with pytest.raises(BusyError, match="wait to be read") as raised:
        client.streams.append_cues(stream_id, 0, [{"start_ms": 0, "text": "Aye."}])
    assert raised.value.retry_after_seconds == streams.RETRY_SECONDS


def test_errors_are_the_services_own(client):
    with pytest.raises(NotFoundError):
        client.streams.get("nowhere")
    stream_id = client.streams.open("text")["id"]
    with pytest.raises(InvalidInputError, match="cues"):
        client.streams.append_cues(stream_id, 0, [])
