"""``lethe ingest``: remember files, and keep folders and mailboxes in step with the service."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from api.terminal import SERVICE_URL, Data, Key, Url, connect, errors, output, plain, progress_bar
from memory.errors import InvalidInputError, LetheError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.client import AttributeFields, LetheClient
    from api.folder_plan import Plan
    from api.folder_scan import Scan
    from api.folder_sync import FolderSync, Outcome, Tell
    from api.ingesting import Candidate

INGEST_WAIT_SECONDS = 3600
INTERRUPTED = 130


def ingest(
    paths: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="files, folders, mbox files, Maildirs")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help='JSON: [{"path", "title", "subjects", ...}]'),
    ] = None,
    subject: Annotated[list[str] | None, typer.Option(help="who or what it is about (repeatable)")] = None,
    user: Annotated[str | None, typer.Option(help="whose it is")] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="what to call the folder, so that it stays the same when it is moved or on another host; "
            "else made from host and path"
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="forget, for good, what is no longer in the folder")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask before forgetting")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only show what would be sent and forgotten")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="go on: keep the folder in step until Ctrl-C")
    ] = False,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Remember files, and keep folders in step.

    Of a folder only what is new or changed is sent.
    A file that moved stays the same document.
    A run that was broken off is taken up where it was: run it again.

    Hidden files are left out, and what the folder's .letheignore names.
    mbox files and Maildirs are taken apart into messages.

    What is gone from the folder stays remembered and is only counted,
    unless --delete says to forget it.
    """
    from api.ingesting import find_files, read_manifest

    given = paths or []
    folders = [path for path in given if _is_folder(path)]
    if watch and (len(folders), len(given)) != (1, 1):
        raise InvalidInputError("--watch takes one folder, and nothing beside it")
    if dry_run and (watch or manifest is not None or len(folders) < len(given)):
        raise InvalidInputError("--dry-run is for folders and mailboxes, once")
    if name is not None and len(folders) != 1:
        raise InvalidInputError("--name takes one folder")
    candidates = find_files([path for path in given if path not in folders])
    if manifest is not None:
        candidates += read_manifest(manifest)
    if not candidates and not folders:
        raise InvalidInputError("there is nothing to ingest that Lethe reads")
    said = cast("AttributeFields", {})
    if subject:
        said["subjects"] = subject
    if user is not None:
        said["user_id"] = user
    with connect(url, key, data) as client:
        counts, failures = _ingest_files(client, candidates, said) if candidates else (Counter(), [])
        for folder in folders:
            called = name or default_name(folder)
            if watch:
                _watch(client, folder, called, said, delete=delete, yes=yes)
                return
            more, bad = _ingest_folder(client, folder, called, said, delete=delete, yes=yes, dry_run=dry_run)
            counts += more
            failures += bad
    if not dry_run:
        _tell_outcome(counts, failures)
    if failures:
        raise typer.Exit(1)


def default_name(folder: Path) -> str:
    """Return what a folder is called that was given no name: its own, and a digest of host and path."""
    root = folder.resolve()
    digest = hashlib.sha256(f"{platform.node()}\0{root}".encode(errors="surrogateescape")).hexdigest()
    shown = "".join(letter for letter in root.name if letter.isprintable() and letter != "\ufffd")
    return f"{shown[:80].encode(errors='replace').decode()}-{digest[:8]}"


def _is_folder(path: Path) -> bool:
    from api.mailboxes import is_mbox
    from api.media import is_readable_name

    return path.is_dir() or (path.is_file() and not is_readable_name(path.name) and is_mbox(path))


def _ingest_folder(
    client: LetheClient,
    folder: Path,
    name: str,
    said: AttributeFields,
    *,
    delete: bool,
    yes: bool,
    dry_run: bool,
) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Bring the service in step with a folder once; return the counts of outcomes, and the failures."""
    from api.folder_scan import Scanner
    from api.folder_sync import PATIENCE_SECONDS, FolderSync, Patience

    with _progress() as tell, _resumable():
        patience = Patience(0, threading.Event(), _warn)  # a service that was never there is told at once
        sync = FolderSync(client, name, said, patience, tell)
        sync.load()
        patience.seconds = PATIENCE_SECONDS
        scan = Scanner(folder).scan()
        plan = sync.plan(scan)
    if not scan.items and not scan.unread and not sync.known:
        raise InvalidInputError("there is nothing in it that Lethe reads", where=str(folder))
    if dry_run:
        _show_plan(plan, delete=delete)
        return Counter(), sorted(plan.failed.items())
    if scan.left_out:
        errors().print(f"left out, being of kinds that Lethe does not read: {scan.left_out}")
    forgotten = 0
    if plan.gone and not delete:
        _tell_gone(plan)
    elif plan.gone:
        forgotten = _forget_gone(sync, scan, plan, yes=yes)
    with _progress() as tell, _resumable():
        sync.tell = tell
        outcome = sync.carry_out(plan)
    if forgotten:
        outcome.counts["forgotten"] = forgotten
    return outcome.counts, outcome.failures


def _forget_gone(sync: FolderSync, scan: Scan, plan: Plan, *, yes: bool) -> int:
    """Forget what is gone, once it was agreed to. This comes first: what is sent later may take hours."""
    _refuse_empty(sync, scan)
    for known in plan.gone:
        output().print(Text(plain(f"gone: {known.path}")), soft_wrap=True)
    if not yes and not typer.confirm(f"Forget for good what is gone ({len(plan.gone)})?"):
        raise typer.Exit(1)
    with _progress() as tell, _resumable():
        sync.tell = tell
        certified = sync.forget(plan.gone)
    if certified < len(plan.gone):
        errors().print(
            "What is forgotten is fenced: nothing of it is shown any more; erasing is not done yet."
        )
    return len(plan.gone)


def _refuse_empty(sync: FolderSync, scan: Scan) -> None:
    if not scan.items:
        from api.folder_plan import folder_filter

        condition = shlex.quote(json.dumps(folder_filter(sync.folder)))
        raise InvalidInputError(
            f"the folder is empty, while {len(sync.known)} documents of it are remembered; is it mounted? "
            f"If it is meant: lethe forget --filter {condition}"
        )


def _watch(
    client: LetheClient, folder: Path, name: str, said: AttributeFields, *, delete: bool, yes: bool
) -> None:
    from api.folder_scan import Scanner
    from api.folder_sync import FolderSync, Patience, StoppedError
    from api.folder_watch import Watcher

    if not folder.is_dir():
        raise InvalidInputError("--watch takes a folder", where=str(folder))
    if delete:
        errors().print(
            "--delete: what disappears from the folder is forgotten, for good.", style="yellow", markup=False
        )
    stop = threading.Event()
    try:
        scanner = Scanner(folder)
        sync = FolderSync(client, name, said, Patience(None, stop, _warn), _tell_nothing)
        sync.load()
        scan = scanner.scan()
        plan = sync.plan(scan)
        if plan.gone and delete:
            _forget_gone(sync, scan, plan, yes=yes)
        elif plan.gone:
            _tell_gone(plan)
        with _progress() as tell:
            sync.tell = tell
            outcome = sync.carry_out(plan)
        sync.tell = _tell_nothing
        _tell_outcome(outcome.counts, outcome.failures)
        output().print(Text(plain(f"watching {folder}; Ctrl-C ends it")), soft_wrap=True)
        watcher = Watcher(scanner, sync, delete, _tell_round, _warn)
        watcher.start_from(plan, outcome)
        watcher.run(stop)
    except (KeyboardInterrupt, StoppedError):
        stop.set()
        output().print("stopped")


def _warn(what: str) -> None:
    errors().print(Text(plain(what), style="yellow"), soft_wrap=True)


def _tell_nothing(stage: str, done: int, total: int) -> None:
    """Show no progress: a watch speaks of what was done, when it is done."""


def _tell_round(plan: Plan, outcome: Outcome, forgotten: int) -> None:
    failed = {path for path, _ in outcome.failures}
    for step in plan.steps:
        if step.item.path not in failed:
            before = f"{step.known.path} -> " if step.kind == "renamed" and step.known is not None else ""
            output().print(Text(plain(f"{step.kind}: {before}{step.item.path}")), soft_wrap=True)
    word = "forgotten" if forgotten else "gone, still remembered"
    for known in plan.gone:
        output().print(Text(plain(f"{word}: {known.path}")), soft_wrap=True)
    _tell_failures(outcome.failures)


def _show_plan(plan: Plan, *, delete: bool) -> None:
    for step in plan.steps:
        before = f"{step.known.path} -> " if step.kind == "renamed" and step.known is not None else ""
        output().print(Text(plain(f"{step.kind}: {before}{step.item.path}")), soft_wrap=True)
    for known in plan.gone:
        word = "forget" if delete else "gone"
        output().print(Text(plain(f"{word}: {known.path}")), soft_wrap=True)
    for path, reason in sorted(plan.failed.items()):
        output().print(Text(plain(f"cannot be sent: {path}: {reason}")), soft_wrap=True)
    output().print(f"{len(plan.unchanged)} unchanged; nothing was sent")


def _tell_gone(plan: Plan) -> None:
    errors().print(
        f"gone from the folder and still remembered: {len(plan.gone)}; --delete forgets them", markup=False
    )


@contextmanager
def _resumable() -> Iterator[None]:
    """Say on an interruption that it does no harm."""
    try:
        yield
    except KeyboardInterrupt:
        errors().print("stopped; run it again to send the rest")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress() -> Iterator[Tell]:
    """Show each stage as a bar."""
    with progress_bar() as bar:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield tell


def _tell_outcome(counts: Counter[str], failures: list[tuple[str, str]]) -> None:
    table = Table("outcome", "files")
    shown = counts + Counter({"failed": len(failures)})
    for outcome, count in sorted(shown.items()):
        table.add_row(outcome, str(count))
    output().print(table)
    _tell_failures(failures)


def _tell_failures(failures: list[tuple[str, str]]) -> None:
    for name, reason in failures:
        errors().print(Text(plain(f"{name}: {reason}"), style="red"), soft_wrap=True)


def _ingest_files(
    client: LetheClient, candidates: list[Candidate], said: AttributeFields
) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Send files that were named one by one."""
    outcomes: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []
    jobs: list[tuple[Candidate, str, str]] = []
    known = {document["external_id"]: document["version"] for document in client.iter_documents()}
    with progress_bar() as bar:
        sending = bar.add_task("sending", total=len(candidates))
        for candidate in candidates:
            fields = candidate.attributes.copy()
            fields["external_id"] = candidate.external_id
            if "subjects" in said:
                fields["subjects"] = [*fields.get("subjects", []), *said["subjects"]]
            if "user_id" in said:
                fields["user_id"] = said["user_id"]
            try:
                reply = client.remember_document(candidate.path, **fields)
            except UnavailableError:
                raise
            except (LetheError, OSError) as error:
                failures.append((candidate.external_id, str(error)))
            else:
                before = known.get(candidate.external_id)
                outcome = "new" if before is None else "updated"
                if reply["version"] == before:
                    outcome = "unchanged"
                jobs.append((candidate, outcome, reply["job"]["id"]))
            bar.advance(sending)
        indexing = bar.add_task("indexing", total=len(jobs))
        for candidate, outcome, job_id in jobs:
            job = client.wait_job(job_id, timeout_seconds=INGEST_WAIT_SECONDS)
            if job["status"] == "done":
                outcomes[outcome] += 1
            else:
                problem = job.get("error", {})
                reason = str(problem.get("detail") or problem.get("title") or f"its job is {job['status']}")
                failures.append((candidate.external_id, reason))
            bar.advance(indexing)
    return outcomes, failures
