"""Commands that keep the journal safe: ``backup`` and ``restore``. They work on the data folder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from api.cli_serve import settings_of
from api.terminal import Data, output
from memory.errors import InvalidInputError


def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="the file to write; it must be new")],
    data: Data = None,
) -> None:
    """Write the journal to one file, sealed as it is; the service may run meanwhile."""
    from memory.clock import SystemClock
    from service.backup import write_backup
    from service.wiring import get_version, open_databases

    settings = settings_of(data)
    if file.resolve().is_relative_to(settings.data.resolve()):
        raise InvalidInputError("a backup does not belong into the data folder; give another place")
    database, vault = open_databases(settings)
    try:
        counts = write_backup(database, vault, file, clock=SystemClock(), version=get_version())
    finally:
        database.close()
        vault.close()
    _show(counts, str(file))
    output().print("It holds no keys: keep keys.db and root.key apart from it.")


def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a backup")],
    data: Data = None,
    check: Annotated[bool, typer.Option("--check", help="only say what would come back")] = False,
    with_api_keys: Annotated[
        bool,
        typer.Option("--api-keys", help="bring API keys back, too; one revoked since would work again"),
    ] = False,
) -> None:
    """Bring the journal back from a backup; what was forgotten since stays forgotten."""
    from memory.clock import to_datetime
    from service.backup import open_backup, survey
    from service.backup import restore as write_back
    from service.wiring import build_kernel, lock_data_folder, open_vault

    settings = settings_of(data)
    opened = open_backup(file)
    if not check:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_data_folder(settings.data)
    vault = open_vault(settings)
    try:
        found = survey(opened, vault)
    finally:
        vault.close()
    lost = found.entries - found.restored
    output().print(
        f"backup of {to_datetime(opened.made_us):%Y-%m-%d %H:%M:%S} UTC, by {opened.lethe_version}"
    )
    output().print(f"{found.restored} entries come back; {lost} were forgotten since and stay away")
    if found.newer:
        output().print(
            f"{found.newer} entries were remembered after this backup and are not in it. The next start "
            "destroys their keys: if there is a newer backup, restore that one instead.",
            style="yellow",
        )
    if check:
        return
    kernel = build_kernel(settings)
    try:
        written = write_back(kernel, opened, found, with_api_keys=with_api_keys)
    finally:
        kernel.fence.close()
        kernel.database.close()
        kernel.vault.close()
    _show(written, "restored")
    output().print("Start the service now: it makes everything else again.")


def _show(counts: dict[str, int], title: str) -> None:
    table = Table(title, "rows")
    for name, count in counts.items():
        table.add_row(name, str(count))
    output().print(table)
