"""Streams at the HTTP door: opened, fed, looked into while they go on, resumed, closed, forgotten."""

from __future__ import annotations

import json

import pytest
from real import real_service, tiny_encoder

from service import streams
from tests.sources.moving import CUES, make_media


@pytest.fixture
def service(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened


@pytest.fixture
def client(service):
    return service.client(service.key("read", "write", "forget"))


def open_stream(client, **said):
    reply = client.post("/v1/streams", json={"kind": "text", "title": "Bridge log", **said})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def cue(at, text, **more):
    return {"start_ms": 1000 * at, "end_ms": 1000 * at + 900, "text": text, **more}


def append(client, stream_id, number, *cues, **more):
    body = {"number": number, "cues": list(cues), **more}
    return client.post(f"/v1/streams/{stream_id}/segments", json=body, headers={"prefer": "wait=5"})


def test_what_has_arrived_is_found_while_the_stream_goes_on(client):
    begins = {"occurred_at": "2026-03-01T09:30:00Z", "subjects": ["adeyemi"], "metadata": {"quay": 2}}
    stream_id = open_stream(client, external_id="bridge", **begins)

    posted = append(client, stream_id, 0, cue(60, "The pilot boards at the lighthouse.", speaker="Bridge"))

    assert posted.status_code == 201
    assert posted.json() | {"id": "", "job": None} == {
        "stream_id": stream_id,
        "number": 0,
        "next_number": 1,
        "id": "",
        "job": None,
        "unchanged": False,
    }
    (hit,) = client.post("/v1/recall", json={"query": "who boards at the lighthouse"}).json()["hits"]
    assert hit["stream"] == {"id": stream_id, "number": 0, "start_ms": 60000, "end_ms": 60900}
    assert hit["span"]["place"] == {"kind": "time", "first": 60000, "last": 60900}
    assert (hit["title"], hit["subjects"], hit["metadata"]) == ("Bridge log", ["adeyemi"], {"quay": 2})
    assert hit["external_id"] == "bridge"
    told = client.get(f"/v1/streams/{stream_id}").json()
    assert (told["segments"], told["waiting"], told["end_ms"]) == (1, 0, 60900)
    at = {"occurred_at": {"$gte": "2026-03-01T09:31:00Z", "$lt": "2026-03-01T09:32:00Z"}}
    asked = {"query": "lighthouse", "filter": {"stream_id": stream_id, "start_ms": {"$lt": 61000}, **at}}
    assert len(client.post("/v1/recall", json=asked).json()["hits"]) == 1
    asked["filter"]["start_ms"] = {"$gt": 61000}
    assert client.post("/v1/recall", json=asked).json()["hits"] == []


def test_a_recorded_segment_is_found_at_the_time_of_the_stream(client):
    stream_id = open_stream(client, kind="video")
    body = make_media("mp4", seconds=5.0, subtitles=[("mov_text", "eng", CUES)])
    fields = {"number": "0", "start_ms": "600000", "end_ms": "605000", "metadata": json.dumps({"lens": 2})}

    posted = client.post(
        f"/v1/streams/{stream_id}/segments",
        files={"file": ("0.mp4", body)},
        data=fields,
        headers={"prefer": "wait=5"},
    )

    assert posted.status_code == 201, posted.text
    (hit,) = client.post("/v1/recall", json={"query": "when does the ferry leave"}).json()["hits"]
    assert hit["span"]["place"] == {"kind": "time", "first": 600500, "last": 604000}
    assert hit["metadata"] == {"lens": 2}


def test_a_stream_shows_and_plays_what_was_at_a_time(client):
    stream_id = open_stream(client, kind="video")
    for number in range(2):
        body = make_media("mp4", seconds=2.0, pictures=range(0, 2000, 200))
        client.post(
            f"/v1/streams/{stream_id}/segments",
            files={"file": (f"{number}.mp4", body)},
            data={"number": str(number), "start_ms": str(2000 * number), "end_ms": str(2000 * number + 2000)},
        )

    frame = client.get(f"/v1/sources/{stream_id}/frame", params={"at_ms": 3450})
    clip = client.get(f"/v1/sources/{stream_id}/clip", params={"start_ms": 2500, "end_ms": 3000})
    late = client.get(f"/v1/sources/{stream_id}/frame", params={"at_ms": 4000})

    assert (frame.status_code, frame.headers["content-type"]) == (200, "image/jpeg")
    assert frame.headers["lethe-start-ms"] == "3400"
    assert 2000 <= int(clip.headers["lethe-start-ms"]) <= 2500
    assert (late.status_code, "nothing is kept" in late.json()["detail"]) == (422, True)


def test_a_number_is_taken_once(client):
    stream_id = open_stream(client)
    first = append(client, stream_id, 0, cue(1, "The anchor is up."))

    again = append(client, stream_id, 0, cue(1, "The anchor is up."))
    other = append(client, stream_id, 0, cue(1, "The anchor is down."))

    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    assert again.json()["id"] == first.json()["id"]
    assert other.status_code == 409
    assert "another content" in other.json()["detail"]


def test_segments_may_come_out_of_turn_but_not_far(client):
    stream_id = open_stream(client)

    assert append(client, stream_id, 2, cue(3, "Third.")).json()["next_number"] == 0
    assert client.get(f"/v1/streams/{stream_id}").json()["ahead"] == [2]
    assert append(client, stream_id, 0, cue(1, "First.")).json()["next_number"] == 1
    assert append(client, stream_id, 1, cue(2, "Second.")).json()["next_number"] == 3
    far = append(client, stream_id, 3 + streams.AHEAD + 1, cue(9, "Far."))
    assert far.status_code == 422
    assert "segment 3 is expected" in far.json()["detail"]
    found = client.get(f"/v1/streams/{stream_id}/passages").json()
    assert [(one["number"], one["text"]) for one in found] == [(0, "First."), (1, "Second."), (2, "Third.")]
    found = client.get(f"/v1/streams/{stream_id}/passages", params={"start_ms": 1950, "end_ms": 2500}).json()
    assert [one["text"] for one in found] == ["Second."]


def test_who_sends_faster_than_can_be_read_is_told_to_wait(service, client, monkeypatch):
    stream_id = open_stream(client)
    monkeypatch.setattr(streams, "MOST_WAITING", 2)
    monkeypatch.setattr(service.house.waker, "_running", True)  # nobody works
    path = f"/v1/streams/{stream_id}/segments"
    bodies = [{"number": number, "cues": [cue(number, "Aye.")]} for number in range(3)]

    codes = [client.post(path, json=body).status_code for body in bodies]
    late = client.post(path, json=bodies[2])

    assert codes == [202, 202, 429]
    assert int(late.headers["retry-after"]) >= 1
    monkeypatch.setattr(service.house.waker, "_running", False)
    service.house.waker.drain()
    assert client.post(path, json=bodies[2]).status_code == 202


def test_a_stream_is_gone_on_with_by_its_name_until_it_is_closed(client):
    said = {"kind": "text", "external_id": "bridge"}
    stream_id = client.post("/v1/streams", json=said).json()["id"]
    append(client, stream_id, 0, cue(1, "The anchor is up."))

    again = client.post("/v1/streams", json=said)
    other = client.post("/v1/streams", json={"kind": "audio", "external_id": "bridge"})
    closed = client.post(f"/v1/streams/{stream_id}/close")

    assert (again.status_code, again.json()["id"], again.json()["next_number"]) == (200, stream_id, 1)
    assert other.status_code == 409
    assert closed.json()["closed_at"] is not None
    late = append(client, stream_id, 1, cue(2, "The anchor is down."))
    assert (late.status_code, "closed" in late.json()["detail"]) == (409, True)
    assert append(client, stream_id, 0, cue(1, "The anchor is up.")).status_code == 200
    assert client.post("/v1/streams", json=said).status_code == 409


def test_a_forgotten_stretch_is_gone_and_cannot_come_back_by_chance(client):
    stream_id = open_stream(client)
    for number, text in enumerate(("The anchor is up.", "Adeyemi is ill.", "The anchor is down.")):
        append(client, stream_id, number, cue(10 * number, text))
    scope = {"ids": [stream_id], "stream_range": {"start_ms": 10_000, "end_ms": 20_000}}

    before = client.post("/v1/forget", json={"scope": scope, "mode": "preview"})
    done = client.post("/v1/forget", json={"scope": scope, "mode": "execute"}, headers={"prefer": "wait=5"})

    assert before.json()["counts"]["entries"] == 1
    assert (done.status_code, done.json()["state"]) == (200, "certified")
    found = client.get(f"/v1/streams/{stream_id}/passages").json()
    assert [one["text"] for one in found] == ["The anchor is up.", "The anchor is down."]
    assert append(client, stream_id, 1, cue(10, "Adeyemi is ill.")).json()["id"] is None
    assert len(client.get(f"/v1/streams/{stream_id}/passages").json()) == 2


def test_a_forgotten_stream_is_gone_with_all_its_segments(service, client):
    stream_id = open_stream(client, external_id="bridge")
    append(client, stream_id, 0, cue(1, "The anchor is up."))
    other = open_stream(client)

    assert client.delete(f"/v1/streams/{stream_id}", headers={"prefer": "wait=5"}).status_code == 200

    assert client.post("/v1/recall", json={"query": "anchor"}).json()["hits"] == []
    reader = service.client(service.key("read", "write"))
    assert reader.get(f"/v1/streams/{stream_id}").status_code == 404
    assert client.get(f"/v1/streams/{stream_id}").status_code == 410
    assert append(reader, stream_id, 1, cue(2, "Late.")).status_code == 404
    assert [one["id"] for one in client.get("/v1/streams").json()["items"]] == [other]
    assert client.post("/v1/streams", json={"kind": "text", "external_id": "bridge"}).status_code == 201


def test_streams_are_listed_newest_first_in_pages(client, service):
    ids = []
    for _ in range(3):
        ids.append(open_stream(client))
        service.house.clock.now_us += 1_000_000
    first = client.get("/v1/streams", params={"limit": 2}).json()
    rest = client.get("/v1/streams", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in (*first["items"], *rest["items"])] == ids[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nowhere", {"number": 0, "cues": [cue(0, "Aye.")]}, 404),
        (None, {"number": -1, "cues": [cue(0, "Aye.")]}, 422),
        (None, {"number": 0, "cues": []}, 422),
        (None, {"number": 0, "cues": [{"start_ms": 5, "end_ms": 1, "text": "Aye."}]}, 422),
        (None, {"number": 0, "cues": [cue(0, "Aye."), cue(4000, "Late.")]}, 422),
    ],
)
def test_what_is_no_segment_is_refused(client, path, body, status):
    stream_id = path or open_stream(client)
    reply = client.post(f"/v1/streams/{stream_id}/segments", json=body)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"


def test_what_was_said_of_a_stream_takes_the_segments_that_say_otherwise_of_themselves(client):
    """Its title stands in each."""
    stream_id = open_stream(client, metadata={"quay": 2})
    append(client, stream_id, 0, cue(1, "The anchor is up."), metadata={"quay": 3})
    scope = {"filter": {"metadata.quay": 2}}

    done = client.post("/v1/forget", json={"scope": scope, "mode": "execute"}, headers={"prefer": "wait=5"})

    assert (done.status_code, done.json()["counts"]["entries"]) == (200, 2)
    assert client.post("/v1/recall", json={"query": "anchor"}).json()["hits"] == []
