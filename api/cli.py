"""The command line: ``lethe``. Commands import what they need when they run, so that help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from api import (
    cli_access,
    cli_backup,
    cli_doctor,
    cli_engine,
    cli_ingest,
    cli_memory,
    cli_models,
    cli_operations,
    cli_serve,
    cli_stream,
    cli_streams,
    cli_topics,
)
from api.terminal import errors
from memory.errors import ForbiddenError, LetheError, UnavailableError

FAILED = 1
UNREACHABLE = 3
FORBIDDEN = 4


class _Commands(TyperGroup):
    """Tells people about errors in one line and an exit code, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LetheError as error:
            errors().print(f"lethe: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(exit_code(error)) from error
        except (OSError, UnicodeError) as error:
            errors().print(f"lethe: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(FAILED) from error


def exit_code(error: LetheError) -> int:
    """Return the exit code that tells scripts which family of error it was."""
    if isinstance(error, UnavailableError):
        return UNREACHABLE
    return FORBIDDEN if isinstance(error, ForbiddenError) else FAILED


app = typer.Typer(
    name="lethe",
    help="Memory for agents: remembers, answers with citations, forgets provably.",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(cli_serve.serve)
app.command("ingest")(cli_ingest.ingest)
app.command("stream")(cli_stream.stream)
app.add_typer(cli_streams.app, name="streams")
app.command("ask")(cli_memory.ask)
app.command("recall")(cli_memory.recall)
app.command("topics")(cli_topics.topics)
app.command("forget")(cli_memory.forget)
app.command("verify")(cli_operations.verify)
app.command("status")(cli_operations.status)
app.command("rebuild")(cli_operations.rebuild)
app.command("doctor")(cli_doctor.doctor)
app.command("backup")(cli_backup.backup)
app.command("restore")(cli_backup.restore)
app.add_typer(cli_models.app, name="models")
app.command("worker")(cli_serve.worker)
app.command("engine")(cli_engine.engine)
app.command("api")(cli_serve.serve_api)
app.add_typer(cli_serve.schema, name="db")
app.add_typer(cli_access.keys, name="keys")
app.add_typer(cli_access.tenants, name="tenants")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    app(args=None if arguments is None else list(arguments), prog_name="lethe")


if __name__ == "__main__":
    main()
