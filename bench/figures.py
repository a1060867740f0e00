"""Numbers about runs: percentiles, spreads, and what machine they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "lethe",
    "torch",
    "transformers",
    "faiss-cpu",
    "tantivy",
    "sqlalchemy",
    "fastapi",
    "uvicorn",
    "celery",
)

Figures = dict[str, object]
"""A JSON object of figures; units stand in the names."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0..1] of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 1e6) * len(ordered) // 1_000_000) - 1)]


def spread(values: Sequence[float], *, digits: int = 3) -> Figures:
    """Return median, least and greatest of several runs."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def latency(rounds: Sequence[Sequence[float]]) -> Figures:
    """Return p50 and p95 in milliseconds of rounds of requests, each given in seconds."""
    return {
        f"p{share}_ms": spread([1000 * percentile(times, share / 100) for times in rounds], digits=1)
        for share in (50, 95)
    } | {"requests": sum(len(times) for times in rounds)}


def describe_machine() -> Figures:
    """Return what the figures depend on besides the code."""
    facts = dict(_fields(Path("/proc/meminfo"))) if Path("/proc/meminfo").exists() else {}
    processors = [model for name, model in _fields(Path("/proc/cpuinfo")) if name == "model name"]
    return {
        "processor": processors[0] if processors else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(facts.get("MemTotal", "0 kB").split()[0]) / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def describe_run() -> Figures:
    """Return when and how a section is being measured. The load says how idle the machine was."""
    spec = sys.modules["__main__"].__spec__
    # Where a machine keeps its files is nobody else's business.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", spec.name if spec else "bench", *words]),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def _fields(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
