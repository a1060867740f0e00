"""The command ``topics``: walk what is remembered from its topics down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from api.terminal import SERVICE_URL, Data, Key, Url, connect, output, plain

if TYPE_CHECKING:
    from api.node_replies import NodeReply, SentenceReply, TopicReply


def topics(
    node: Annotated[str | None, typer.Argument(help="a topic, source or section to open")] = None,
    level: Annotated[int | None, typer.Option(min=1, max=16, help="topics of this level")] = None,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """List topics, or open a topic, source or section by its id."""
    console = output()
    with connect(url, key, data) as client:
        if node is not None:
            _print_node(client.get_node(node))
            return
        found = list(client.iter_topics(level=level))
    if not found:
        console.print("There are no topics yet.", style="yellow")
    for topic in found:
        _print_head(topic, f"topic, level {topic['level']}")


def _print_node(node: NodeReply) -> None:
    kind = node["kind"] if node["level"] is None else f"topic, level {node['level']}"
    _print_head(node, kind)
    _print_sentences(node["summary"])
    console = output()
    if node["subjects"]:
        told = ", ".join(f"{one['subject']} ({one['sources']})" for one in node["subjects"])
        console.print(Text(plain(f"about {told}")), soft_wrap=True)
    for child in node["children"]:
        line = Text(f"  {child['kind']} ", style="dim").append(plain(child["id"]), style="not dim cyan")
        console.print(line.append(plain(f"  {child['title'] or ''}"), style="not dim"), soft_wrap=True)
    if node["next_cursor"] is not None:
        console.print("  and more", style="dim")


def _print_head(node: TopicReply | NodeReply, kind: str) -> None:
    words = node.get("title") or ", ".join(node["label"])
    times = f"{node['first_at'][:10]} to {node['last_at'][:10]}"
    counts = f"{node['sources']} sources, {node['passages']} passages, {times}"
    line = Text(plain(node["id"]), style="cyan").append(plain(f"  {words}"), style="bold not cyan")
    output().print(line.append(f"  ({kind}, {counts})", style="dim not bold"), soft_wrap=True)


def _print_sentences(sentences: list[SentenceReply]) -> None:
    for sentence in sentences:
        place = f"{sentence['source_id']}, characters {sentence['start']}-{sentence['end']}"
        line = Text(plain(sentence["text"])).append(plain(f"  {place}"), style="dim")
        output().print(line, soft_wrap=True)
