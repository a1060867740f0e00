"""OpenDocument: ODT texts, ODP presentations and ODS spreadsheets.

Left out: tracked deletions, comments, what stands in headers and footers, and a table of contents.
OASIS OpenDocument 1.3. Tables may say that a row or cell is repeated; only so much of it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator

from memory.errors import InvalidInputError
from memory.values import Place
from sources.containers import Container, open_container
from sources.outline import Extracted
from sources.sheets import MAX_COLUMNS, Sheet
from sources.writer import Writer, names, one_line, row_line
from sources.xml_tree import (
    Element,
    attribute,
    child,
    children,
    descendants,
    local,
    namespace,
    number,
    parse_xml,
)

MAX_LIST_DEPTH = 8
MAX_TABLE_COLUMNS = 200
MAX_REPETITIONS = 500
"""How often the same row or cell is read that a sheet says to repeat."""
MAX_SPACES = 100
MAX_STYLE_CHAIN = 20

_SKIPPED = names(
    "tracked-changes annotation annotation-end table-of-content sequence-decls forms shapes",
    "bibliography alphabetical-index illustration-index table-index user-index object-index desc",
    "title",
)
_GROUPS = names(
    "section frame text-box custom-shape g a rect ellipse polygon path line connector caption",
    "soft-page-break index-body list-header",
)


def extract_odt(body: bytes, charset: str | None) -> Extracted:
    """Return a text document with its headings, lists, tables and notes."""
    container, content = _open(body, "ODT document", "text")
    text = _Text(Writer(), _Styles(container, content), None)
    text.blocks(content)
    title = _title(container) or text.title or text.writer.first_heading()
    return text.writer.finish(title)


def extract_odp(body: bytes, charset: str | None) -> Extracted:
    """Return a presentation's slides, each a section with its notes, with ``Place`` of kind slide."""
    container, content = _open(body, "ODP presentation", "presentation")
    writer = Writer()
    styles = _Styles(container, content)
    first = None
    for slide_number, page in enumerate(children(content, "page"), start=1):
        frames = [frame for frame in page if attribute(frame, "class") == "title"]
        title = one_line(" ".join(_paragraphs(frames[0]))) if frames else ""
        first = first or title
        place = Place("slide", slide_number, slide_number)
        writer.head(title or f"Slide {slide_number}", 1, told=bool(title), place=place)
        text = _Text(writer, styles, place)
        for element in page:
            if local(element) == "notes":
                notes = "\n".join(filter(None, map(one_line, _paragraphs(element))))
                writer.add(f"Notes: {notes}" if notes else "", place=place)
            elif not (title and element is frames[0]) and attribute(element, "class") not in (
                "header",
                "footer",
                "date-time",
                "page-number",
            ):
                text.block(element)
    return writer.finish(_title(container) or first)


def extract_ods(body: bytes, charset: str | None) -> Extracted:
    """Return a spreadsheet's tables, each sheet a section, with ``Place`` of kind row."""
    container, content = _open(body, "ODS spreadsheet", "spreadsheet")
    writer = Writer()
    for table in children(content, "table"):
        sheet = Sheet(writer, attribute(table, "name") or "")
        _read_rows(table, sheet, writer)
        sheet.finish()
    return writer.finish(_title(container))


def _open(body: bytes, what: str, kind: str) -> tuple[Container, Element]:
    """Return the opened file and the element that holds its content."""
    container = open_container(body, what)
    manifest = container.find("META-INF/manifest.xml")
    if manifest is not None and b"encryption-data" in manifest:
        raise InvalidInputError(f"the {what} is encrypted; send it again without its password")
    content = child(parse_xml(container.get("content.xml"), "content.xml"), "body", kind)
    if content is None:
        raise InvalidInputError(f"this OpenDocument file is no {what}")
    return container, content


def _title(container: Container) -> str | None:
    data = container.find("meta.xml")
    title = child(parse_xml(data, "meta.xml"), "meta", "title") if data is not None else None
    return one_line(title.text or "") or None if title is not None else None


class _Styles:
    """What the styles say of paragraphs and lists."""

    def __init__(self, container: Container, content: Element) -> None:
        common = container.find("styles.xml")
        roots = [parse_xml(common, "styles.xml")] if common is not None else []
        roots.append(content.getroottree().getroot())
        self._parents: dict[str, str] = {}
        self._numbered: set[tuple[str, int]] = set()
        for root in roots:
            for style in descendants(root, "style"):
                name, parent = attribute(style, "name"), attribute(style, "parent-style-name")
                if name and parent:
                    self._parents[name] = parent
            for style in descendants(root, "list-style"):
                for level in children(style, "list-level-style-number"):
                    if attribute(level, "num-format"):
                        name = attribute(style, "name") or ""
                        self._numbered.add((name, _count(level, "level")))

    def is_title(self, name: str | None) -> bool:
        """Say whether a paragraph style is the title's, or made from it."""
        for _ in range(MAX_STYLE_CHAIN):
            if name is None or name == "Title":
                break
            name = self._parents.get(name)
        return name == "Title"

    def is_numbered(self, name: str | None, depth: int) -> bool:
        """Say whether a list is numbered at a depth, the outermost 0."""
        return (name or "", depth + 1) in self._numbered


class _Text:
    """Writes text content: paragraphs, headings, lists, tables."""

    def __init__(self, writer: Writer, styles: _Styles, place: Place | None) -> None:
        self.writer = writer
        self.title: str | None = None
        self._styles = styles
        self._place = place
        self._notes: list[str] = []
        self._note_count = 0

    def blocks(self, parent: Element) -> None:
        for element in parent:
            self.block(element)

    def block(self, element: Element) -> None:
        name = local(element)
        if name == "h":
            self.writer.head(self._string(element), _count(element, "outline-level"), place=self._place)
        elif name == "p":
            told = _tidy(self._string(element))
            if self._styles.is_title(attribute(element, "style-name")) and self.title is None and told:
                self.title = one_line(told)
                self.writer.add(one_line(told), "heading", place=self._place)
            else:
                self.writer.add(told, place=self._place)
            for box in _boxes(element):
                self.blocks(box)
        elif name == "list":
            lines = list(self._list(element, 0, None))
            self.writer.add("\n".join(lines), "list", place=self._place)
        elif name == "table":
            self._table(element)
        elif name in _GROUPS or name.endswith("index-title"):
            self.blocks(element)
        self._write_notes()

    def _list(self, element: Element, depth: int, style: str | None) -> Iterator[str]:
        """Yield the lines of a list; headings in it are written as headings, apart from it."""
        style = attribute(element, "style-name") or style
        numbered = self._styles.is_numbered(style, depth)
        count = _count(element, "start-value")
        for item in element:
            if local(item) not in ("list-item", "list-header"):
                continue
            lead = "  " * min(depth, MAX_LIST_DEPTH) + (f"{count}. " if numbered else "- ")
            hanging = " " * len(lead)
            fresh = True
            for part in item:
                if local(part) == "list":
                    yield from self._list(part, depth + 1, style)
                elif local(part) == "h":
                    self.block(part)
                elif local(part) == "p":
                    for line in _tidy(self._string(part)).split("\n"):
                        if line:
                            yield (lead if fresh else hanging) + line
                            fresh = False
            count += 0 if fresh else 1

    def _table(self, table: Element) -> None:
        rows = list(_rows(table))
        told = [[self._cell(cell) for cell, _ in _cells(row, MAX_TABLE_COLUMNS)] for row, _ in rows]
        used = max((index + 1 for cells in told for index, cell in enumerate(cells) if cell), default=0)
        if used < 2:
            for row, _ in rows:
                for cell in row:
                    self.blocks(cell)
            return
        headers = sum(1 for row, _ in rows if local(row.getparent()) == "table-header-rows")
        lines = [row_line(cells[:used]) for cells in told if any(cells)]
        self.writer.table(lines, place=self._place, header_rows=max(1, min(headers, 3)))

    def _cell(self, cell: Element) -> str:
        pieces: list[str] = []
        for element in cell:
            name = local(element)
            if name == "list":
                pieces.append(
                    "; ".join(line.strip().removeprefix("- ") for line in self._list(element, 0, None))
                )
            elif name == "table":
                inner = (
                    [self._cell(found) for found, _ in _cells(row, MAX_TABLE_COLUMNS)]
                    for row, _ in _rows(element)
                )
                pieces.append("; ".join(", ".join(filter(None, cells)) for cells in inner))
            elif name in ("p", "h"):
                pieces.append(one_line(self._string(element)))
        return " ".join(filter(None, pieces))

    def _string(self, element: Element) -> str:
        return "".join(self._strings(element))

    def _strings(self, element: Element) -> Iterator[str]:
        yield _folded(element.text)
        for part in element:
            name = local(part)
            if name == "s":
                yield " " * min(MAX_SPACES, _count(part, "c"))
            elif name == "tab":
                yield "\t"
            elif name == "line-break":
                yield "\n"
            elif name == "note":
                self._note_count += 1
                told = " ".join(_paragraphs(child(part, "note-body")))
                self._notes.append(f"[{self._note_count}] {one_line(told)}")
                yield f"[{self._note_count}]"
            elif name not in _SKIPPED and not namespace(part).endswith(":drawing:1.0"):
                yield from self._strings(part)
            yield _folded(part.tail)

    def _write_notes(self) -> None:
        for note in self._notes:
            self.writer.add(note, place=self._place)
        self._notes.clear()


def _folded(text: str | None) -> str:
    """White space of the XML is one space; real newlines are elements."""
    return " ".join(f"x{text}x".split())[1:-1] if text else ""


def _tidy(text: str) -> str:
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _paragraphs(element: Element | None) -> Iterator[str]:
    """Yield the text of the paragraphs below, without comments."""
    if element is None:
        return
    for found in element.iter("{*}p", "{*}h"):
        if not any(local(above) == "annotation" for above in found.iterancestors()):
            yield "".join(found.itertext())


def _boxes(paragraph: Element) -> Iterator[Element]:
    """Yield the outermost text boxes and shapes with text anchored in a paragraph."""
    for element in paragraph:
        if local(element) in ("text-box", "custom-shape"):
            yield element
        elif local(element) not in _SKIPPED:
            yield from _boxes(element)


def _rows(table: Element) -> Iterator[tuple[Element, int]]:
    """Yield the table's rows, and how often each is repeated."""
    for element in table:
        name = local(element)
        if name == "table-row":
            yield element, _count(element, "number-rows-repeated")
        elif name in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _rows(element)


def _cells(row: Element, limit: int) -> Iterator[tuple[Element, int]]:
    """Yield the row's cells, empty ones for those another reaches over, with their repetition."""
    column = 0
    for element in row:
        if local(element) in ("table-cell", "covered-table-cell") and column < limit:
            count = min(_count(element, "number-columns-repeated"), limit - column)
            column += count
            for _ in range(count):
                yield element, count


def _count(element: Element, name: str) -> int:
    """Return a number of at least 1 that an attribute tells."""
    return max(1, number(attribute(element, name), 1))


def _without_end(cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _read_rows(table: Element, sheet: Sheet, writer: Writer) -> None:
    last = 0
    for row, count in _rows(table):
        cells = _without_end([_value(cell) for cell, _ in _trimmed(row)])
        if cells and count > MAX_REPETITIONS:
            writer.warnings.append(f"a row said to be there {count} times was read {MAX_REPETITIONS} times")
        for repeated in range(min(count, MAX_REPETITIONS) if cells else 0):
            if sheet.full:
                return
            sheet.add(last + repeated + 1, cells)
        last += count


def _trimmed(row: Element) -> Iterator[tuple[Element, int]]:
    """Yield a sheet's cells up to the last that says something; the empty rest is often repeated."""
    last = max((index for index, cell in enumerate(row) if len(cell)), default=-1)
    kept = [cell for index, cell in enumerate(row) if index <= last]
    column = 0
    for element in kept:
        count = min(_count(element, "number-columns-repeated"), MAX_COLUMNS - column)
        count = min(count, MAX_REPETITIONS) if len(element) else count
        column += count
        for _ in range(count):
            yield element, count


def _value(cell: Element) -> str:
    """Return what a cell shows, dates in ISO 8601."""
    if attribute(cell, "value-type") == "date":
        told = attribute(cell, "date-value") or ""
        return one_line(told.removesuffix("T00:00:00").replace("T", " "))
    return one_line("; ".join("".join(found.itertext()) for found in children(cell, "p")))
