"""The kernel under test, open for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.database import connect
from memory.kernel import Kernel
from tests.conftest import BACKENDS
from tests.memory.harness import close_kernel, open_kernel
from tests.postgres import Server


@pytest.fixture(params=BACKENDS)
def kernel(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """The same contract on both backends."""
    if request.param == "sqlite":
        opened = open_kernel(tmp_path)
        yield opened
        close_kernel(opened)
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database("data") as data, server.database("keys") as keys:
        opened = open_kernel(tmp_path, connect(data), connect(keys))
        yield opened
        close_kernel(opened)
