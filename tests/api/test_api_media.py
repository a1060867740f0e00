"""A video at the HTTP door: uploaded, found by what its captions say, with the time when they say it."""

from __future__ import annotations

import pytest
from real import real_service, tiny_encoder

from tests.sources.moving import CUES, make_media


@pytest.fixture
def client(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened.client(opened.key("read", "write"))


def test_an_uploaded_video_is_found_by_its_captions_at_their_time(client):
    body = make_media("mp4", seconds=5.0, subtitles=[("mov_text", "eng", CUES)], title="Watch")

    posted = client.post("/v1/documents", files={"file": ("watch.mp4", body)}, headers={"prefer": "wait=5"})

    assert (posted.status_code, posted.json()["passages"]) == (201, 1)
    found = client.post("/v1/recall", json={"query": "when does the ferry leave"}).json()
    (hit,) = found["hits"]
    assert "The ferry leaves at nine." in hit["text"]
    assert hit["span"]["place"] == {"kind": "time", "first": 500, "last": 4000}
    told = client.get(f"/v1/documents/{posted.json()['id']}").json()
    assert told["title"] == "Watch"


def test_sound_alone_is_refused_with_what_to_do(client):
    upload = {"file": ("tone.wav", make_media("wav", seconds=0.2))}

    posted = client.post("/v1/documents", files=upload, headers={"prefer": "wait=5"})

    assert posted.status_code == 422
    assert "no speech model is loaded" in posted.json()["detail"]
