"""One tiny encoder for all, and a house for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from tests.conftest import BACKENDS
from tests.postgres import Server
from tests.service.harness import House
from tests.tiny import build_tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(build_tiny_encoder(tmp_path_factory.mktemp("model")), name="tiny")


@pytest.fixture(params=BACKENDS)
def house(tmp_path: Path, encoder: TextEncoder, request: pytest.FixtureRequest) -> Iterator[House]:
    """The same service on both backends."""
    if request.param == "sqlite":
        opened = House(tmp_path / "data", encoder)
        yield opened
        opened.close()
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database("data") as data, server.database("keys") as keys:
        opened = House(tmp_path / "data", encoder, database_url=data, keys_url=keys)
        yield opened
        opened.close()
