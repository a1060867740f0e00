"""Traces: nothing by default, a clear word when the extra is missing, spans without contents when asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from typer.testing import CliRunner

from api.app import create_app
from api.cli import app
from service import tracing
from tests.service.harness import House


class Recorded(trace.NonRecordingSpan):
    """A span that remembers what it was told."""

    def __init__(self, name: str, parent: int, attributes: Any) -> None:
        context = trace.SpanContext(parent or 1, 1, is_remote=False)
        super().__init__(context)
        self.name, self.trace_id, self.attributes = name, parent, dict(attributes or {})
        self.start = self.stop = 0

    def update_name(self, name: str) -> None:
        self.name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Any) -> None:
        self.attributes |= attributes

    def end(self, end_time: int | None = None) -> None:
        self.stop = end_time or 0


class Recorder(trace.Tracer):
    """A tracer over the interface alone, without the SDK."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def start_span(
        self, name: str, context: Any = None, *_: Any, attributes: Any = None, start_time: int = 0, **__: Any
    ) -> Recorded:
        parent = trace.get_current_span(context).get_span_context()
        self.spans.append(Recorded(name, parent.trace_id, attributes))
        self.spans[-1].start = start_time
        return self.spans[-1]

    @contextmanager
    def start_as_current_span(self, name: str, context: Any = None, **options: Any) -> Iterator[Recorded]:  # type: ignore[override]
        assert options["record_exception"] is False
        span = self.start_span(name, context, attributes=options["attributes"])
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    tracing.use(made)
    yield made
    tracing.use(None)


def test_requests_stages_and_jobs_are_traced_without_contents(house: House, recorder: Recorder) -> None:
    house.lethe.stop()
    with TestClient(create_app(house.lethe)) as http:
        key = (house.data / "admin.key").read_text().strip()
        headers = {
            "authorization": f"Bearer {key}",
            "x-request-id": "mine",
            "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        }
        http.post("/v1/memories", json={"text": "Alice hid the letter."}, headers=headers)
        for job_id in house.lethe.kernel.jobs.list_due(9):
            house.lethe.work.run(job_id)
        http.post("/v1/recall", json={"query": "Who hid the letter?"}, headers=headers)
        http.get("/v1/documents/unheard-of", headers=headers)
    spans = {span.name: span for span in recorder.spans}
    assert {"POST /v1/memories", "job ingest", "POST /v1/recall"} <= set(spans)
    stages = [spans[f"recall {stage}"] for stage in ("select", "encode", "search", "hydrate")]
    assert all(one.stop == next_one.start for one, next_one in pairwise(stages))
    assert all(stage.start < stage.stop for stage in stages)
    asked = spans["POST /v1/recall"]
    assert asked.trace_id == int("ab" * 16, 16), "the caller's trace is followed"
    assert stages[0].trace_id == asked.trace_id, "in whatever thread"
    assert asked.attributes["http.response.status_code"] == 200
    assert asked.attributes["lethe.request_id"] == "mine"
    assert spans["GET /v1/documents/{id}"].attributes["http.response.status_code"] == 404
    told = str([(span.name, span.attributes) for span in recorder.spans])
    assert not [word for word in ("letter", "Alice", "unheard-of", key) if word in told]
    house.open()


def test_a_failure_is_named_without_its_words(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("work", {}):
        raise ValueError("a secret")
    assert recorder.spans[0].attributes == {"error.type": "ValueError"}


def test_asking_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setenv("LETHE_OTEL_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setattr("service.wiring.configure_logs", lambda level: None)  # it is the process's
    told = CliRunner().invoke(app, ["serve", "--data", str(tmp_path / "data"), "--port", "0"])
    assert told.exit_code == 3
    assert "lethe[otel]" in " ".join(told.stderr.split())
    assert not (tmp_path / "data").exists()


def test_nothing_is_imported_for_it_by_default() -> None:
    """FastAPI brings the interface; our own module must not even need that."""
    code = "import sys, service.tracing as t\nwith t.span('a', {}): t.record_stages('b', {'c': 1})\nsys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sdk_takes_the_spans() -> None:
    """With the extra installed, through its in-memory exporter."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra lethe[otel] is not installed")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracing.use(provider.get_tracer("lethe"))
    try:
        with tracing.span("outer", {"lethe.job_id": "j"}):
            tracing.record_stages("recall", {"encode": 1.5})
    finally:
        tracing.use(None)
    inner, outer = exporter.get_finished_spans()
    assert (inner.name, outer.name) == ("recall encode", "outer")
    assert inner.end_time - inner.start_time == 1_500_000
    assert inner.parent.span_id == outer.context.span_id
