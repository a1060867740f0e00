"""Answer from the first moment: another way until the language model is there, and whenever it is not.

The loading runs in a thread that the wiring starts. A failed load is logged and kept to be looked at;
answers go on without it. Too many requests at once are no reason for another way: they are to come again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import structlog

from memory.errors import BusyError, LetheError, UnavailableError
from memory.ports import Reader, Shelf
from memory.values import Claim, Evidence, Reading

_log = structlog.get_logger(__name__)


class SwitchingReader:
    """Implements ``memory.ports.Reader`` over a reader that is there and one that must be loaded."""

    def __init__(self, ready: Reader, load: Callable[[], Reader]) -> None:
        """``load`` may take minutes; it raises a ``LetheError`` when the model is not to be had."""
        self._ready = ready
        self._load = load
        self._loaded: Reader | None = None
        self._failure: LetheError | None = None
        self._thread = threading.Thread(target=self._run, name="load-language-model", daemon=True)

    def start(self) -> None:
        """Begin to load, in the background; to be called once."""
        self._thread.start()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the load to end; say whether the loaded reader now answers."""
        self._thread.join(timeout_seconds)
        return self._loaded is not None

    @property
    def failure(self) -> LetheError | None:
        """Why the load failed, ``None`` when it has not."""
        return self._failure

    @property
    def name(self) -> str:
        """The name of the reader that would answer now."""
        return (self._loaded or self._ready).name

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield the claims of the reader that answers; once one is out, the other no longer steps in."""
        if self._loaded is not None:
            begun = False
            with closing(self._loaded.iter_claims(question, evidence, shelf, explain=explain)) as claims:
                try:
                    while True:
                        claim = next(claims)
                        begun = True
                        yield claim
                except StopIteration as end:
                    reading: Reading = end.value
                    return reading
                except BusyError:
                    raise
                except UnavailableError as error:
                    if begun:
                        raise
                    self._step_in(error)
        return (yield from self._ready.iter_claims(question, evidence, shelf, explain=explain))

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return the loaded reader's reading when it can, else the other's; ``Reading.reader`` says whose."""
        if self._loaded is not None:
            try:
                return self._loaded.read(question, evidence, shelf, explain=explain)
            except BusyError:
                raise
            except UnavailableError as error:
                self._step_in(error)
        return self._ready.read(question, evidence, shelf, explain=explain)

    def _step_in(self, error: UnavailableError) -> None:
        """Log why the reader that is there answers; readers word their errors without contents."""
        name = self._ready.name
        _log.warning("language model unavailable", reader=name, error=type(error).__name__, reason=str(error))

    def _run(self) -> None:
        try:
            self._loaded = self._load()
        except Exception as error:  # noqa: BLE001 - the edge of a thread, whose end nobody would notice
            name = type(error).__name__
            if isinstance(error, LetheError):
                self._failure = error
            else:
                self._failure = UnavailableError(f"the language model cannot be loaded: {name}")
            _log.warning(
                "language model not loaded", reader=self._ready.name, error=name, reason=str(self._failure)
            )
