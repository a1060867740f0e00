"""The servers that tests share, started when the first test asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgres as postgres_server

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    with postgres_server.serve() as server:
        yield server
