"""Who leaves while another process reads for them is not read to the end for."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from memory.asking import while_there
from memory.errors import LeftError
from memory.values import Claim
from reader.remote import RemoteReader
from reader.wire import ClaimLine, line_to_json


class Lines:
    """An engine that goes on claiming; whoever asked has gone after the second claim."""

    def __init__(self, gone: threading.Event) -> None:
        self._gone = gone
        self.sent = 0
        self.closed = False

    def ask(self, route: str, body: bytes | None = None) -> bytes:
        raise NotImplementedError

    def iter_lines(self, route: str, body: bytes) -> Generator[bytes, None, None]:
        try:
            while self.sent < 9:
                self.sent += 1
                if self.sent == 3:
                    self._gone.set()
                yield line_to_json(ClaimLine(Claim("The bridge opened in 1932.", supported=True)))
        finally:
            self.closed = True


def test_a_reading_elsewhere_ends_when_its_asker_leaves() -> None:
    gone = threading.Event()
    engine = Lines(gone)
    with while_there(gone), pytest.raises(LeftError):
        RemoteReader(engine, name="told").read("When?", [])
    assert (engine.sent, engine.closed) == (3, True)
