"""Grids of cells to text: sheets and delimited files become tables whose rows know their numbers.

A sheet may hold several tables set apart by empty rows, titles above them, and notes beside them. Rows too
long for one line are told as ``column: value``. Nothing here knows a file format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from memory.values import Place
from sources.writer import Writer, row_line

MAX_ROWS = 500_000
"""Rows with content that are read of one sheet."""
MAX_COLUMNS = 20_000
MAX_CHARACTERS = 34_000_000
"""Characters and cells that are read of one sheet."""
WIDE_ROW = 1000
"""A row longer than this many characters is told as ``column: value``."""
MAX_COLUMN_NAME = 60

_FIGURE = re.compile(
    r"[-+(]?[^\w\s]{0,2}\s?\d[\d.,:/' %-]*\)?\s?[^\w\s]{0,2}|\d{4}-\d\d-\d\d.*|true|false", re.IGNORECASE
)

Row = tuple[int, Sequence[str]]


class Sheet:
    """Takes the rows of one sheet in order and writes them as tables; ``finish`` closes it."""

    def __init__(self, writer: Writer, name: str, *, split: bool = True) -> None:
        """``name`` becomes a heading where there is one; ``split`` parts tables at empty rows."""
        self._writer = writer
        self._name = name
        self._split = split
        self._rows: list[Row] = []
        self._count = 0
        self._size = 0
        self._names: Sequence[str] = ()
        self._header: tuple[int, int] | None = None
        self._columns: tuple[int, int] | None = None
        self._begun = False
        self._cut = False

    @property
    def full(self) -> bool:
        """True when no more rows are read."""
        return self._count > MAX_ROWS or self._size > MAX_CHARACTERS

    def add(self, number: int, cells: Sequence[str]) -> None:
        """Take a row; ``number`` counts from 1 as a reader counts, and rows without content are left out."""
        if self.full or not any(cells):
            return
        self._count += 1
        self._size += sum(map(len, cells)) + len(cells)
        if self._count > MAX_ROWS or self._size > MAX_CHARACTERS:
            self._warn(number)
            return
        if self._rows and self._split and number != self._rows[-1][0] + 1:
            self._flush()
        if len(cells) > MAX_COLUMNS and not self._cut:
            self._cut = True
            self._writer.warnings.append(f"{self._where()} has {len(cells)} columns; {MAX_COLUMNS} were read")
        self._rows.append((number, cells[:MAX_COLUMNS]))

    def finish(self) -> None:
        self._flush()

    def _warn(self, number: int) -> None:
        self._writer.warnings.append(f"{self._where()} goes on after row {number - 1}; the rest was not read")

    def _where(self) -> str:
        return f"sheet {self._name!r}" if self._name else "the file"

    def _flush(self) -> None:
        """Write the rows at hand: titles, then a table."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        if not self._begun:
            self._begun = True
            self._writer.head(self._name, 1)
        for part in _side_by_side(rows) if self._split else [rows]:
            self._write(part)

    def _write(self, rows: list[Row]) -> None:
        columns = sorted({index for _, cells in rows for index, cell in enumerate(cells) if cell})
        if not columns:
            return
        titles = 0
        while titles < len(rows) and _filled(rows[titles]) == 1 and len(columns) > 1 and titles < 5:
            titles += 1
        if titles == len(rows):
            titles = 0
        for number, cells in rows[:titles]:
            self._plain([(number, cells)])
        rows = rows[titles:]
        columns = sorted({index for _, cells in rows for index, cell in enumerate(cells) if cell})
        if len(columns) == 1:
            self._plain(rows)
            return
        kept: list[Row] = [(number, [_at(cells, index) for index in columns]) for number, cells in rows]
        extent = (columns[0], columns[-1])
        if len(kept) > 1 and is_header(kept[0][1]):
            self._names, self._columns, self._header = kept[0][1], extent, None
            self._table(kept, fresh=True)
        elif self._header is not None and self._columns == extent and len(self._names) == len(columns):
            self._table(kept, fresh=False)
        else:
            self._names, self._columns, self._header = (), extent, None
            self._table(kept, fresh=False)

    def _plain(self, rows: Sequence[Row]) -> None:
        """Write rows of a single cell as lines."""
        for run in _runs(rows):
            lines = [" ".join(filter(None, cells)) for _, cells in run]
            self._add("\n".join(lines), run, "paragraph")

    def _table(self, rows: list[Row], *, fresh: bool) -> None:
        """Write rows, the first of them a header when ``fresh``."""
        for run in _runs(rows):
            lines: list[str] = []
            begun = 0
            for index, (number, cells) in enumerate(run):
                line = row_line(cells)
                if len(line) > WIDE_ROW and not (fresh and index == 0):
                    self._lines(lines, run[begun:index], fresh=fresh and begun == 0)
                    lines, begun = [], index + 1
                    fields = "\n".join(_fields(self._names, cells))
                    self._add(fields, [(number, cells)], "table")
                elif len(line) > WIDE_ROW:
                    self._add(", ".join(filter(None, cells)), [(number, cells)], "table")
                    begun = index + 1
                else:
                    lines.append(line)
            self._lines(lines, run[begun:], fresh=fresh and begun == 0)
            fresh = False

    def _lines(self, lines: list[str], rows: Sequence[Row], *, fresh: bool) -> None:
        if not lines:
            return
        if fresh:
            start = self._writer.length + (2 if self._writer.blocks else 0)
            self._header = (start, start + len(lines[0]))
        self._add("\n".join(lines), rows, "table")

    def _add(self, text: str, rows: Sequence[Row], kind: str) -> None:
        place = Place("row", rows[0][0], rows[-1][0])
        if kind == "table":
            self._writer.add(text, "table", place=place, header=self._header)
        else:
            self._writer.add(text, place=place)


def is_header(cells: Sequence[str]) -> bool:
    """Say whether a row names columns: short words that differ, no figures or dates."""
    told = [cell for cell in cells if cell]
    return (
        len(told) >= 2
        and 2 * len(told) >= len(cells)
        and len(set(told)) > len(told) / 2
        and not any(is_figure(cell) for cell in told)
    )


def is_figure(cell: str) -> bool:
    """Say whether a cell holds a number, an amount, a date or a truth value."""
    return len(cell) < 40 and _FIGURE.fullmatch(cell) is not None


def _filled(row: Row) -> int:
    return sum(1 for cell in row[1] if cell)


def _at(cells: Sequence[str], index: int) -> str:
    return cells[index] if index < len(cells) else ""


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield stretches of rows whose numbers follow one another."""
    run: list[Row] = []
    for row in rows:
        if run and row[0] != run[-1][0] + 1:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _fields(names: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    for index, cell in enumerate(cells):
        if cell:
            name = names[index][:MAX_COLUMN_NAME] if index < len(names) else ""
            yield f"{name or f'column {index + 1}'}: {cell}"


def _side_by_side(rows: list[Row]) -> list[list[Row]]:
    """Part tables that stand beside one another, two empty columns or more apart."""
    used = sorted({index for _, cells in rows for index, cell in enumerate(cells) if cell})
    bounds = [b for a, b in pairwise(used) if b - a > 2]
    parts: list[list[Row]] = []
    for start, end in zip([0, *bounds], [*bounds, None], strict=True):
        part = [
            (number, ["" if index < start else cell for index, cell in enumerate(cells[:end])])
            for number, cells in rows
        ]
        parts.append([row for row in part if any(row[1])])
    if len(parts) < 2 or any(len(part) < 2 or max(map(_filled, part)) < 2 for part in parts):
        return [rows]
    return parts
