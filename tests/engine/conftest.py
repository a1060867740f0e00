"""A tiny encoder and an engine that serves it with the extractive reader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.engine import create_engine
from embedding.encoder import TextEncoder
from reader.extractive import ExtractiveReader
from service.engine import EngineConnection
from tests.engine.serving import connected, serving
from tests.tiny import build_tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(build_tiny_encoder(tmp_path_factory.mktemp("model")), name="tiny", threads=2)


@pytest.fixture(scope="session")
def url(encoder: TextEncoder) -> Iterator[str]:
    with serving(create_engine(encoder, ExtractiveReader(encoder))) as served:
        yield served


@pytest.fixture
def connection(url: str) -> Iterator[EngineConnection]:
    with connected(url) as opened:
        yield opened
