"""The servers that tests share, started when the first test asks for one; and where logs go meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from tests import postgres as postgres_server
from tests.openai_server import OpenAIServer, serving_openai

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    with postgres_server.serve() as server:
        yield server


@pytest.fixture(scope="session")
def running_openai() -> Iterator[OpenAIServer]:
    with serving_openai(OpenAIServer()) as served:
        yield served


@pytest.fixture
def openai(running_openai: OpenAIServer) -> OpenAIServer:
    """The server that speaks as OpenAI's do, as if it were new."""
    running_openai.reset()
    return running_openai


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
