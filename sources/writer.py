"""Writes blocks one after another into one text and keeps their spans. Nothing here knows a format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memory.values import Place
from sources.decoding import clean_text
from sources.outline import Block, BlockKind, Extracted, Heading, Turn


class Writer:
    """Collects text, blocks, headings and warnings; what is empty is left out."""

    def __init__(self, warnings: Sequence[str] = ()) -> None:
        self.warnings = list(warnings)
        self.blocks: list[Block] = []
        self._headings: list[Heading] = []
        self._pieces: list[str] = []
        self._length = 0

    @property
    def length(self) -> int:
        """Characters written so far."""
        return self._length

    def add(
        self,
        text: str,
        kind: BlockKind = "paragraph",
        *,
        place: Place | None = None,
        header: tuple[int, int] | None = None,
        turn: Turn | None = None,
        joint: str = "\n\n",
        apart: bool = False,
    ) -> int:
        """Append a block, set apart from the last by ``joint``, and return where it starts.

        ``header`` is the span of the header row of the table that the block is, or goes on with.
        """
        told = clean_text(text).strip("\n").rstrip()
        if not told.strip():
            return self._length
        start = self._next_start(joint)
        if self._pieces:
            self._pieces.append(joint)
        self._pieces.append(told)
        self._length = start + len(told)
        self.blocks.append(Block(start, self._length, kind, place, header, turn, apart))
        return start

    def table(self, lines: Sequence[str], *, place: Place | None = None, header_rows: int = 1) -> None:
        """Append rows as a table; the first of them are its header when others follow."""
        rows = [line for line in map(clean_text, lines) if line.strip(" |")]
        header = "\n".join(rows[:header_rows]) if len(rows) > header_rows else ""
        start = self._next_start()
        self.add(
            "\n".join(rows), "table", place=place, header=(start, start + len(header)) if header else None
        )

    def head(self, label: str, level: int, *, told: bool = True, place: Place | None = None) -> None:
        """Begin a section; with ``told`` the label is written, too, else it is only known."""
        label = " ".join(clean_text(label).split())
        if not label:
            return
        self._headings.append(Heading(self._next_start() if told else self._length, level, label))
        if told:
            self.add(label, "heading", place=place)

    def append(self, extracted: Extracted, *, deeper: int = 0) -> None:
        """Append what another format extracted, its headings ``deeper`` levels down (or up)."""
        start = self._next_start()
        text = extracted.text.rstrip()
        if not text:
            return
        if self._pieces:
            self._pieces.append("\n\n")
        self._pieces.append(text)
        self._length = start + len(text)
        for block in extracted.blocks:
            header = block.header and (block.header[0] + start, block.header[1] + start)
            end = min(block.end + start, self._length)
            if block.start + start < end:
                self.blocks.append(replace(block, start=block.start + start, end=end, header=header))
        self._headings.extend(
            Heading(heading.start + start, max(1, heading.level + deeper), heading.label)
            for heading in extracted.headings
        )

    def first_heading(self) -> str | None:
        """Return the label of the first of the outermost headings, if there is one."""
        outermost = min((heading.level for heading in self._headings), default=0)
        return next((heading.label for heading in self._headings if heading.level == outermost), None)

    def finish(self, title: str | None) -> Extracted:
        """Return all that was written."""
        told = " ".join(clean_text(title or "").split()) or None
        return Extracted(
            "".join(self._pieces), tuple(self.blocks), tuple(self._headings), told, tuple(self.warnings)
        )

    def _next_start(self, joint: str = "\n\n") -> int:
        return self._length + (len(joint) if self._pieces else 0)


def one_line(text: str) -> str:
    """Return ``text`` with every run of spaces and newlines as one space."""
    return " ".join(clean_text(text).split())


def row_line(cells: Sequence[str]) -> str:
    """Return a table's row as ``| cell | cell |``."""
    return f"| {' | '.join(cells)} |"


def names(*lines: str) -> frozenset[str]:
    """Return the set of the names in the lines."""
    return frozenset(name for line in lines for name in line.split())
