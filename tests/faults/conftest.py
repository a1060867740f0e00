"""Fixtures of the fault tests: one tiny encoder for all, and worlds over fresh folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from tests.faults.stories import World, open_world
from tests.tiny import build_tiny_encoder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def encoder(model_folder: Path) -> TextEncoder:
    return TextEncoder(model_folder, name="tiny", threads=1)


@pytest.fixture
def world(tmp_path: Path, encoder: TextEncoder) -> Iterator[World]:
    opened = open_world(tmp_path / "data", encoder)
    yield opened
    opened.close()
