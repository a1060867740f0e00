"""Commands for models: ``lethe models list | get | verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from api.terminal import errors, output
from memory.errors import LetheError, NotFoundError

if TYPE_CHECKING:
    from embedding.models import ModelStore
    from embedding.models import Progress as Downloaded

app = typer.Typer(help="The models Lethe knows, and those it has.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the models of the manifest."""
    table = Table("name", "kind", "size", "licence", "here")
    for status in _store().list_models():
        model = status.model
        size = sum(file.bytes for file in model.files) / 1e6
        here = "yes" if status.present else "no"
        table.add_row(model.name, model.kind, f"{size:,.0f} MB", model.licence, here)
    output().print(table)


@app.command("get")
def get_model(name: Annotated[str, typer.Argument(help="a model's name, or hf:FOLDER_OR_ID")]) -> None:
    """Fetch a model, check it, and print its folder."""
    output().print(str(fetch(_store(), name)), soft_wrap=True)


def fetch(store: ModelStore, name: str) -> Path:
    """Return a model's folder, showing how its download comes on."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=errors(),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=None)

        def show(downloaded: Downloaded) -> None:
            bar.update(
                task,
                completed=downloaded.done_bytes,
                total=downloaded.total_bytes,
                description=f"{downloaded.model} from {downloaded.source}",
            )

        return store.get(name, progress=show)


@app.command("verify")
def verify_models(
    name: Annotated[str | None, typer.Argument(help="only this model; else all that are here")] = None,
) -> None:
    """Read every file of the models that are here, and compare digests."""
    store = _store()
    if name is None:
        names = [status.model.name for status in store.list_models() if status.present]
        if not names:
            raise NotFoundError("model", "here; fetch one with: lethe models get NAME")
    else:
        names = [name]
    wrong = 0
    for each in names:
        try:
            with errors().status(f"reading {each}"):
                store.verify(each)
        except LetheError as error:
            wrong += 1
            errors().print(f"{each}: {error}", style="red", markup=False, soft_wrap=True)
        else:
            output().print(f"{each}: sound")
    if wrong:
        raise typer.Exit(1)


def _store() -> ModelStore:
    from embedding.models import ModelStore
    from service.settings import Settings

    return ModelStore(Settings().models_cache)
