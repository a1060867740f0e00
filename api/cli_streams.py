"""``lethe streams``: list streams, end them, and forget them or a stretch of their time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from api.cli_memory import forget_scope
from api.terminal import SERVICE_URL, Data, Key, Url, clock_time, connect, output, plain
from memory.errors import InvalidInputError

if TYPE_CHECKING:
    from api.client import ScopeFields

_TIME = re.compile(r"(?:(?:(\d{1,5}):)?(\d{1,5}):)?(\d{1,9})(?:\.(\d{1,3}))?s?")

app = typer.Typer(help="List streams, close and forget them.", invoke_without_command=True)


@app.callback()
def list_streams(context: typer.Context, url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """List streams, newest first; or close or forget one."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, key, data) as client:
        found = client.streams.list_streams()
    if not found:
        output().print("There are no streams.", style="yellow")
        return
    table = Table(Column("id", min_width=32), "title", "kind", "state", "segments", "waiting", "until")
    for one in found:
        state = "open" if one["closed_at"] is None else "closed"
        title = Text(plain(one["title"] or one["external_id"] or ""))
        counts = str(one["segments"]), str(one["waiting"])
        table.add_row(one["id"], title, one["kind"], state, *counts, clock_time(one["end_ms"]))
    output().print(table)


@app.command("close")
def close(
    id: Annotated[str, typer.Argument(help="id of the stream")],
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Take no more segments; what was received is made searchable still."""
    with connect(url, key, data) as client:
        told = client.streams.close(id)
    output().print(f"closed: {told['segments']} segments, up to {clock_time(told['end_ms'])}")


@app.command("forget")
def forget(
    id: Annotated[str, typer.Argument(help="id of the stream")],
    start: Annotated[str | None, typer.Option("--from", help="its time, as 20s, 1:05 or 1:02:03")] = None,
    end: Annotated[str | None, typer.Option("--to", help="up to this time of it")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="only count")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Forget a stream for good, or what is seen and heard in a stretch of its time."""
    scope: ScopeFields = {"ids": [id]}
    if start is not None or end is not None:
        scope["stream_range"] = {}
        if start is not None:
            scope["stream_range"]["start_ms"] = read_clock_time(start, "--from")
        if end is not None:
            scope["stream_range"]["end_ms"] = read_clock_time(end, "--to")
    with connect(url, key, data) as client:
        forget_scope(client, scope, preview=preview, yes=yes, certificate=None)


def read_clock_time(text: str, where: str) -> int:
    """Return the milliseconds of a time such as 20s, 1:05 or 1:02:03.5."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError("expected a time such as 20s, 1:05 or 1:02:03", where=where)
    hours, minutes, seconds, fraction = match.groups(default="0")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, "0"))
