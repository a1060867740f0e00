"""Prometheus metrics of the use cases. Labels are stages and kinds, never ids or words."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from service.tracing import record_stages

LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

stage_seconds = Histogram(
    "lethe_stage_seconds", "Time in each stage of a use case", ("use_case", "stage"), buckets=LATENCY_BUCKETS
)
fence_seconds = Histogram(
    "lethe_fence_seconds", "From a forget request to its acknowledgement", buckets=LATENCY_BUCKETS
)
certificate_seconds = Histogram(
    "lethe_certificate_seconds",
    "From a forget's fence to its certificate",
    buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)
jobs_total = Counter("lethe_jobs_total", "Jobs that ended", ("kind", "status"))
passages_total = Counter("lethe_passages_total", "Passages indexed")
kv_lookups_total = Counter(
    "lethe_kv_lookups_total", "Key/value memories asked for, by where they were", ("tier",)
)


def observe_stages(use_case: str, timings_ms: dict[str, float]) -> None:
    """Record how long each stage of one call took."""
    record_stages(use_case, timings_ms)
    for stage, milliseconds in timings_ms.items():
        stage_seconds.labels(use_case, stage).observe(milliseconds / 1000)
