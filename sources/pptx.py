"""PPTX: the slides of a presentation in order, each a section with its title, its text and its notes.

What repeats on every slide (date, footer, number) and comments are left out. Charts become tables of their
figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memory.errors import InvalidInputError
from memory.values import Place
from sources.ooxml import Package, Relation, chosen, drawing_strings, open_package, paragraph_text
from sources.outline import Extracted
from sources.writer import Writer, one_line, row_line
from sources.xml_tree import Element, attribute, child, children, descendants, local, number

MAX_SLIDES = 5000
MAX_CHART_ROWS = 2000
MAX_REPEATED_CHARACTERS = 300
"""Of a merged cell, in each row after its first."""

_TITLES = frozenset(("title", "ctrTitle"))
_FURNITURE = frozenset(("dt", "ftr", "sldNum", "hdr", "sldImg"))
_BULLETED = frozenset(("body", "obj", "half", "quarter"))
_NUMBERED = re.compile(r"\(?\d{1,3}[.)]\s")


def extract_pptx(body: bytes, charset: str | None) -> Extracted:
    """Return the slides' text, with ``Place`` of kind slide; ``charset`` says nothing here."""
    package = open_package(body, "PPTX presentation")
    presentation = package.get(package.main)
    relations = package.relations_by_id(package.main)
    listed = child(presentation, "sldIdLst")
    if listed is None and child(presentation, "sldMasterIdLst") is None:
        raise InvalidInputError("this Office file is no PPTX presentation: it lists no slides")
    writer = Writer()
    parts = [_slide_part(element, relations) for element in children(listed, "sldId")]
    if len(parts) > MAX_SLIDES:
        raise InvalidInputError(
            f"the presentation has {len(parts)} slides, more than {MAX_SLIDES}; send it in parts"
        )
    first_title = None
    for slide_number, part in enumerate(parts, start=1):
        slide = package.find(part)
        if slide is None or part is None:
            writer.warnings.append(f"slide {slide_number} is missing in the file")
            continue
        title = _Slide(package, part, slide_number, writer).read(slide)
        first_title = first_title or title
    told = package.title()
    generic = told is None or told.lower() in ("powerpoint presentation", "presentation", "untitled")
    return writer.finish(first_title if generic else told)


def _slide_part(element: Element, relations: dict[str, Relation]) -> str | None:
    # the element has an ``id`` of its own, too, in no namespace
    keys = [value for key, value in element.attrib.items() if key.startswith("{") and key.endswith("}id")]
    relation = relations.get(keys[0]) if keys else None
    return None if relation is None else relation.target


class _Slide:
    """Writes one slide."""

    def __init__(self, package: Package, part: str, slide_number: int, writer: Writer) -> None:
        self._package = package
        self._part = part
        self._number = slide_number
        self._place = Place("slide", slide_number, slide_number)
        self._writer = writer
        self._relations = package.relations_by_id(part)

    def read(self, slide: Element) -> str | None:
        """Write the slide and return its title."""
        tree = child(slide, "cSld", "spTree")
        shapes = list(_shapes(tree)) if tree is not None else []
        titles = [shape for shape in shapes if _placeholder(shape) in _TITLES]
        title = one_line(" ".join(drawing_strings(titles[0]))) if titles else ""
        notes = list(self._notes())
        before = self._writer.length
        self._writer.head(title or f"Slide {self._number}", 1, told=bool(title), place=self._place)
        for shape in shapes:
            if shape is not (titles[0] if title else None):
                self._shape(shape)
        for note in notes:
            self._writer.add(note, place=self._place)
        if self._writer.length == before and any(local(shape) == "pic" for shape in shapes):
            self._writer.warnings.append(f"slide {self._number} is a picture; its text cannot be read")
        return title or None

    def _shape(self, shape: Element) -> None:
        name = local(shape)
        kind = _placeholder(shape)
        if kind in _FURNITURE:
            return
        if name == "sp":
            body = child(shape, "txBody")
            if body is not None:
                self._text(body, bulleted=kind in _BULLETED)
        elif name == "graphicFrame":
            for table in descendants(shape, "tbl"):
                self._table(table)
            for reference in (found for found in descendants(shape, "chart") if attribute(found, "id")):
                self._chart(reference)
            for reference in descendants(shape, "relIds"):
                self._diagram(reference)

    def _text(self, body: Element, *, bulleted: bool) -> None:
        """Write paragraphs; those that follow one another as items are one list."""
        items: list[str] = []
        counts: dict[int, int] = {}
        for paragraph in children(body, "p"):
            told = "\n".join(filter(None, (one_line(line) for line in paragraph_text(paragraph).split("\n"))))
            if not told:
                continue
            properties = child(paragraph, "pPr")
            depth = min(number(attribute(properties, "lvl"), 0), 8)
            mark = _mark(properties, depth, counts, bulleted=bulleted)
            if mark == "-" and _NUMBERED.match(told):
                mark = ""
            if mark is None:
                self._writer.add("\n".join(items), "list", place=self._place)
                items.clear()
                self._writer.add(told, place=self._place)
            else:
                lead = "  " * depth + (f"{mark} " if mark else "")
                items.append(lead + told.replace("\n", "\n" + " " * len(lead)))
        self._writer.add("\n".join(items), "list", place=self._place)

    def _table(self, table: Element) -> None:
        above: dict[int, str] = {}
        lines: list[str] = []
        for row in children(table, "tr"):
            cells: list[str] = []
            for column, cell in enumerate(children(row, "tc")):
                if attribute(cell, "hMerge") in ("1", "true"):
                    continue
                told = one_line(" ".join(drawing_strings(cell)))
                if attribute(cell, "vMerge") in ("1", "true"):
                    told = above.get(column, told)[:MAX_REPEATED_CHARACTERS]
                above[column] = told
                cells.append(told)
            if any(cells):
                lines.append(row_line(cells))
        self._writer.table(lines, place=self._place)

    def _chart(self, reference: Element) -> None:
        relation = self._relations.get(attribute(reference, "id") or "")
        chart = self._package.find(relation.target) if relation is not None else None
        if chart is None:
            return
        title = child(chart, "chart", "title")
        if title is not None:
            self._writer.add(one_line(" ".join(drawing_strings(title))), place=self._place)
        self._writer.table(_chart_lines(chart), place=self._place)

    def _diagram(self, reference: Element) -> None:
        relation = self._relations.get(attribute(reference, "dm") or "")
        data = self._package.find(relation.target) if relation is not None else None
        if data is not None:
            items = [f"- {one_line(told)}" for told in drawing_strings(data)]
            self._writer.add("\n".join(items), "list", place=self._place)

    def _notes(self) -> Iterator[str]:
        part = next((found.target for found in self._relations.values() if found.kind == "notesSlide"), None)
        notes = self._package.find(part)
        tree = child(notes, "cSld", "spTree") if notes is not None else None
        for shape in _shapes(tree) if tree is not None else ():
            if _placeholder(shape) == "body":
                told = "\n".join(drawing_strings(shape)).strip()
                if told:
                    yield f"Notes: {told}"


def _shapes(tree: Element) -> Iterator[Element]:
    """Yield the shapes in order, those of groups in their place."""
    for element in tree:
        name = local(element)
        if name == "grpSp":
            yield from _shapes(element)
        elif name == "AlternateContent":
            branch = chosen(element)
            if branch is not None:
                yield from _shapes(branch)
        elif name in ("sp", "graphicFrame", "pic"):
            yield element


def _placeholder(shape: Element) -> str | None:
    """Return the kind of the placeholder that a shape fills, ``obj`` where none is told."""
    properties = next((found for found in shape if local(found).startswith("nv")), None)
    found = child(properties, "nvPr", "ph")
    return None if found is None else attribute(found, "type") or "obj"


def _mark(properties: Element | None, depth: int, counts: dict[int, int], *, bulleted: bool) -> str | None:
    """Return the mark of a paragraph in a list, ``None`` for one in no list."""
    for deeper in [level for level in counts if level > depth]:
        del counts[deeper]
    if child(properties, "buAutoNum") is not None:
        counts[depth] = counts.get(depth, 0) + 1
        return f"{counts[depth]}."
    counts.pop(depth, None)
    if child(properties, "buNone") is not None:
        return None
    explicit = child(properties, "buChar") is not None or child(properties, "buBlip") is not None
    return "-" if explicit or bulleted or depth > 0 else None


def _chart_lines(chart: Element) -> list[str]:
    """Return a chart's figures as a table: a row a category, a column a series."""
    names: list[str] = []
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in descendants(chart, "ser"):
        named = child(series, "tx")
        names.append(one_line(" ".join(_values(named).values())) if named is not None else "")
        categories = categories or _values(_first(series, "cat", "xVal"))
        columns.append(_values(_first(series, "val", "yVal")))
    count = min(MAX_CHART_ROWS, 1 + max((index for column in columns for index in column), default=-1))
    lines = [row_line(["", *names])] if any(names) else []
    for index in range(count):
        cells = [categories.get(index, str(index + 1)), *(column.get(index, "") for column in columns)]
        if any(cells[1:]):
            lines.append(row_line(cells))
    return lines


def _first(element: Element, *names: str) -> Element | None:
    return next((found for found in element if local(found) in names), None)


def _values(element: Element | None) -> dict[int, str]:
    """Return the cached points below by their index; of several levels of categories the innermost."""
    if element is None:
        return {}
    holder = next(descendants(element, "lvl"), element)
    told: dict[int, str] = {}
    for point in descendants(holder, "pt"):
        index, value = number(attribute(point, "idx"), -1), child(point, "v")
        if index >= 0 and value is not None:
            told[index] = one_line(_figure(value.text or ""))
    if not told:
        plain = child(element, "v")
        return {0: one_line(plain.text or "")} if plain is not None else {}
    return told


def _figure(text: str) -> str:
    """Round a stored figure to the digits that a spreadsheet shows."""
    try:
        return f"{float(text):.15g}" if "." in text else text
    except ValueError:
        return text
