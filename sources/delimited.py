"""CSV and its kin: rows of cells, whatever parts them. The delimiter is found by trying each.

Rows are counted as a spreadsheet counts them, so a cell over several lines is still in one row.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator

from memory.errors import InvalidInputError
from sources.decoding import decode_text
from sources.outline import Extracted
from sources.sheets import Sheet
from sources.writer import Writer

SAMPLE_CHARACTERS = 64_000
SAMPLE_ROWS = 200
DELIMITERS = (",", ";", "\t", "|")
MAX_NAMED_ROWS = 5
"""Rows of an odd length that a warning names."""


def extract_csv(body: bytes, charset: str | None) -> Extracted:
    """Return the rows of delimited text as a table; raises ``InvalidInputError`` naming a broken row."""
    text, warnings = decode_text(body, charset)
    return _extract(text, _delimiter(text), warnings)


def extract_tsv(body: bytes, charset: str | None) -> Extracted:
    """Return the rows of text parted by tabs (or, where there are none, by what parts it)."""
    text, warnings = decode_text(body, charset)
    return _extract(text, "\t" if "\t" in text[:SAMPLE_CHARACTERS] else _delimiter(text), warnings)


def _extract(text: str, delimiter: str, warnings: list[str]) -> Extracted:
    writer = Writer(warnings)
    sheet = Sheet(writer, "", split=False)
    widths = Counter[int]()
    odd: list[int] = []
    expected = 0
    for number, row in enumerate(_rows(text, delimiter), start=1):
        if sheet.full:
            break
        cells = [" ".join(cell.split()) for cell in row]
        sheet.add(number, cells)
        if any(cells):
            expected = expected or len(row)
            widths[len(row)] += 1
            if len(row) != expected and len(odd) < MAX_NAMED_ROWS:
                odd.append(number)
    sheet.finish()
    uneven = widths.total() - widths[expected]
    if uneven:
        named = ", ".join(map(str, odd)) + (", ..." if uneven > len(odd) else "")
        writer.warnings.append(f"{uneven} of the rows have more or fewer cells than the first (row {named})")
    return writer.finish(None)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(
        io.StringIO(text, newline="\n"), delimiter=delimiter, skipinitialspace=delimiter != "\t"
    )
    number = 0
    try:
        for row in reader:
            number += 1
            yield row
    except csv.Error as error:
        raise InvalidInputError(
            f"a cell of more than {csv.field_size_limit()} characters; is a quotation mark never closed?",
            where=f"row {number + 1}",
        ) from error


def _delimiter(text: str) -> str:
    """Return the delimiter under which the sample's rows agree best on a number of cells."""
    sample = text[:SAMPLE_CHARACTERS]
    if len(text) > len(sample) and "\n" in sample:
        sample = sample[: sample.rindex("\n")]
    return max(DELIMITERS, key=lambda delimiter: _agreement(sample, delimiter))


def _agreement(sample: str, delimiter: str) -> float:
    if delimiter not in sample:
        return 0.0
    widths = Counter[int]()
    try:
        for row in csv.reader(io.StringIO(sample, newline="\n"), delimiter=delimiter):
            if any(cell.strip() for cell in row):
                widths[len(row)] += 1
            if widths.total() >= SAMPLE_ROWS:
                break
    except csv.Error:
        return 0.0
    width, count = max(widths.items(), key=lambda item: (item[0] > 1, item[1], item[0]), default=(1, 0))
    if width < 2:
        return 0.0
    return count / widths.total() + min(width, 50) / 1000
