"""The kernel under test, open for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.kernel import Kernel
from tests.memory.harness import close_kernel, open_kernel


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    opened = open_kernel(tmp_path)
    yield opened
    close_kernel(opened)
