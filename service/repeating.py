"""Something done again and again in a thread of its own, whatever happens to it once in a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger()


class Repeating:
    """Does an act every so many seconds until it is stopped; what fails is logged and tried again."""

    def __init__(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        self._name, self._seconds, self._act = name, seconds, act
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=f"lethe-{name}", daemon=True)

    def start(self) -> None:
        """Begin; the first time is after the first pause."""
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> None:
        """End, and wait for what is under way, not longer than told."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _repeat(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - the edge of a thread, whose end nobody would notice
                log.warning("failed; trying again", what=self._name, error=type(error).__name__)
