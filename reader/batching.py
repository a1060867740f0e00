"""One pass of the model for all readings that wait for one (continuous batching; Orca, Yu et al. 2022).

Whoever waits may run a pass for all: a reading with a step to take leads when nobody does, so there is no
thread to start, stop, or lose. A pass takes every short step, such as those of decoding, and of long ones as
many tokens as it may, in whole tiles, so that a long prompt holds up nobody's next word (Sarathi-Serve,
Agrawal et al. 2024); those who ask and have been served the fewest tokens come first (VTC, Sheng et al.
2024). A step's result depends on its company by the rounding of sums alone; one that must not at all has
passes of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from memory.asking import check_there, whose
from memory.errors import UnavailableError
from reader.attention.function import Attends, run
from reader.attention.slots import Segment

SHORT = 32
"""A step of at most so many tokens is never put off."""

PASS_TOKENS = 512
"""Tokens of long steps in a pass, at most."""

LOOK_SECONDS = 0.1
"""Who waits looks so often whether who asked is still there."""

_PATIENCE = 0.1
"""Those who took a step in the last pass are waited for, up to this part of the time that it took."""


@dataclass(eq=False, slots=True)
class _Step:
    """Tokens to run: ``tile`` tiles of its segment have been."""

    party: str
    tokens: Sequence[int]
    segment: Segment
    keep: int
    alone: bool
    router: Attends | None
    tile: int = 0
    is_running: bool = False
    logits: torch.Tensor | None = None
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.logits is not None or self.error is not None

    @property
    def left(self) -> int:
        """How many tokens have not been run."""
        return len(self.tokens) - self.segment.tiles[self.tile].start

    def cut(self, budget: int) -> _Chunk | None:
        """Return as many whole tiles as have at most so many tokens, ``None`` when the next has more."""
        tiles = self.segment.tiles
        start, stop = tiles[self.tile].start, self.tile
        while stop < len(tiles) and tiles[stop].stop - start <= budget:
            stop += 1
        if stop == self.tile:
            return None
        keep = self.keep if stop == len(tiles) else 0
        tokens = self.tokens[start : tiles[stop - 1].stop]
        return _Chunk(self, stop, tokens, self.segment.part(self.tile, stop), keep)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a pass takes of a step: its next tiles up to ``stop``; logits are kept at the step's end alone."""

    step: _Step
    stop: int
    tokens: Sequence[int]
    segment: Segment
    keep: int


class Batch:
    """Runs one model; safe to share between threads, which may all be in it at once."""

    def __init__(self, model: Any, *, most_tokens: int = PASS_TOKENS, router: Attends | None = None) -> None:
        """``most_tokens`` of long steps are run in a pass, in whole tiles: no tile may have more.

        ``router`` chooses what each reading looks at.
        """
        self._model = model
        self._router = router
        self._most_tokens = most_tokens
        self._changed = threading.Condition()
        self._waiting: list[_Step] = []
        self._served: dict[str, int] = {}
        """Tokens that were run, by party, as long as one of its steps waits."""
        self._is_led = False
        self._was_alone = False
        self._due = 0
        """So many who took a step in the last pass may be back with another."""
        self._seconds = 0.0

    def run(
        self,
        tokens: Sequence[int],
        segment: Segment,
        keep: int,
        *,
        alone: bool = False,
        router: Attends | None = None,
    ) -> torch.Tensor:
        """Return the logits of the last ``keep`` tokens, one at least, shape (keep, words).

        What is run ``alone`` is run whole, in a pass without others: the same bits whatever else goes on. It
        may have a ``router`` of its own in place of the batch's.
        Raises ``UnavailableError`` when the model cannot run (out of memory), ``LeftError`` when who asked is
        no longer there.
        """
        if router is not None and not alone:
            raise ValueError("a pass with others has the batch's router")
        step = _Step(whose(), tokens, segment, keep, alone, router or self._router)
        with self._changed:
            self._join(step)
            try:
                while not step.is_over:
                    if not step.is_running:
                        check_there()
                    if self._is_led:
                        self._changed.wait(LOOK_SECONDS)
                    else:
                        self._lead()
            finally:
                self._drop(step)
        if step.error is not None:
            raise step.error
        assert step.logits is not None
        return step.logits

    def _join(self, step: _Step) -> None:
        if step.party not in self._served:
            # Whoever was not here has no claim to what others got meanwhile.
            self._served[step.party] = min(self._served.values(), default=0)
        self._waiting.append(step)
        self._due = max(0, self._due - 1)
        self._changed.notify_all()

    def _drop(self, step: _Step) -> None:
        self._waiting.remove(step)
        if all(other.party != step.party for other in self._waiting):
            del self._served[step.party]

    def _lead(self) -> None:
        """Run one pass for those who wait; others may come meanwhile."""
        self._is_led = True
        chunks: list[_Chunk] = []
        try:
            self._changed.wait_for(lambda: self._due == 0, self._seconds * _PATIENCE)
            chunks = self._choose()
            started = time.monotonic()
            self._changed.release()
            try:
                self._run(chunks)
            finally:
                self._changed.acquire()
            self._seconds = time.monotonic() - started
        finally:
            self._is_led = False
            for chunk in chunks:
                chunk.step.is_running = False
            self._due = sum(chunk.step.is_over for chunk in chunks)
            self._changed.notify_all()

    def _choose(self) -> list[_Chunk]:
        """Return what the next pass runs."""
        waiting = sorted(
            (step for step in self._waiting if not step.is_over), key=lambda one: self._served[one.party]
        )
        alone = [step for step in waiting if step.alone]
        shared = [step for step in waiting if not step.alone]
        self._was_alone = bool(alone) and not (shared and self._was_alone)
        if self._was_alone:
            return self._take(alone[0], len(alone[0].tokens))
        chunks = [chunk for step in shared if step.left <= SHORT for chunk in self._take(step, SHORT)]
        long = [step for step in shared if step.left > SHORT]
        budget = self._most_tokens
        while long:
            step = min(long, key=lambda one: self._served[one.party])
            long.remove(step)
            taken = self._take(step, budget)
            budget -= sum(len(chunk.tokens) for chunk in taken)
            chunks += taken
        return chunks

    def _take(self, step: _Step, budget: int) -> list[_Chunk]:
        """Return what a pass takes of a step, at most so many tokens; nothing when a tile has more."""
        chunk = step.cut(budget)
        if chunk is None:
            return []
        step.is_running = True
        self._served[step.party] += len(chunk.tokens)
        return [chunk]

    def _run(self, chunks: Sequence[_Chunk]) -> None:
        """Run a pass; one that fails is run again step by step, so that only what cannot run at all fails."""
        failed: Exception | None = None
        try:
            kept = self._run_together(chunks)
        except (RuntimeError, MemoryError) as error:  # torch says "out of memory" with either
            failed = UnavailableError(f"the language model cannot run: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - raised by the step whose fault it is
            failed = error.with_traceback(None)
        # Beyond the handler, since the error holds on to what the pass had in memory.
        if failed and len(chunks) > 1:
            for chunk in chunks:
                self._run([chunk])
        elif failed:
            chunks[0].step.error = failed
        else:
            for chunk, logits in zip(chunks, kept, strict=True):
                chunk.step.tile = chunk.stop
                if chunk.keep:
                    chunk.step.logits = logits

    def _run_together(self, chunks: Sequence[_Chunk]) -> Sequence[torch.Tensor]:
        """Return the logits that each chunk asks for."""
        ends = list(accumulate(len(chunk.tokens) for chunk in chunks))
        segments = [
            chunk.segment.moved(end - len(chunk.tokens)) for chunk, end in zip(chunks, ends, strict=True)
        ]
        kept = [at for chunk, end in zip(chunks, ends, strict=True) for at in range(end - chunk.keep, end)]
        logits = run(
            self._model,
            [token for chunk in chunks for token in chunk.tokens],
            segments,
            keep=torch.tensor(kept, dtype=torch.long, device=self._model.device),
            router=chunks[0].step.router,
            # Who brings a router of its own wants to hear of all tokens in every layer.
            whole=chunks[0].step.router is not self._router,
        )
        found = list(accumulate((chunk.keep for chunk in chunks), initial=0))
        return [logits[begin:end] for begin, end in pairwise(found)]
