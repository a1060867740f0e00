"""A real `lethe serve` killed in the middle of its work, and one too many."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from tests.served import PATIENCE, Served, serve
from tests.service.harness import TENANT, House, text_content
from tests.tiny import build_tiny_encoder
from unlearning.forget import find_unowned

TOLD = 100


@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_a_kill_and_nothing_stray_is_left(tmp_path: Path) -> None:
    model = build_tiny_encoder(tmp_path / "model")
    data = tmp_path / "data"
    bodies = [f"Story {n} of the river tower. " * (1 + n % 5) for n in range(TOLD)]
    documents = [{"text": body, "external_id": f"d{n}"} for n, body in enumerate(bodies)]

    with serve(data, model, tmp_path / "first.log") as first:
        acknowledged = first.ask("/v1/documents/batch", documents)
        assert len(acknowledged) == TOLD
        first.kill()

    with serve(data, model, tmp_path / "second.log") as second:
        rival = Served(data, model, tmp_path / "rival.log")
        assert rival.process.wait(PATIENCE) != 0
        said = " ".join(rival.log.read_text().split())
        assert "another process serves" in said
        assert "Traceback" not in said
        deadline = time.monotonic() + PATIENCE
        jobs = {item["job"]["id"] for item in acknowledged}
        while jobs:
            assert time.monotonic() < deadline, f"{len(jobs)} jobs never ended"
            time.sleep(0.05)
            jobs = {i for i in jobs if second.ask(f"/v1/jobs/{i}")["status"] in ("queued", "running")}
        assert {second.ask(f"/v1/jobs/{item['job']['id']}")["status"] for item in acknowledged} == {"done"}
        assert second.ask("/v1/stats")["sources"] == TOLD

    encoder = TextEncoder(model, name=f"hf:{model}")
    house = House(data, encoder)
    undisturbed = House(tmp_path / "undisturbed", encoder)
    try:
        assert not house.lethe.kernel.jobs.count_open(TENANT).get("rebuild")
        assert find_unowned(data, house.lethe.stores) == []
        undisturbed.lethe.remember(TENANT, [text_content(body) for body in bodies])
        undisturbed.waker.drain()
        told = {(text, score) for _, text, score in undisturbed.found("river tower story 7", limit=200)}
        assert {(text, score) for _, text, score in house.found("river tower story 7", limit=200)} == told
        stored = {house.lethe.get_source(TENANT, item["id"]).text for item in acknowledged}
        assert stored == set(bodies)
    finally:
        house.close()
        undisturbed.close()
