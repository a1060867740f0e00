"""The command that looks for what is wrong: ``doctor``. It works on the data folder itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from api.cli_serve import settings_of
from api.terminal import Data, output, plain

STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red"}


def doctor(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
) -> None:
    """Look for what is wrong, and say what to do; exits with 1 when something is broken."""
    from service.doctor import examine

    found = examine(settings_of(data))
    broken = [one for one in found if one.finding.state == "broken"]
    if as_json:
        checks = [{"check": one.check, **asdict(one.finding)} for one in found]
        typer.echo(json.dumps({"healthy": not broken, "checks": checks}))
    else:
        table = Table("check", "state", "found", "what to do")
        for one in found:
            finding = one.finding
            state = Text(finding.state, style=STYLES[finding.state])
            table.add_row(one.check, state, Text(plain(finding.detail)), Text(plain(finding.advice)))
        output().print(table)
    if broken:
        raise typer.Exit(1)
