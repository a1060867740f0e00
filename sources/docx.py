"""DOCX: paragraphs, headings, lists and tables of a Word document, as it reads with all changes accepted.

Left out: what was deleted under tracking, hidden text, headers and footers, comments (counted in a
warning). Notes follow the paragraph that refers to them. Pages are not known: a program lays them out anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memory.errors import InvalidInputError
from sources.docx_styles import Numbering, Styles
from sources.ooxml import Package, chosen, is_math, math_text, open_package
from sources.outline import Extracted
from sources.writer import Writer, names, one_line, row_line
from sources.xml_tree import Element, attribute, child, children, descendants, local, number

MAX_TITLE_CHARACTERS = 200
MAX_REPEATED_CHARACTERS = 300

_WRAPPERS = names(
    "ins moveTo hyperlink smartTag customXml fldSimple dir bdo sdt sdtContent rubyBase ruby",
    "txbxContent",
)
_BLOCK_WRAPPERS = frozenset(("sdt", "sdtContent", "customXml", "ins", "moveTo"))
_OFF = frozenset(("0", "false", "off"))
_CODE_STYLES = re.compile(r"\b(?:code|source|listing|preformatted|verbatim)\b")


def extract_docx(body: bytes, charset: str | None) -> Extracted:
    """Return the document's text with its headings, lists and tables; ``charset`` says nothing here."""
    package = open_package(body, "DOCX document")
    root = package.get(package.main)
    content = child(root, "body")
    if content is None:
        raise InvalidInputError("this Office file is no DOCX document: it has no body of text")
    return _Reader(package).read(content)


@dataclass(slots=True)
class _Item:
    """A paragraph's text, its mark in a list, and how deep it stands there."""

    text: str
    mark: str
    level: int


class _Reader:
    """Reads one document, block by block."""

    def __init__(self, package: Package) -> None:
        main = package.main
        self._package = package
        self._styles = Styles(package.find(package.related(main, "styles")))
        self._numbering = Numbering(package.find(package.related(main, "numbering")))
        self._notes = {
            kind: _notes(package.find(package.related(main, f"{kind}s"))) for kind in ("footnote", "endnote")
        }
        self._note_numbers: dict[tuple[str, str], int] = {}
        self._writer = Writer()
        self._title: str | None = None
        self._list: list[str] = []
        self._code: list[str] = []

    def read(self, content: Element) -> Extracted:
        self._blocks(content)
        self._flush()
        comments = self._package.find(self._package.related(self._package.main, "comments"))
        count = sum(1 for _ in children(comments, "comment"))
        if count:
            self._writer.warnings.append(
                f"{count} {'comment was' if count == 1 else 'comments were'} left out"
            )
        title = self._title or _usable_title(self._package.title()) or self._writer.first_heading()
        return self._writer.finish(title)

    def _blocks(self, parent: Element) -> None:
        for element in parent:
            name = local(element)
            if name == "p":
                self._paragraph(element)
            elif name == "tbl":
                self._table(element)
            elif name in _BLOCK_WRAPPERS:
                self._blocks(element)
            elif name == "AlternateContent":
                branch = chosen(element)
                if branch is not None:
                    self._blocks(branch)
            elif is_math(element):
                self._flush()
                self._writer.add(math_text(element))

    def _paragraph(self, paragraph: Element) -> None:
        properties = child(paragraph, "pPr")
        text = _paragraph_text(self, paragraph)
        level = self._styles.heading_level(properties)
        position = self._styles.list_position(properties)
        style = self._styles.name(attribute(child(properties, "pStyle"), "val"))
        mark = self._numbering.label(position) if position is not None and text.strip() else ""
        if not text.strip() or style.startswith("toc "):  # a table of contents is furniture
            if self._code:
                self._code.append("")
        elif style == "title" and self._title is None and len(text) <= MAX_TITLE_CHARACTERS:
            self._flush()
            self._title = one_line(text)
            self._writer.add(one_line(text), "heading")
        elif level is not None:
            self._flush()
            self._writer.head(f"{mark if mark != '-' else ''} {text}", level)
        elif position is not None:
            self._flush_code()
            self._list.append(_item_line(_Item(text, mark, position.level)))
        elif _CODE_STYLES.search(style):
            self._flush_list()
            self._code.append(text)
        else:
            self._flush()
            self._writer.add(_tidy(text))
        self._after(paragraph)

    def _after(self, paragraph: Element) -> None:
        """Write what hangs on a paragraph: its text boxes, then its notes."""
        for box in _text_boxes(paragraph):
            self._flush()
            self._blocks(box)
        notes = list(self._new_notes(paragraph))
        if notes:
            self._flush()
        for note_number, note in notes:
            self._writer.add(f"[{note_number}] {note}")

    def _new_notes(self, element: Element) -> Iterator[tuple[int, str]]:
        for kind, notes in self._notes.items():
            for reference in descendants(element, f"{kind}Reference"):
                key = attribute(reference, "id") or ""
                if key in notes and (kind, key) in self._note_numbers:
                    note = notes.pop(key)
                    told = " ".join(_paragraph_text(self, found) for found in descendants(note, "p"))
                    yield self._note_numbers[kind, key], one_line(told)

    def note_mark(self, kind: str, key: str) -> str:
        """Return the mark of a note where the text refers to it."""
        if key not in self._notes[kind] and (kind, key) not in self._note_numbers:
            return ""
        number = self._note_numbers.setdefault((kind, key), len(self._note_numbers) + 1)
        return f"[{number}]"

    def _table(self, table: Element) -> None:
        rows = list(_grid_rows(table))
        if len({id(cell) for row in rows for cell, _ in row}) == 1 or all(len(row) < 2 for row in rows):
            for row in rows:
                for cell, hangs in row:
                    if not hangs:
                        self._blocks(cell)
            return
        self._flush()
        headers = 0
        for element in _table_rows(table):
            if child(element, "trPr", "tblHeader") is None:
                break
            headers += 1
        self._writer.table(list(_table_lines(self, rows)), header_rows=max(1, min(headers, 3)))
        for note_number, note in self._new_notes(table):
            self._writer.add(f"[{note_number}] {note}")

    def cell_text(self, cell: Element) -> str:
        """Return a cell on one line: its paragraphs, items of its lists, and tables in it."""
        pieces: list[str] = []
        listed = False
        for element in _cell_blocks(cell):
            if local(element) == "tbl":
                rows = _table_lines(self, list(_grid_rows(element)), joint=", ")
                told, is_item = "; ".join(rows), True
            else:
                position = self._styles.list_position(child(element, "pPr"))
                told, is_item = one_line(_paragraph_text(self, element)), position is not None
                boxes = (one_line(_paragraph_text(self, found)) for found in _boxed_paragraphs(element))
                told = " ".join(filter(None, (told, *boxes)))
                if position is not None and told:
                    mark = self._numbering.label(position)
                    told = told if mark in ("", "-") else f"{mark} {told}"
            if told:
                pieces.append((("; " if listed and is_item else " ") if pieces else "") + told)
                listed = is_item
        return "".join(pieces)

    def _flush(self) -> None:
        self._flush_list()
        self._flush_code()

    def _flush_list(self) -> None:
        self._writer.add("\n".join(self._list), "list")
        self._list.clear()

    def _flush_code(self) -> None:
        self._writer.add("\n".join(self._code).rstrip(), "code")
        self._code.clear()


def _usable_title(title: str | None) -> str | None:
    """A template's or a program's title says nothing."""
    if title is None or re.search(r"\.\w{2,4}$|^untitled|^microsoft word|^word document$", title, re.I):
        return None
    return title


def _notes(root: Element | None) -> dict[str, Element]:
    """Return the notes by id, without the lines that part them from the text."""
    return {
        attribute(note, "id") or "": note
        for note in (root if root is not None else ())
        if attribute(note, "type") in (None, "normal")
    }


def _item_line(item: _Item) -> str:
    indent = "  " * item.level
    first, *more = _tidy(item.text).split("\n")
    lead = f"{indent}{item.mark} " if item.mark else indent
    return "\n".join([lead + first, *(" " * len(lead) + line for line in more)])


def _tidy(text: str) -> str:
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _paragraph_text(reader: _Reader, paragraph: Element) -> str:
    return "".join(_strings(reader, paragraph))


def _strings(reader: _Reader, parent: Element) -> Iterator[str]:
    """Yield the text of a paragraph's runs; a line break is a line feed."""
    for element in parent:
        name = local(element)
        if is_math(element):
            yield f" {math_text(element)} "
        elif name == "r":
            yield from _run(reader, element)
        elif name in _WRAPPERS:
            yield from _strings(reader, element)
        elif name == "AlternateContent":
            branch = chosen(element)
            if branch is not None:
                yield from _strings(reader, branch)


def _run(reader: _Reader, run: Element) -> Iterator[str]:
    hidden = child(run, "rPr", "vanish")
    if hidden is not None and attribute(hidden, "val") not in _OFF:
        return
    for element in run:
        name = local(element)
        if name == "t":
            yield element.text or ""
        elif name == "tab":
            yield "\t"
        elif name in ("br", "cr"):
            yield "\n"
        elif name == "noBreakHyphen":
            yield "-"
        elif name == "sym":
            yield _symbol(element)
        elif name == "ruby":
            base = child(element, "rubyBase")
            yield from _strings(reader, base) if base is not None else ()
        elif name in ("footnoteReference", "endnoteReference"):
            yield reader.note_mark(name.removesuffix("Reference"), attribute(element, "id") or "")


def _symbol(element: Element) -> str:
    """Return a symbol's character; in symbol fonts only ticks and boxes are known."""
    told = attribute(element, "char") or ""
    try:
        code = int(told, 16)
    except ValueError:
        return ""
    known = {0xF0FE: "☒", 0xF0A8: "☐", 0xF06F: "☐", 0xF0FC: "✓", 0xF0B7: "•", 0xF0E0: "→"}
    return known.get(code, chr(code) if 0x20 <= code < 0xD800 else "")


def _text_boxes(element: Element) -> Iterator[Element]:
    """Yield the outermost text boxes below, once each (not their twins for older programs)."""
    for found in element:
        name = local(found)
        if name == "txbxContent":
            yield found
        elif name == "AlternateContent":
            branch = chosen(found)
            if branch is not None:
                yield from _text_boxes(branch)
        elif name not in ("del", "moveFrom"):
            yield from _text_boxes(found)


def _boxed_paragraphs(paragraph: Element) -> Iterator[Element]:
    return (found for box in _text_boxes(paragraph) for found in descendants(box, "p"))


def _table_rows(table: Element) -> Iterator[Element]:
    """Yield the rows that were not deleted under tracking."""
    for element in table:
        if local(element) == "tr":
            if child(element, "trPr", "del") is None:
                yield element
        elif local(element) in _BLOCK_WRAPPERS:
            yield from _table_rows(element)


def _cells(row: Element) -> Iterator[Element]:
    for element in row:
        if local(element) == "tc":
            yield element
        elif local(element) in _BLOCK_WRAPPERS:
            yield from _cells(element)


def _cell_blocks(parent: Element) -> Iterator[Element]:
    for element in parent:
        if local(element) in ("p", "tbl"):
            yield element
        elif local(element) in _BLOCK_WRAPPERS:
            yield from _cell_blocks(element)


def _grid_rows(table: Element) -> Iterator[list[tuple[Element, bool]]]:
    """Yield each row's cells, and whether it is a cell above that reaches down to here."""
    above: dict[int, Element] = {}
    for row in _table_rows(table):
        cells: list[tuple[Element, bool]] = []
        column = 0
        for cell in _cells(row):
            properties = child(cell, "tcPr")
            merge = child(properties, "vMerge")
            hangs = merge is not None and attribute(merge, "val") != "restart" and column in above
            shown = above[column] if hangs else cell
            cells.append((shown, hangs))
            if merge is not None:
                above[column] = shown
            else:
                above.pop(column, None)
            column += min(number(attribute(child(properties, "gridSpan"), "val"), 1), 100)
        if cells:
            yield cells


def _table_lines(
    reader: _Reader, rows: list[list[tuple[Element, bool]]], joint: str | None = None
) -> Iterator[str]:
    """Yield the rows as lines; what a merged cell says, if it is short, is said in each of its rows."""
    told: dict[int, str] = {}
    for row in rows:
        cells: list[str] = []
        for cell, hangs in row:
            text = told.get(id(cell))
            if text is None:
                text = told[id(cell)] = reader.cell_text(cell)
            cells.append(text if not hangs or len(text) <= MAX_REPEATED_CHARACTERS else "")
        if any(cells):
            yield row_line(cells) if joint is None else joint.join(filter(None, cells))
