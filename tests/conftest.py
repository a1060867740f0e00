"""The servers that tests share, started when the first test asks for one; and where logs go meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from tests import postgres as postgres_server

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    with postgres_server.serve() as server:
        yield server


class HeldOutput:
    """Prints to the standard output of the moment, which it holds.

    structlog's own has ``print`` find it, and Python 3.11 crashes where pytest puts another in its place just
    then (CPython issue 130163): a server's thread may log its last request while the next test begins.
    """

    def msg(self, message: str) -> None:
        output = sys.stdout
        with suppress(ValueError):  # a test's own output, closed with the test
            print(message, file=output, flush=True)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


@pytest.fixture(autouse=True)
def logs_to_held_output() -> None:
    structlog.configure(logger_factory=lambda *_: HeldOutput())
