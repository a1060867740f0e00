"""XML inside documents: parsed without entities, without a network, and only so deep.

The only importer of lxml. Elements are known by their local names, since an office format exists under
several namespaces (transitional and strict) that mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from lxml import etree

from memory.errors import InvalidInputError

MAX_XML_DEPTH = 200

Element: TypeAlias = Any
"""An element of lxml, which has no types."""

_TOO_DEEP = etree.XPath("boolean(/*" + "/*" * MAX_XML_DEPTH + ")")


def parse_xml(data: bytes, where: str) -> Element:
    """Return the root element of ``data``; ``where`` names it in errors.

    Raises ``InvalidInputError`` for XML that is malformed, declares entities, or is nested too deeply.
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.LxmlError, ValueError) as error:
        raise InvalidInputError(f"the XML is damaged: {str(error)[:200]}", where=where) from error
    if root is None:
        raise InvalidInputError("the XML is empty", where=where)
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise InvalidInputError("XML that declares entities is not read", where=where)
    if _TOO_DEEP(root):
        raise InvalidInputError(f"XML nested deeper than {MAX_XML_DEPTH} levels", where=where)
    return root


def local(element: Element) -> str:
    """Return the element's name without its namespace."""
    tag: str = element.tag
    return tag.rpartition("}")[2]


def namespace(element: Element) -> str:
    """Return the element's namespace, empty when it has none."""
    tag: str = element.tag
    return tag[1:].partition("}")[0] if tag.startswith("{") else ""


def attribute(element: Element | None, name: str) -> str | None:
    """Return the attribute of that local name, or ``None``."""
    if element is None:
        return None
    for key, value in element.attrib.items():
        if key == name or key.endswith("}" + name):
            return str(value)
    return None


def child(element: Element | None, *path: str) -> Element | None:
    """Return the first child of that local name (and so on down the path), or ``None``."""
    for name in path:
        if element is None:
            return None
        element = next((found for found in element if local(found) == name), None)
    return element


def children(element: Element | None, name: str) -> Iterator[Element]:
    """Yield the children of that local name."""
    return (found for found in (element if element is not None else ()) if local(found) == name)


def descendants(element: Element, name: str) -> Iterator[Element]:
    """Yield the elements below of that local name, in document order."""
    found: Iterator[Element] = element.iter(f"{{*}}{name}")
    return found


def number(told: str | None, default: int) -> int:
    """Return what an attribute says as a whole number, at least 0; ``default`` for anything else."""
    return int(told) if told is not None and told.isascii() and told.isdigit() and len(told) < 10 else default
