"""Injected pauses: one thread is held at a chosen point until the test lets it go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

Value = TypeVar("Value")
PATIENCE_SECONDS = 30


class Pause:
    """Holds the first call of a function from any other thread than the test's own."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.home = threading.current_thread()
        self._taken = threading.Lock()

    def hold(self) -> None:
        """Wait here, the first time, until the test goes on."""
        if threading.current_thread() is not self.home and self._taken.acquire(blocking=False):
            self.reached.set()
            assert self.go.wait(PATIENCE_SECONDS), "the test never let go"


@contextmanager
def paused(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool = False
) -> Iterator[Pause]:
    """Pause calls of ``owner.name``, before or after they do their work."""
    pause, original = Pause(), getattr(owner, name)

    def held(*args: Any, **kwargs: Any) -> Any:
        if not after:
            pause.hold()
        result = original(*args, **kwargs)
        if after:
            pause.hold()
        return result

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, held)
        try:
            yield pause
        finally:
            pause.go.set()


class Running(threading.Thread):
    """A call in a thread of its own, whose result or error is asked for later."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again where the test asks
            self._error = error

    def result(self) -> Any:
        """Return what the call returned, or raise what it raised."""
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive(), "the call never ended"
        if self._error is not None:
            raise self._error
        return self._result

    def ended_within(self, seconds: float) -> bool:
        """Say whether the call ends in time."""
        self.join(seconds)
        return not self.is_alive()
