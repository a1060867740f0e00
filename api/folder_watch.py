"""Watching a folder: when something moves in it, look at all of it again and bring the service in step.

The file system's notices only say when to look; what is to be done comes from comparing, so that lost
notices, moved directories and editors that replace files need no rules of their own. What is still being
written, or is missing for a moment only, is left for the next look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import watch

from api.folder_plan import Known, Plan
from api.folder_scan import Item, Scan, Scanner, Stamp
from api.folder_sync import FolderSync, Outcome
from memory.errors import InvalidInputError

SETTLE_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 60.0
"""After so long without a notice the folder is looked at all the same."""
NOTICE_MS = 500
DEBOUNCE_MS = 300


@dataclass(slots=True)
class Settling:
    """Tells what has kept still for ``seconds`` from what may still be moving."""

    seconds: float
    _seen: dict[str, tuple[Stamp | None, float]] = field(default_factory=dict)

    def settle(self, scan: Scan, known: Iterable[Known], now: float) -> tuple[Scan, bool]:
        """Return what may be acted on at ``now`` (monotonic seconds), and whether that is all.

        What is not settled counts as unread: neither sent nor taken for gone. While a path is newly missing,
        nothing new is sent either, for it may be the same file elsewhere.
        """
        by_path = {one.path: one for one in known}
        moving = {path: item.stamp for path, item in scan.items.items() if not _is_as_known(item, by_path)}
        missing = [path for path in by_path if path not in scan.items and not scan.is_unread(path)]
        states: dict[str, Stamp | None] = {**moving, **dict.fromkeys(missing)}
        seen: dict[str, tuple[Stamp | None, float]] = {}
        for path, state in states.items():
            before = self._seen.get(path)
            seen[path] = before if before is not None and before[0] == state else (state, now)
        self._seen = seen
        held = {path for path, (_, since) in seen.items() if now - since < self.seconds}
        if any(path in held for path in missing):
            held |= moving.keys() - by_path.keys()
        items = {path: item for path, item in scan.items.items() if path not in held}
        unread = {**scan.unread, **dict.fromkeys(held, "is still being written")}
        return Scan(items, unread, scan.left_out), not held


def _is_as_known(item: Item, known: dict[str, Known]) -> bool:
    there = known.get(item.path)
    if there is None:
        return False
    if item.message is not None:
        return item.message.sha256 == there.sha256
    return there.stamp == item.stamp


@dataclass
class Watcher:
    """One folder under watch. ``report`` is told each round in which something was done or failed."""

    scanner: Scanner
    sync: FolderSync
    forget_gone: bool
    report: Callable[[Plan, Outcome, int], None]
    say: Callable[[str], None]
    _settling: Settling = field(default_factory=lambda: Settling(SETTLE_SECONDS))
    _refused: dict[str, Stamp | str] = field(default_factory=dict)
    _told_gone: set[str] = field(default_factory=set)
    _told_trouble: str | None = None

    def start_from(self, plan: Plan, outcome: Outcome) -> None:
        """Take up from a plan that was carried out: what failed is not tried again until it changes."""
        failed = {path for path, _ in outcome.failures}
        self._refused = {step.item.path: _mark(step.item) for step in plan.steps if step.item.path in failed}
        self._told_gone = {known.id for known in plan.gone}

    def run(self, stop: threading.Event) -> None:
        """Keep in step until ``stop`` is set."""
        while not stop.is_set():
            if not self._watch_directory(stop):
                stop.wait(SETTLE_SECONDS)

    def _watch_directory(self, stop: threading.Event) -> bool:
        """Watch until the folder is another directory than it was; say whether it was there at all."""
        root = self.scanner.root
        began = _identity(root)
        if began is None:
            self._trouble("the folder is not there; waiting for it, and forgetting nothing")
            return False
        due = 0.0
        for notices in watch(
            root,
            watch_filter=None,
            stop_event=stop,
            debounce=DEBOUNCE_MS,
            rust_timeout=NOTICE_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            now = time.monotonic()
            if notices or now >= due:
                settled = self.look(now)
                due = now + (SETTLE_SECONDS if not settled else LOOK_AGAIN_SECONDS)
            if _identity(root) != began:
                return True
        return True

    def look(self, now: float) -> bool:
        """Compare once and carry out what has settled; say whether everything had."""
        try:
            scan = self.scanner.scan()
        except InvalidInputError as error:
            self._trouble(str(error))
            return False
        if not scan.items and not scan.unread and self.sync.known:
            self._trouble("the folder is empty all at once; waiting, and forgetting nothing")
            return False
        self._told_trouble = None
        scan, settled = self._settling.settle(scan, self.sync.known.values(), now)
        plan = self.sync.plan(scan)
        plan.failed = {}  # a file that cannot be read is looked at again; it was told when it was found
        plan.steps = [step for step in plan.steps if self._refused.get(step.item.path) != _mark(step.item)]
        if not plan.steps and not self._has_news(plan.gone):
            return settled
        marks = {step.item.path: _mark(step.item) for step in plan.steps}
        plan.unchanged = []
        outcome = self.sync.carry_out(plan)
        self._refused.update({path: marks[path] for path, _ in outcome.failures})
        forgotten = self.sync.forget(plan.gone) if self.forget_gone else 0
        self._told_gone = {known.id for known in plan.gone}
        self.report(plan, outcome, forgotten)
        if outcome.failures:
            self.sync.load()  # it may have been changed or forgotten by others
        return settled

    def _has_news(self, gone: Iterable[Known]) -> bool:
        ids = {known.id for known in gone}
        return bool(ids) if self.forget_gone else not ids <= self._told_gone

    def _trouble(self, what: str) -> None:
        if what != self._told_trouble:
            self.say(what)
        self._told_trouble = what


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _mark(item: Item) -> Stamp | str:
    return item.stamp if item.message is None else item.message.sha256
