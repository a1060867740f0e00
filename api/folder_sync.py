"""Keeping a folder in step with the service: carry out a plan, several documents at a time.

Every request may be repeated without harm: a document goes by an external id, and the same content under it
changes nothing. So what cannot be reached now is tried again, and what was broken off is taken up by
comparing anew.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from api.client import FINISHED_JOBS, BusyError, LetheClient, Upload
from api.folder_plan import METADATA_KEY, Known, Plan, Step, folder_filter, make_fields, make_plan, read_known
from api.folder_scan import Item, Scan, Stamp
from api.mailboxes import MESSAGE_MEDIA_TYPE
from memory.errors import ConflictError, ForbiddenError, LetheError, UnavailableError

if TYPE_CHECKING:
    from api.client import AttributeFields
    from api.replies import RememberedReply

SENDERS = 4
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
POLL_SECONDS = 0.1
SETTLED_NS = 2_000_000_000
"""A file that changed a moment before it was read may change once more within the same tick of its clock."""
FORGET_WAIT_SECONDS = 300
FORGET_AT_ONCE = 500

Result = TypeVar("Result")
Tell = Callable[[str, int, int], None]
"""Called with a stage, how many are done, and of how many."""


class StoppedError(Exception):
    """Somebody asked to stop."""


@dataclass(slots=True)
class Outcome:
    """What became of a plan: how many documents of each kind, and which failed, why."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, path: str, reason: str) -> None:
        """Note a failure."""
        self.failures.append((path, reason))


class Patience:
    """Tries again what the service cannot do now, ever less often; gives up after ``seconds`` in a row.

    ``seconds`` None never gives up. ``stop`` ends every pause. ``say`` is told why the first time in a row.
    """

    def __init__(
        self, seconds: float | None, stop: threading.Event, say: Callable[[str], None] = lambda what: None
    ) -> None:
        self.seconds = seconds
        self.stop = stop
        self.say = say
        self._said = False

    def __call__(self, send: Callable[[], Result]) -> Result:
        started = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        while True:
            if self.stop.is_set():
                raise StoppedError
            try:
                done = send()
                self._said = False
                return done
            except UnavailableError as error:
                if self.seconds is not None and time.monotonic() - started > self.seconds:
                    raise
                if not self._said:
                    self._said = True
                    self.say(f"{error}; trying again")
                told = error.retry_after_seconds if isinstance(error, BusyError) else None
            # Spread out, so that senders turned away together do not come back together.
            self.stop.wait(min(LONGEST_PAUSE_SECONDS, max(told or 0.0, pause) * random.uniform(1.0, 1.25)))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


class FolderSync:
    """One folder of one service: what the service holds of it, kept up with what is done here."""

    def __init__(
        self, client: LetheClient, folder: str, said: AttributeFields, patience: Patience, tell: Tell
    ) -> None:
        self.client = client
        self.folder = folder
        self.said = said
        self.patience = patience
        self.tell = tell
        self.known: dict[str, Known] = {}

    def load(self) -> None:
        """Ask the service what it holds of the folder."""
        listed = self.patience(lambda: list(self.client.iter_pending_documents(folder_filter(self.folder))))
        self.known = {document["id"]: read_known(document) for document in listed}

    def plan(self, scan: Scan) -> Plan:
        """Compare; files are read only where size and time do not tell."""
        plan = make_plan(self.folder, scan, self.known.values(), self.said)
        plan.failed.update(scan.unread)
        for item, known in plan.unchanged:
            if item.message is None and known.stamp != item.stamp:
                self.known[known.id] = replace(known, stamp=_settled(item.stamp))
        return plan

    def carry_out(self, plan: Plan) -> Outcome:
        """Send what is to be sent and wait until it is indexed; what is gone is not touched."""
        outcome = Outcome()
        for path, reason in sorted(plan.failed.items()):
            outcome.fail(path, reason)
        waiting = self._send_all(plan.steps, outcome)
        for item, known in plan.unchanged:
            if known.job is None:
                outcome.counts["unchanged"] += 1
            elif known.job["status"] != "failed":
                waiting.append(("unchanged", item.path, known, known.job["id"]))
        retried = [
            Step("updated", item, known.external_id, known)
            for item, known in plan.unchanged
            if known.job is not None and known.job["status"] == "failed"
        ]
        waiting += self._send_all(retried, outcome)
        self._wait_all(waiting, outcome)
        return outcome

    def forget(self, gone: Iterable[Known]) -> int:
        """Forget documents for good; return how many are certified to be erased."""
        ids = [known.id for known in gone]
        certified = 0
        for start in range(0, len(ids), FORGET_AT_ONCE):
            some = ids[start : start + FORGET_AT_ONCE]
            done = self.patience(partial(self.client.forget, {"ids": some}, wait=FORGET_WAIT_SECONDS))
            for id in some:
                self.known.pop(id, None)
            certified += len(some) if done["state"] == "certified" else 0
            self.tell("forgetting", start + len(some), len(ids))
        return certified

    def _send_all(self, steps: list[Step], outcome: Outcome) -> list[tuple[str, str, Known, str]]:
        """Return what was taken: its outcome, path, what is then known, and its job."""
        waiting: list[tuple[str, str, Known, str]] = []
        with _pool(self.patience.stop) as pool:
            futures: dict[Future[tuple[RememberedReply, Known]], Step] = {
                pool.submit(self._send, step): step for step in steps
            }
            for number, future in enumerate(as_completed(futures), start=1):
                step = futures[future]
                try:
                    reply, known = future.result()
                except (UnavailableError, ForbiddenError):
                    raise
                except LetheError as error:
                    outcome.fail(step.item.path, str(error))
                except OSError as error:
                    outcome.fail(step.item.path, error.strerror or type(error).__name__)
                else:
                    waiting.append((step.kind, step.item.path, known, reply["job"]["id"]))
                self.tell("sending", number, len(steps))
        return waiting

    def _send(self, step: Step) -> tuple[RememberedReply, Known]:
        stamp, body = _read(step.item)
        digest = hashlib.sha256(body).hexdigest()
        if step.item.message is not None and step.item.message.sha256 != digest:
            raise ConflictError("its mailbox changed while it was read; run it again")
        if step.known is not None and (step.known.path, step.known.sha256) == (step.item.path, digest):
            stamp = step.known.stamp  # so that what is sent once more is the same, word for word
        fields = make_fields(self.folder, step, digest, stamp, self.said)
        name = PurePosixPath(step.item.path).name
        media_type = None
        if step.item.message is not None:
            media_type, name = MESSAGE_MEDIA_TYPE, f"{name}.eml"
        upload, known = Upload(name, body), step.known
        if known is None:
            reply = self.patience(
                lambda: self.client.remember_document(upload, media_type=media_type, **fields)
            )
        else:
            reply = self.patience(
                lambda: self.client.update_document(known.id, upload, media_type=media_type, **fields)
            )
        attributes = fields.copy()
        attributes["metadata"] = {
            name: value for name, value in fields["metadata"].items() if name != METADATA_KEY
        }
        return reply, Known(reply["id"], step.external_id, step.item.path, digest, stamp, attributes)

    def _wait_all(self, waiting: list[tuple[str, str, Known, str]], outcome: Outcome) -> None:
        for number, (kind, path, known, job_id) in enumerate(waiting, start=1):
            job = self.patience(partial(self.client.get_job, job_id))
            while job["status"] not in FINISHED_JOBS:
                if self.patience.stop.wait(POLL_SECONDS):
                    raise StoppedError
                job = self.patience(partial(self.client.get_job, job_id))
            if job["status"] == "done":
                outcome.counts[kind] += 1
                self.known[known.id] = replace(known, job=None)
            else:
                problem = job.get("error", {})
                reason = problem.get("detail") or problem.get("title") or f"its job is {job['status']}"
                outcome.fail(path, str(reason))
            self.tell("indexing", number, len(waiting))


def _read(item: Item) -> tuple[Stamp | None, bytes]:
    """Return an item's content, and a stamp it can be known by again; none for a message."""
    if item.message is not None:
        return None, item.read()
    status = item.file.stat()
    return _settled(Stamp(status.st_size, status.st_mtime_ns)), item.read()


def _settled(stamp: Stamp) -> Stamp | None:
    return stamp if time.time_ns() - stamp.mtime_ns > SETTLED_NS else None


@contextmanager
def _pool(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that, when its block is left by an error, finishes what is on its way and no more."""
    pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="lethe-send")
    try:
        yield pool
    except BaseException:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()
