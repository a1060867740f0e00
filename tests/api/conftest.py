"""The doors over an in-memory Lethe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doors import client_of, serving
from fake_lethe import FakeLethe
from fastapi.testclient import TestClient


@pytest.fixture
def lethe() -> FakeLethe:
    return FakeLethe()


@pytest.fixture
def http(lethe: FakeLethe) -> Iterator[TestClient]:
    with client_of(lethe) as client:
        yield client


@pytest.fixture
def port(lethe: FakeLethe) -> Iterator[int]:
    with serving(lethe) as port:
        yield port
