"""Running the service: what metrics, readiness and logs say, for real."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from memory.ledger import Recipe
from memory.tables import jobs
from memory.values import PassageId
from service.gauges import Gauges
from service.views import Scope
from service.wiring import configure_logs
from tests.service.harness import TENANT, House, text_content


def gauges(house: House) -> dict[tuple[str, ...], float]:
    """Return what Prometheus would read, by name and label values."""
    text = house.lethe.render_metrics().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type == "gauge"
    }


def test_gauges_tell_how_things_stand(house: House) -> None:
    idle = gauges(house)
    assert idle["lethe_database_up",] == 1
    assert (idle["lethe_uncertified_forgets",], idle["lethe_epoch_lag_seconds",]) == (0, 0)
    house.remember("Alice came to the river tower. " * 60, entry_id="a" * 32, subjects=("alice",))
    house.lethe.shelves.of(TENANT).keep(Recipe("kv", 1), PassageId(f"{'a' * 32}.0"), b"kept")
    assert gauges(house)["lethe_kv_bytes", "ram"] == 4
    house.lethe.indexes.rewrite(TENANT)
    house.lethe.remember(TENANT, [text_content("Bob likes the harbour.")])
    house.lethe.forget(TENANT, Scope(subjects=("alice",)), preview=False)
    house.clock.now_us += 90_000_000

    told = gauges(house)

    assert told["lethe_queue_depth", "ingest", "queued"] == 1
    assert told["lethe_queue_depth", "forget", "queued"] == 1
    assert told["lethe_oldest_queued_seconds", "ingest"] == 90
    assert (told["lethe_uncertified_forgets",], told["lethe_epoch_lag_seconds",]) == (1, 90)
    rows = len(house.lethe.indexes.get(TENANT).state.row_entry)
    assert told["lethe_index_bytes", "vectors"] == rows * 32 * 4 > 0
    segments = [path for path in (house.data / "index" / TENANT).iterdir() if path.is_file()]
    assert told["lethe_index_bytes", "segments"] == sum(path.stat().st_size for path in segments) > 0
    assert told["lethe_index_bytes", "words"] > 0
    assert (told["lethe_kv_bytes", "ram"], told["lethe_kv_bytes", "disk"]) == (0, 4 + 28)
    assert told["lethe_stale_leases",] == 0

    with house.lethe.kernel.database.write() as connection:
        connection.execute(
            jobs.update().where(jobs.c.kind == "fold").values(status="running", lease_until_us=1)
        )
        connection.execute(jobs.update().where(jobs.c.kind == "ingest").values(status="failed"))
    assert gauges(house)["lethe_stale_leases",] == 1
    assert gauges(house)["lethe_queue_depth", "ingest", "failed"] == 2


def break_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("password=secret"))

    monkeypatch.setattr(house.lethe.kernel.database, "read", fail)


def test_metrics_go_on_without_the_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    break_database(house, monkeypatch)
    lethe = house.lethe
    names = [family.name for family in Gauges(lethe.kernel, lethe.indexes, lethe.shelves).collect()]
    assert names == ["lethe_database_up", "lethe_index_bytes", "lethe_kv_bytes"]
    assert gauges(house)["lethe_database_up",] == 0


def test_readyz_names_what_is_missing_and_healthz_does_not_care(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.lethe.stop()
    with TestClient(create_app(house.lethe)) as http:
        assert http.get("/readyz").json() == {"status": "ready"}
        with monkeypatch.context() as patch:
            break_database(house, patch)
            reply = http.get("/readyz")
            assert reply.status_code == 503
            assert reply.json()["missing"] == {"database": "does not answer (OperationalError)"}
            assert http.get("/healthz").status_code == 200
        house.lethe.drain()
        assert http.get("/readyz").json()["missing"] == {"service": "stopping"}
        assert http.get("/metrics").status_code == 200
    house.open()


def test_lines_carry_the_ids_of_request_and_job(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One can follow a request into its jobs, and no line says what was remembered."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("INFO")
    try:
        house.lethe.stop()
        with TestClient(create_app(house.lethe)) as http:
            key = (house.data / "admin.key").read_text().strip()
            headers = {"authorization": f"Bearer {key}", "x-request-id": "my-request"}
            said = http.post("/v1/memories", json={"text": "Alice hid the letter."}, headers=headers)
            job_id = said.json()["job"]["id"]
            monkeypatch.setattr("service.work.derive", lambda *_: 1 / 0)
            house.waker.run_job = house.lethe.work.run
            house.lethe.work.run(job_id)
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
    finally:
        structlog.reset_defaults()
    by_event = {line["event"]: line for line in lines}
    assert by_event["queued"]["request_id"] == "my-request"
    assert job_id in by_event["queued"]["job_ids"]
    assert by_event["a defect ended some work"]["job_id"] == job_id
    assert by_event["a defect ended some work"]["job_kind"] == "ingest"
    assert "letter" not in written.getvalue()
    house.open()


def test_every_metric_is_documented(house: House) -> None:
    """And nothing is documented that is not there."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    text = house.lethe.render_metrics().decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    told = {name for name in families if name.startswith("lethe_") and not name.endswith("_created")}
    rows = {
        line.split("`")[1].partition("{")[0] for line in page.splitlines() if line.startswith("| `lethe_")
    }
    # The engine's own are told of in its page, and are here when a test of it ran in this process.
    told = {name for name in told if not name.startswith("lethe_engine_")}
    assert {name.removesuffix("_total") for name in rows} == told
