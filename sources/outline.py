"""What a format hands to the splitter: text, its blocks, and where headings begin.

Spans are half-open ranges of code points in ``Extracted.text``. Nothing here knows a format.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from memory.values import Place

BlockKind = Literal["paragraph", "heading", "list", "table", "code", "turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """Who said a block of a chat, and when. ``id`` is what a citation names."""

    id: str
    speaker: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of text best kept whole.

    A block of rows or lines (by its place) has one line of text for each, so that a part of it knows its own.
    ``header`` is the span of its table's header row, in this block or in one before it.
    A block that is ``apart`` never shares a passage with another.
    """

    start: int
    end: int
    kind: BlockKind = "paragraph"
    place: Place | None = None
    header: tuple[int, int] | None = None
    turn: Turn | None = None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A section begins at ``start``; level 1 is the outermost. The label need not be in the text."""

    start: int
    level: int
    label: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of one body with its structure; blocks and headings in reading order."""

    text: str
    blocks: tuple[Block, ...]
    headings: tuple[Heading, ...] = ()
    title: str | None = None
    warnings: tuple[str, ...] = ()
