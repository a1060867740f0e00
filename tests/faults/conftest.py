"""Fixtures of the fault tests: one tiny encoder for all, worlds over fresh folders; and the count of faults."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from tests.faults.stories import World, open_world
from tests.tiny import build_tiny_encoder

ALL = os.environ.get("LETHE_FAULTS") == "all"
RESULTS = Path(__file__).parents[2] / "bench" / "results" / "faults.json"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def encoder(model_folder: Path) -> TextEncoder:
    return TextEncoder(model_folder, name="tiny", threads=1)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is away here does not come back by waiting."""
    monkeypatch.setattr("service.work.RECORD_PAUSES", ())


@pytest.fixture
def world(tmp_path: Path, encoder: TextEncoder) -> Iterator[World]:
    opened = open_world(tmp_path / "data", encoder, kv_device_bytes=1 << 20)
    yield opened
    opened.close()


_counted: dict[str, dict[str, int]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what the tests of faults told, whichever process they ran in."""
    if report.when == "call":
        for name, told in report.user_properties:
            if name == "faults":
                for kind, numbers in told.items():  # type: ignore[attr-defined]
                    sums = _counted.setdefault(kind, {"injected": 0, "survived": 0})
                    for what, number in numbers.items():
                        sums[what] += number


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts down, where all faults were injected."""
    if ALL and _counted and not hasattr(session.config, "workerinput"):
        results = {
            "command": "make faults",
            "date": date.today().isoformat(),
            "faults_injected": sum(numbers["injected"] for numbers in _counted.values()),
            "faults_survived": sum(numbers["survived"] for numbers in _counted.values()),
            "by_kind": dict(sorted(_counted.items())),
        }
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
