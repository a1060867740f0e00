"""Commands that use the memory: ``ask``, ``recall`` and ``forget``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from api.folder_plan import METADATA_KEY
from api.terminal import SERVICE_URL, Data, Key, Url, clock_time, connect, errors, output, plain
from memory.errors import InvalidInputError

if TYPE_CHECKING:
    from api.client import LetheClient, ScopeFields
    from api.replies import CitationReply, ExplanationReply, ForgetReply, HitReply, PlaceReply, SpanReply

FORGET_WAIT_SECONDS = 300


def ask(
    question: Annotated[str, typer.Argument(help="what you want to know")],
    limit: Annotated[int, typer.Option(min=1, max=64, help="passages to read")] = 8,
    filter: Annotated[str | None, typer.Option(help="a filter as JSON")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="say how the answer came about")] = False,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Answer a question from what is remembered, with citations."""
    console = output()
    shown: list[CitationReply] = []
    told = False
    explanation: ExplanationReply | None = None
    with connect(url, key, data) as client:
        for step in client.iter_answer(question, limit=limit, filter=_json_object(filter), explain=explain):
            if step[0] == "done":
                explanation = step[1].get("explanation")
            if step[0] == "claim":
                marks = _marks(shown, step[1]["citations"])
                console.print(Text(plain(step[1]["text"])).append(f" {marks}", style="cyan"), soft_wrap=True)
                told = True
            elif step[1]["abstained"]:
                console.print("Nothing that is remembered answers this.", style="yellow")
            elif not told:
                marks = _marks(shown, step[1]["citations"])
                console.print(Text(plain(step[1]["answer"] or "")).append(f" {marks}", style="cyan"))
    for number, citation in enumerate(shown, start=1):
        place = place_of(citation["external_id"] or citation["source_id"], citation["span"])
        line = Text(f"[{number}] ", style="cyan").append(plain(place), style="dim")
        console.print(line.append(plain(f'  "{citation["quote"]}"'), style="not dim"), soft_wrap=True)
    if explanation is not None:
        for said in _explained(explanation):
            console.print(Text(plain(said), style="dim"), soft_wrap=True)


def _explained(told: ExplanationReply) -> Iterator[str]:
    """Yield how an answer came about, line by line."""
    asked = told["closed_book"]
    if told["model"] is None:
        yield "No model was asked: the answer is quoted."
    elif asked is None:
        yield f"{told['model']} could not be asked without the passages."
    else:
        knew = "knew this" if asked["knew"] else "did not know this"
        yield f'{told["model"]} {knew} without the passages: "{asked["answer"]}"'
    for piece in told["shown"]:
        yield f"Shown to it: {place_of(piece['external_id'] or piece['source_id'], piece['span'])}"
    for claim in told["removed"]:
        yield f'Removed: "{claim["text"]}" ({claim["reason"]})'
    for conflict in told["conflicts"]:
        sides = " against ".join(f'"{side["quote"]}"' for side in conflict["sides"])
        yield f"In conflict: {sides} ({conflict['reason'] or 'open'})"
    yield f"An answer is there: {told['answerable']:.2f}, asked for: {told['abstain_below']:.2f}"
    yield "Signals: " + ", ".join(f"{name} {value:.2f}" for name, value in told["signals"].items())


def _marks(shown: list[CitationReply], citations: list[CitationReply]) -> str:
    """Return the numbers of citations, giving new ones the next numbers."""
    for citation in citations:
        if citation not in shown:
            shown.append(citation)
    return "".join(f"[{shown.index(citation) + 1}]" for citation in citations)


def words_of(place: PlaceReply) -> str:
    """Return a place in the file in words: page 3, rows 4-9, 01:05-01:09."""
    first, last = str(place["first"]), str(place["last"])
    if place["kind"] == "time":
        first, last = clock_time(place["first"]), clock_time(place["last"])
        return f"{first}-{last}"
    return f"{place['kind']} {first}" if first == last else f"{place['kind']}s {first}-{last}"


def place_of(name: str, span: SpanReply) -> str:
    """Return where a span stands, in words."""
    parts = [name]
    if "place" in span:
        parts.append(words_of(span["place"]))
    if "heading" in span:
        parts.append(span["heading"])
    if "messages" in span:
        parts.append("messages " + ", ".join(span["messages"]))
    parts.append(f"characters {span['start']}-{span['end']}")
    return ", ".join(parts)


def recall(
    query: Annotated[str, typer.Argument(help="what to look for")],
    limit: Annotated[int, typer.Option(min=1, max=200, help="how many passages")] = 10,
    filter: Annotated[str | None, typer.Option(help="a filter as JSON")] = None,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Find passages."""
    console = output()
    with connect(url, key, data) as client:
        hits = client.recall(query, limit=limit, filter=_json_object(filter))["hits"]
    if not hits:
        console.print("Nothing was found.", style="yellow")
    for number, hit in enumerate(hits, start=1):
        place = place_of(_name_of(hit), hit["span"])
        console.print(
            Text(f"{number}. ", style="cyan")
            .append(plain(place), style="bold")
            .append(f"  {hit['score']:.4f}", style="dim"),
            soft_wrap=True,
        )
        console.print(Text(plain(hit["text"])), soft_wrap=True)


def _name_of(hit: HitReply) -> str:
    """Return what to call a hit: the path that a folder's file has now, else its external id or title."""
    stands_for = hit["metadata"].get(METADATA_KEY)
    if isinstance(stands_for, dict):
        return f"{stands_for.get('folder')}/{stands_for.get('path')}"
    return hit["external_id"] or hit["title"] or hit["source_id"]


def forget(
    id: Annotated[list[str] | None, typer.Option(help="id of a document or memory (repeatable)")] = None,
    external_id: Annotated[list[str] | None, typer.Option(help="your own id of it (repeatable)")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="who or what it is about (repeatable)")] = None,
    user: Annotated[str | None, typer.Option(help="whose it is")] = None,
    filter: Annotated[str | None, typer.Option(help="a filter as JSON")] = None,
    start: Annotated[str | None, typer.Option("--from", help="from this time on (RFC 3339)")] = None,
    end: Annotated[str | None, typer.Option("--to", help="up to this time (RFC 3339)")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="only count")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    certificate: Annotated[
        Path | None, typer.Option(dir_okay=False, help="write the certificate to this file")
    ] = None,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Forget all that fits every condition given, and prove it."""
    times = {name: value for name, value in (("from", start), ("to", end)) if value is not None}
    conditions: dict[str, Any] = {
        "ids": id,
        "external_ids": external_id,
        "subjects": subject,
        "user_id": user,
        "filter": _json_object(filter),
        "time_range": times,
    }
    scope: ScopeFields = {name: value for name, value in conditions.items() if value}  # type: ignore[assignment]
    if not scope:
        raise InvalidInputError(
            "say what to forget: --subject, --id, --external-id, --user, --filter, --from or --to"
        )
    with connect(url, key, data) as client:
        forget_scope(client, scope, preview=preview, yes=yes, certificate=certificate)


def forget_scope(
    client: LetheClient, scope: ScopeFields, *, preview: bool, yes: bool, certificate: Path | None
) -> None:
    """Count what a scope selects, and unless that is all, ask whether to forget it, and do so."""
    counted = client.forget(scope, preview=True)
    _print_counts("would be forgotten", counted["counts"])
    if preview:
        return
    if not yes and not typer.confirm("Forget it for good?"):
        raise typer.Exit(1)
    with errors().status("forgetting"):
        done = client.forget(scope, wait=FORGET_WAIT_SECONDS)
    _tell(client, done, certificate)


def _tell(client: LetheClient, done: ForgetReply, certificate: Path | None) -> None:
    output().print(f"forget {done['id']}: {done['state']}")
    if done["state"] != "certified":
        errors().print("It is fenced: nothing of it is shown any more; erasing is not done yet.")
        raise typer.Exit(1)
    if certificate is not None:
        document = client.get_certificate(done["id"])
        certificate.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        output().print(f"certificate written to {certificate}; check it with: lethe verify {certificate}")


def _print_counts(title: str, counts: dict[str, int]) -> None:
    table = Table(title, "count")
    for name, count in counts.items():
        table.add_row(Text(plain(name)), str(count))
    output().print(table)


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"not JSON: {error}", where="--filter") from error
    if not isinstance(value, dict):
        raise InvalidInputError("expected a JSON object", where="--filter")
    return value
