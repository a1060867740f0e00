"""XLSX and XLS: sheets as tables whose rows know their numbers.

The only importer of calamine, which lays a sheet out as a full grid: how far an XLSX sheet reaches is looked
up first, so that two cells in far corners cannot fill the memory. Formulas are told by their last results.
"""

from __future__ import annotations

import io
import re
from datetime import date, datetime, time, timedelta

import python_calamine as calamine

from memory.errors import InvalidInputError
from sources.containers import Container, open_container
from sources.ooxml import Package
from sources.outline import Extracted
from sources.sheets import Sheet
from sources.writer import Writer, one_line
from sources.xml_tree import local

MAX_GRID_CELLS = 20_000_000
"""Cells between the first and the last used one of a sheet, empty ones included."""
MAX_SHEETS = 1000

_CELL = re.compile(rb"<(?:\w+:)?c\s[^>]*?\br=[\"']([A-Za-z]{1,3})(\d{1,7})[\"']")
_ROW = re.compile(rb"<(?:\w+:)?row\b[^>]*?\br=[\"'](\d{1,7})[\"']")
_DAMAGED = "the spreadsheet is damaged and cannot be opened; save it anew as XLSX or CSV and send that"


def extract_xlsx(body: bytes, charset: str | None) -> Extracted:
    """Return an XLSX workbook's sheets, each a section; ``charset`` says nothing here."""
    container = open_container(body, "XLSX spreadsheet")
    package = Package(container, "XLSX spreadsheet")
    if local(package.get(package.main)) != "workbook":
        raise InvalidInputError("this Office file is no XLSX spreadsheet: it has no workbook")
    _check_grids(container)
    return _read(body, package.title())


def extract_xls(body: bytes, charset: str | None) -> Extracted:
    """Return an older Excel workbook's sheets, each a section; an XLSX file named so is read, too."""
    if body.startswith(b"PK"):
        return extract_xlsx(body, charset)
    if not body.startswith(b"\xd0\xcf\x11\xe0"):
        raise InvalidInputError("this is no Excel file; tables kept as text are read as CSV or HTML")
    return _read(body, None)


def _check_grids(container: Container) -> None:
    """Refuse a sheet whose cells lie so far apart that its grid would not fit into memory."""
    for name in container.names():
        if not name.startswith("xl/worksheets/") or not name.endswith(".xml"):
            continue
        data = container.get(name)
        columns = [_column(found[1]) for found in _CELL.finditer(data)]
        rows = [int(found[2]) for found in _CELL.finditer(data)]
        rows += [int(found[1]) for found in _ROW.finditer(data)] if rows else []
        if columns and rows:
            area = (max(columns) - min(columns) + 1) * (max(rows) - min(rows) + 1)
            if area > MAX_GRID_CELLS:
                raise InvalidInputError(
                    f"its cells reach over {area} places, most of them empty; save the used part as CSV",
                    where=name.rpartition("/")[2],
                )


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = 26 * number + letter - 64
    return number


def _read(body: bytes, title: str | None) -> Extracted:
    writer = Writer()
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(io.BytesIO(body))
    except calamine.PasswordError as error:
        raise InvalidInputError("the spreadsheet is encrypted; send it again without its password") from error
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise InvalidInputError(_DAMAGED) from error
    names = workbook.sheet_names
    if len(names) > MAX_SHEETS:
        raise InvalidInputError(f"the spreadsheet has {len(names)} sheets, more than {MAX_SHEETS}")
    for name in names:
        try:
            rows = workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
        except (calamine.CalamineError, OSError, ValueError, OverflowError):
            writer.warnings.append(f"sheet {one_line(name)!r} is damaged and was left out")
            continue
        sheet = Sheet(writer, one_line(name))
        for number, row in enumerate(rows, start=1):
            if sheet.full:
                break
            sheet.add(number, _without_end([_shown(value) for value in row]))
        sheet.finish()
    return writer.finish(title)


def _without_end(cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _shown(value: int | float | str | bool | time | date | datetime | timedelta) -> str:
    """Return a value as a reader writes it: figures as Excel shows them, dates in ISO 8601."""
    if isinstance(value, str):
        return one_line(value) if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}" if abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime):
        if value.hour == value.minute == value.second == value.microsecond == 0:
            return value.date().isoformat()
        return value.isoformat(sep=" ", timespec="seconds" if value.microsecond == 0 else "milliseconds")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
