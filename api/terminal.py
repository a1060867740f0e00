"""What the commands share: where output goes, which service they talk to, and with which key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from memory.errors import ForbiddenError

if TYPE_CHECKING:
    from api.client import LetheClient

Url = Annotated[str, typer.Option(envvar="LETHE_URL", help="where the service is")]
Key = Annotated[
    str | None,
    typer.Option(envvar="LETHE_KEY", help="the key; else read from admin.key in the data folder"),
]
Data = Annotated[Path | None, typer.Option(envvar="LETHE_DATA", help="the data folder", file_okay=False)]

SERVICE_URL = "http://127.0.0.1:8700"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def output() -> Console:
    """Return the console for results."""
    return Console(highlight=False)


def errors() -> Console:
    """Return the console for errors and progress."""
    return Console(stderr=True, highlight=False)


def plain(text: str) -> str:
    """Return text that cannot steer a terminal: control characters become a mark."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def clock_time(milliseconds: int) -> str:
    """Return a recording's time as it is written: 01:05, or 1:02:03 from an hour on."""
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def progress_bar() -> Progress:
    """Return a progress bar over items, on standard error, gone when done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors(),
        transient=True,
    )


def connect(url: str, key: str | None, data: Path | None) -> LetheClient:
    """Return a client with the key given, else the one the service left in its data folder."""
    from api.client import LetheClient

    return LetheClient(url, key or _key_of(data_folder(data)))


def data_folder(data: Path | None) -> Path:
    """Return the data folder: as given, else the user's own."""
    if data is not None:
        return data
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "lethe"


def _key_of(folder: Path) -> str:
    path = folder / "admin.key"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ForbiddenError(
            f"no key: there is no {path}; start the service with 'lethe serve', or name its data folder "
            "with --data or LETHE_DATA, or a key with --key or LETHE_KEY"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ForbiddenError(f"the key in {path} cannot be read: {error}") from error
