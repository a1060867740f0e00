"""Commands that look after a service: ``verify``, ``status`` and ``rebuild``."""

from __future__ import annotations

import binascii
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from api.terminal import SERVICE_URL, Data, Key, Url, connect, errors, output, plain, progress_bar
from memory.errors import InvalidInputError

KEY_BYTES = 32
_HEX_KEY = re.compile(f"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
REBUILD_WAIT_SECONDS = 24 * 3600


def verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a certificate")],
    key: Annotated[
        str | None, typer.Option(help="the Ed25519 public key you trust, as hex or in a file")
    ] = None,
) -> None:
    """Check a certificate of forgetting, offline."""
    from unlearning.certificate import parse_certificate, verify_certificate

    document = parse_certificate(file.read_bytes())
    trusted = None if key is None else trusted_key(key)
    verification = verify_certificate(document, trusted_key=trusted)
    table = Table("certificate", Column(file.name, overflow="fold"))
    payload = document.get("payload") if isinstance(document, dict) else None
    for name, value in payload.items() if isinstance(payload, dict) else ():
        table.add_row(Text(plain(name)), Text(plain(_shown(value))))
    table.add_row("signed by", verification.fingerprint or "nobody known")
    output().print(table)
    for problem in verification.problems:
        errors().print(Text(plain(problem), style="red"), soft_wrap=True)
    if not verification.valid or (trusted is not None and not verification.trusted):
        output().print("NOT VALID", style="bold red")
        raise typer.Exit(1)
    output().print("VALID", style="bold green")
    if trusted is None:
        output().print("It is genuine for the key it names; give --key to check that you trust that key.")


def trusted_key(text: str) -> bytes:
    """Return the public key that hex digits, or a file of either hex or 32 raw bytes, stand for."""
    path = Path(text)
    raw = path.read_bytes() if not _HEX_KEY.fullmatch(text) and path.is_file() else text.encode()
    if len(raw) == KEY_BYTES:
        return raw
    try:
        key = binascii.unhexlify(raw.strip())
    except ValueError as error:
        raise InvalidInputError("neither 64 hex digits nor a file of a key", where="--key") from error
    if len(key) != KEY_BYTES:
        raise InvalidInputError(f"a key is {KEY_BYTES} bytes, this is {len(key)}", where="--key")
    return key


def _shown(value: Any) -> str:
    """Return a JSON value for people: an item of a list a line, the rest as JSON writes it."""
    if isinstance(value, list) and value:
        return "\n".join(_shown(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def status(url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """Say whether the service is ready and what it holds."""
    with connect(url, key, data) as client:
        counts = client.stats()
        ready = client.is_ready()
        running = [job for job in client.list_jobs() if job["status"] in {"queued", "running"}]
    table = Table("service", url)
    table.add_row("ready", "yes" if ready else "no")
    for name, value in counts.items():
        table.add_row(Text(plain(name)), Text(plain(_shown(value))))
    for job in running:
        table.add_row(f"job {job['kind']}", f"{job['status']}, {job['progress']:.0%}")
    output().print(table)
    if not ready:
        raise typer.Exit(1)


def rebuild(url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """Fold everything again from the journal, and compare."""
    with connect(url, key, data) as client, progress_bar() as bar:
        task = bar.add_task("rebuilding", total=100)
        job = client.rebuild()
        job = client.wait_job(
            job["id"],
            timeout_seconds=REBUILD_WAIT_SECONDS,
            progress=lambda latest: bar.update(task, completed=round(latest["progress"] * 100)),
        )
    if job["status"] != "done":
        problem = job.get("error", {})
        errors().print(
            f"rebuild {job['status']}: {problem.get('detail') or problem.get('title') or 'see the log'}",
            style="red",
            markup=False,
        )
        raise typer.Exit(1)
    output().print("rebuilt")
