"""SVG drawings: what is written in them, their title and descriptions. Nothing is drawn."""

from __future__ import annotations

from sources.outline import Extracted
from sources.writer import Writer, one_line
from sources.xml_tree import Element, attribute, local, parse_xml


def extract_svg(body: bytes, charset: str | None) -> Extracted:
    """Return texts, titles and descriptions in the order of the file; XML says its charset itself.

    Raises ``InvalidInputError`` for what is no XML.
    """
    root = parse_xml(body, "the SVG")
    writer = Writer()
    title: str | None = None
    for element in root.iter("{*}text", "{*}title", "{*}desc"):
        told = _told(element)
        if local(element) == "title" and element.getparent() is root:
            title = told
        else:
            writer.add(told)
    if title:
        first = Writer()
        first.add(title)
        first.append(writer.finish(None))
        writer = first
    return writer.finish(title)


def _told(element: Element) -> str:
    """Return what is written in an element; a part with a place of its own is a line of its own."""
    lines: list[str] = [element.text or ""]
    for part in element:
        told = "".join(part.itertext())
        if any(attribute(part, name) is not None for name in ("x", "y", "dy")):
            lines.append(told)
        else:
            lines[-1] += told
        lines[-1] += part.tail or ""
    return "\n".join(filter(None, map(one_line, lines)))
