"""One tiny encoder for all, and a house for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from tests.service.harness import House
from tests.tiny import build_tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(build_tiny_encoder(tmp_path_factory.mktemp("model")), name="tiny")


@pytest.fixture
def house(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder)
    yield opened
    opened.close()
