"""HTML: the words of a page without its furniture; headings, lists and tables survive.

Furniture is known by structure (``html_tree``) and by link density. The extracted text is plain: items
as ``- item``, rows as ``| cell | cell |``, blocks set apart by a blank line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memory.errors import InvalidInputError
from sources.decoding import decode_text
from sources.html_tree import Element, Page, parse_page
from sources.outline import Block, BlockKind, Extracted, Heading
from sources.writer import names

MIN_MAIN_SHARE = 0.25
"""A ``main`` element is the page when it holds at least this share of the text."""
MIN_LINKS = 5
MAX_LINK_DENSITY = 0.75
MAX_LINK_CHARACTERS = 40
"""Blocks of many short links above this density are navigation."""

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_LISTS = names("ul ol dl menu")
_BLOCKS = names(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption",
    "figure footer form header hr legend li main nav ol optgroup option p section summary table tbody td",
    "tfoot th thead tr ul menu search",
)
_DENSE = names("ul ol dl div section table p center td details")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)


def extract_html(body: bytes, charset: str | None) -> Extracted:
    """Return a page's content, its headings, and its title without the site's name."""
    declared = _META_CHARSET.search(body, 0, 4096)
    source, warnings = decode_text(body, charset or (declared[1].decode("ascii") if declared else None))
    page = parse_page(source)
    writer = _Writer()
    writer.write(_content(page))
    if not writer.blocks:
        page = parse_page(source, keep_furniture=True)
        writer = _Writer()
        writer.write(page.body)
        if not writer.blocks:
            raise InvalidInputError(
                "the page has no text; pages drawn by scripts must be saved after rendering"
            )
        warnings.append("the page is nothing but navigation; all of its text was kept")
    title = page.title
    if page.first_heading and (title is None or page.first_heading in title):
        title = page.first_heading
    return Extracted(writer.text(), tuple(writer.blocks), tuple(writer.headings), title, tuple(warnings))


def _content(page: Page) -> Element:
    """Choose the element that holds the content, and empty the blocks that are lists of links."""
    mains = [element for element in page.elements if element.main]
    articles = [element for element in page.elements if element.tag == "article"]
    content = page.body
    for chosen in (mains[:1], articles if len(articles) == 1 else []):
        if chosen and chosen[0].text_size >= MIN_MAIN_SHARE * page.body.text_size > 0:
            content = chosen[0]
            break
    dense = [element for element in page.elements if element is not content and _is_navigation(element)]
    if sum(element.text_size for element in dense) < content.text_size / 2:
        for element in dense:
            element.children.clear()
    return content


def _is_navigation(element: Element) -> bool:
    return (
        element.tag in _DENSE
        and element.links >= MIN_LINKS
        and element.link_size > MAX_LINK_DENSITY * element.text_size
        and element.link_size < MAX_LINK_CHARACTERS * element.links
        and not element.tags.intersection(_HEADINGS)
    )


class _Writer:
    """Writes elements as blocks of text, one pass, with an explicit stack."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.headings: list[Heading] = []
        self._pieces: list[str] = []
        self._length = 0
        self._inline: list[str] = []
        self._list_lines: list[str] = []
        self._lists: list[tuple[str, int]] = []
        self._marker = ""

    def text(self) -> str:
        return "".join(self._pieces)

    def write(self, root: Element) -> None:
        stack: list[tuple[Element | str, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            if isinstance(node, str):
                self._inline.append(node)
            elif leaving:
                self._leave(node)
            elif not self._enter_leaf(node):
                self._enter(node)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node.children))
        self._flush()

    def _enter_leaf(self, element: Element) -> bool:
        """Write an element that is a block of its own; say whether it was one."""
        tag = element.tag
        if tag == "br":
            self._inline.append("\n")
        elif tag in _HEADINGS:
            self._flush()
            label = _one_line(element)
            if label:
                self.headings.append(Heading(self._next_start(), _HEADINGS[tag], label))
                self._add(label, "heading")
        elif tag in ("pre", "listing"):
            self._flush()
            code = "".join(_strings(element)).replace("\xa0", " ").strip("\n").rstrip()
            if self._lists and code:
                self._list_lines.append(code)
            else:
                self._add(code, "code")
        elif tag == "table" and not self._lists and _is_data_table(element):
            self._flush()
            self._write_table(element)
        else:
            return False
        return True

    def _enter(self, element: Element) -> None:
        if element.tag in _BLOCKS:
            self._flush()
        if element.tag in _LISTS and not element.tags.intersection(("table", *_HEADINGS)):
            self._lists.append((element.tag, 0))
        elif element.tag == "li" and self._lists:
            kind, count = self._lists[-1]
            self._lists[-1] = (kind, count + 1)
            self._marker = f"{count + 1}. " if kind == "ol" else "- "
        elif element.tag == "dt" and self._lists:
            self._marker = "- "
        elif element.tag in ("td", "th"):
            self._inline.append(" ")

    def _leave(self, element: Element) -> None:
        if element.tag in _BLOCKS:
            self._flush()
        if element.tag in _LISTS and not element.tags.intersection(("table", *_HEADINGS)):
            self._lists.pop()
            if not self._lists:
                self._add("\n".join(self._list_lines), "list")
                self._list_lines.clear()

    def _flush(self) -> None:
        """Close the paragraph or the list line under way."""
        lines = [" ".join(line.split()) for line in "".join(_softened(self._inline)).split("\n")]
        self._inline.clear()
        told = [line for line in lines if line]
        if not told:
            return
        if not self._lists:
            self._add("\n".join(told), "paragraph")
            return
        indent = "  " * min(8, len(self._lists) - 1)
        hanging = " " * len(self._marker or "- ")
        for index, line in enumerate(told):
            self._list_lines.append(
                indent + (self._marker if index == 0 and self._marker else hanging) + line
            )
        self._marker = ""

    def _write_table(self, table: Element) -> None:
        caption = next((child for child in _elements(table) if child.tag == "caption"), None)
        if caption is not None:
            self._add(_one_line(caption), "paragraph")
        rows = _grid(table)
        lines = [f"| {' | '.join(cells)} |" for cells, _ in rows]
        header_rows = 0
        while header_rows < min(3, len(rows) - 1) and rows[header_rows][1]:
            header_rows += 1
        self._add("\n".join(lines), "table", header=len("\n".join(lines[:header_rows])))

    def _next_start(self) -> int:
        return self._length + (2 if self._pieces else 0)

    def _add(self, text: str, kind: BlockKind, header: int = 0) -> None:
        if not text.strip():
            return
        start = self._next_start()
        if self._pieces:
            self._pieces.append("\n\n")
        self._pieces.append(text)
        self._length = start + len(text)
        span = (start, start + header) if header else None
        self.blocks.append(Block(start, self._length, kind, header=span))


def _softened(strings: list[str]) -> Iterator[str]:
    """Turn newlines of the source into spaces; those of ``br`` stay."""
    return (string if string == "\n" else string.replace("\n", " ") for string in strings)


def _strings(element: Element) -> Iterator[str]:
    """Yield the text below, with a line feed for ``br`` and a space between blocks."""
    stack: list[Element | str] = [element]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif node.tag == "br":
            yield "\n"
        elif node.tag == "li" or node.tag in _BLOCKS:
            yield " "
            stack.append("; " if node.tag == "li" else " ")
            stack.extend(reversed(node.children))
        else:
            stack.extend(reversed(node.children))


def _one_line(element: Element) -> str:
    joined = " ".join("".join(_strings(element)).split())
    return re.sub(r"\s*;\s*(?=;|$)", "", joined).replace(" ;", ";")


def _elements(element: Element) -> Iterator[Element]:
    return (child for child in element.children if isinstance(child, Element))


def _is_data_table(table: Element) -> bool:
    """A table of several columns without headings or tables inside; others only lay out the page."""
    return table.tags.isdisjoint(("table", *_HEADINGS)) and any(
        sum(1 for _ in _cells(row)) > 1 for row in _rows(table)
    )


def _rows(table: Element) -> Iterator[Element]:
    for child in _elements(table):
        if child.tag == "tr":
            yield child
        elif child.tag in ("thead", "tbody", "tfoot"):
            for row in _elements(child):
                if row.tag == "tr":
                    row.heading_row = child.tag == "thead"
                    yield row


def _cells(row: Element) -> Iterator[Element]:
    return (cell for cell in _elements(row) if cell.tag in ("td", "th"))


def _grid(table: Element) -> list[tuple[list[str], bool]]:
    """Return each row's cells (a cell over several rows is told in each) and whether it is a header."""
    rows: list[tuple[list[str], bool]] = []
    hanging: dict[int, tuple[int, str]] = {}
    for row in _rows(table):
        cells: list[str] = []
        found = list(_cells(row))
        for cell in found:
            _hang(hanging, cells)
            told = _one_line(cell)
            if cell.rowspan > 1:
                hanging[len(cells)] = (cell.rowspan - 1, told)
            cells.append(told)
        _hang(hanging, cells)
        if any(cells):
            is_header = row.heading_row or (bool(found) and all(cell.tag == "th" for cell in found))
            rows.append((cells, is_header))
    return rows


def _hang(hanging: dict[int, tuple[int, str]], cells: list[str]) -> None:
    """Put the cells of rows above that reach down to here."""
    while (above := hanging.pop(len(cells), None)) is not None:
        left, told = above
        if left > 1:
            hanging[len(cells)] = (left - 1, told)
        cells.append(told)
