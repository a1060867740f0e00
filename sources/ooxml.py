"""The package around DOCX and PPTX: parts, their relationships, and equations as one line of text.

ECMA-376. Parts are read only when asked for. Nothing here knows paragraphs or slides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from memory.errors import InvalidInputError
from sources.containers import Container, open_container
from sources.xml_tree import Element, attribute, child, children, descendants, local, namespace, parse_xml


@dataclass(frozen=True, slots=True)
class Relation:
    """A part that another refers to; ``kind`` is the last word of the relationship's type."""

    kind: str
    target: str


class Package:
    """An opened office file."""

    def __init__(self, container: Container, what: str) -> None:
        self._container = container
        self.what = what
        main = next((relation for relation in self.relations("") if relation.kind == "officeDocument"), None)
        if main is None:
            raise InvalidInputError(f"this zip file is no {what}: it does not say where its document is")
        self.main = main.target

    def get(self, part: str) -> Element:
        """Return a part's root element; raises ``InvalidInputError`` when it is missing or damaged."""
        return parse_xml(self._container.get(part), part)

    def find(self, part: str | None) -> Element | None:
        """Return a part's root element, or ``None`` when there is none."""
        data = self._container.find(part) if part else None
        return None if data is None else parse_xml(data, part or "")

    def related(self, part: str, kind: str) -> str | None:
        """Return the first part of a kind that ``part`` refers to."""
        return next((relation.target for relation in self.relations(part) if relation.kind == kind), None)

    def relations(self, part: str) -> list[Relation]:
        """Return what ``part`` refers to inside the package."""
        return list(self.relations_by_id(part).values())

    def relations_by_id(self, part: str) -> dict[str, Relation]:
        """Return what ``part`` refers to inside the package, by the id it uses."""
        folder, name = posixpath.split(part)
        where = posixpath.join(folder, "_rels", f"{name}.rels")
        data = self._container.find(where)
        if data is None:
            return {}
        found: dict[str, Relation] = {}
        for element in children(parse_xml(data, where), "Relationship"):
            key, kind = element.get("Id") or "", (element.get("Type") or "").rpartition("/")[2]
            target = unquote(element.get("Target") or "")
            if element.get("TargetMode") != "External" and target:
                joined = target if target.startswith("/") else posixpath.join("/", folder, target)
                found[key] = Relation(kind, posixpath.normpath(joined).lstrip("/"))
        return found

    def title(self) -> str | None:
        """Return the title among the document's properties."""
        properties = self.find(self.related("", "core-properties"))
        title = child(properties, "title")
        return " ".join((title.text or "").split()) or None if title is not None else None


def open_package(body: bytes, what: str) -> Package:
    """Return the opened office file; raises ``InvalidInputError`` when it is none."""
    return Package(open_container(body, what), what)


def chosen(element: Element) -> Element | None:
    """Return the branch of an ``AlternateContent`` that newer programs show."""
    first = child(element, "Choice")
    return first if first is not None else child(element, "Fallback")


def is_math(element: Element) -> bool:
    """Say whether the element belongs to an equation."""
    return namespace(element).endswith("/math")


def math_text(element: Element) -> str:
    """Return an equation as one line, such as ``(a + b)/(2c)`` and ``x^2``."""
    return " ".join(_math(element).split())


def _math(element: Element | None) -> str:
    if element is None:
        return ""
    name = local(element)
    if name == "r":
        return "".join(found.text or "" for found in children(element, "t"))
    if name.endswith("Pr") or name in ("del", "moveFrom"):
        return ""
    if name == "f":
        over, under = child(element, "num"), child(element, "den")
        if attribute(child(element, "fPr", "type"), "val") == "noBar":
            return f"({_math(over).strip()} over {_math(under).strip()})"
        return f"{_grouped(over)}/{_grouped(under)}"
    base = _math(child(element, "e"))
    if name in ("sSup", "sSub", "sSubSup", "sPre"):
        if child(element, "e", "f") is not None:
            base = f"({base.strip()})"
        sub, sup = _script("_", child(element, "sub")), _script("^", child(element, "sup"))
        return f"{base}{sub}{sup}"
    if name == "rad":
        degree = _math(child(element, "deg")).strip()
        return f"{degree}√({base})"
    if name == "nary":
        sign = attribute(child(element, "naryPr", "chr"), "val") or "∫"
        return f"{sign}{_script('_', child(element, 'sub'))}{_script('^', child(element, 'sup'))} {base}"
    if name == "d":
        start = attribute(child(element, "dPr", "begChr"), "val")
        end = attribute(child(element, "dPr", "endChr"), "val")
        inside = ", ".join(_math(part) for part in children(element, "e"))
        return f"{'(' if start is None else start}{inside}{')' if end is None else end}"
    if name == "func":
        return f"{_math(child(element, 'fName'))} {base}"
    if name in ("limLow", "limUpp"):
        return f"{base}{_script('_' if name == 'limLow' else '^', child(element, 'lim'))}"
    if name == "m":
        rows = (" ".join(_math(cell) for cell in children(row, "e")) for row in children(element, "mr"))
        return f"[{'; '.join(rows)}]"
    if name == "eqArr":
        return "; ".join(_math(part) for part in children(element, "e"))
    return "".join(_math(part) for part in element)


def _script(sign: str, element: Element | None) -> str:
    told = _math(element).strip()
    if not told:
        return ""
    return f"{sign}{told}" if len(told) == 1 or told.isalnum() else f"{sign}({told})"


def _grouped(element: Element | None) -> str:
    told = _math(element).strip()
    closed = element is not None and len(element) == 1 and local(element[0]) == "d"
    return told if closed or len(told) == 1 or told.isdigit() or told.isalpha() else f"({told})"


def drawing_strings(element: Element) -> Iterator[str]:
    """Yield the paragraphs of DrawingML (``a:p``) below, as text."""
    for paragraph in descendants(element, "p"):
        told = paragraph_text(paragraph)
        if told.strip():
            yield told


def paragraph_text(paragraph: Element) -> str:
    """Return the text of one paragraph of DrawingML; a line break is a line feed."""
    pieces: list[str] = []
    for part in paragraph:
        name = local(part)
        if name in ("r", "fld"):
            text = child(part, "t")
            pieces.append((text.text or "") if text is not None else "")
        elif name == "br":
            pieces.append("\n")
        elif name == "tab":
            pieces.append("\t")
        elif name == "AlternateContent":
            branch = chosen(part)
            pieces.extend(math_text(found) for found in (branch if branch is not None else ()))
        elif is_math(part) or any(is_math(inner) for inner in part):
            pieces.append(math_text(part))
    return "".join(pieces)
