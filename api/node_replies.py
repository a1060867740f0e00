"""What the service says of the hierarchy's nodes: the shapes of its JSON, and views put into them."""

from __future__ import annotations

from typing_extensions import TypedDict

from api.replies import rfc3339
from service.views import NodeKind, NodeView, Page


class SentenceReply(TypedDict):
    """A sentence that stands for a node, verbatim: code points ``start`` to ``end`` of its source's text."""

    source_id: str
    entry_id: str
    start: int
    end: int
    text: str


class ChildReply(TypedDict):
    """What lies right below a node."""

    id: str
    kind: NodeKind
    title: str | None
    sources: int
    passages: int


class SubjectReply(TypedDict):
    """A subject, and how many of a node's sources are about it."""

    subject: str
    sources: int


class TopicReply(TypedDict):
    """A topic: ``level`` counts from the sources up, ``label`` are telling words of its ``summary``."""

    id: str
    level: int
    label: list[str]
    parent: str | None
    sources: int
    passages: int
    first_at: str
    last_at: str
    summary: list[SentenceReply]


class TopicPage(TypedDict):
    """One page of a listing; ``next_cursor`` is null on the last."""

    items: list[TopicReply]
    next_cursor: str | None


class NodeReply(TypedDict):
    """A topic, source or section with a page of its children.

    ``subjects`` is null where a node has too many sources to count them.
    """

    id: str
    kind: NodeKind
    level: int | None
    label: list[str]
    title: str | None
    parent: str | None
    sources: int
    passages: int
    first_at: str
    last_at: str
    subjects: list[SubjectReply] | None
    summary: list[SentenceReply]
    children: list[ChildReply]
    next_cursor: str | None


def topic_page(page: Page[NodeView]) -> TopicPage:
    """Return a page of topics."""
    return TopicPage(items=[_topic(view) for view in page.items], next_cursor=page.next_cursor)


def _topic(view: NodeView) -> TopicReply:
    return TopicReply(
        id=view.id,
        level=view.level or 0,
        label=list(view.label),
        parent=view.parent,
        sources=view.sources,
        passages=view.passages,
        first_at=rfc3339(view.first_at),
        last_at=rfc3339(view.last_at),
        summary=_summary(view),
    )


def node_reply(view: NodeView, next_cursor: str | None) -> NodeReply:
    """Return a node whole."""
    counts = view.subjects
    return NodeReply(
        id=view.id,
        kind=view.kind,
        level=view.level,
        label=list(view.label),
        title=view.title,
        parent=view.parent,
        sources=view.sources,
        passages=view.passages,
        first_at=rfc3339(view.first_at),
        last_at=rfc3339(view.last_at),
        subjects=None if counts is None else [SubjectReply(subject=s, sources=n) for s, n in counts],
        summary=_summary(view),
        children=[
            ChildReply(
                id=child.id,
                kind=child.kind,
                title=child.title,
                sources=child.sources,
                passages=child.passages,
            )
            for child in view.children
        ],
        next_cursor=next_cursor,
    )


def _summary(view: NodeView) -> list[SentenceReply]:
    return [
        SentenceReply(
            source_id=sentence.source_id,
            entry_id=sentence.entry_id,
            start=sentence.start,
            end=sentence.end,
            text=sentence.text,
        )
        for sentence in view.summary
    ]
