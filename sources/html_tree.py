"""A small tree of a web page with the sizes that tell content from boilerplate.

The only importer of selectolax. Nothing here recurses; nesting and attributes are limited before the
page is parsed, since the parser's own time grows with their square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from memory.errors import InvalidInputError
from sources.writer import names

MAX_DEPTH = 5000
MAX_ATTRIBUTE_WORDS = 5000

_NEVER_TEXT = names("script style template noscript head svg iframe")
_FURNITURE = names("nav footer aside button select input textarea dialog canvas object audio video map")
_FURNITURE_ROLES = names(
    "navigation banner contentinfo complementary search dialog alertdialog menu menubar toolbar"
)
_FURNITURE_WORDS = names(
    "cookie cookies consent gdpr breadcrumb breadcrumbs navbar navbox sidebar pagination noprint sharing",
    "newsletter advert advertisement ads promo popup modal",
    "catlinks editsection printfooter skiplink backlink",
)
_PRECIOUS = names("html body main article h1 h2 h3 h4 h5 h6 pre")
_STRUCTURE = names("table h1 h2 h3 h4 h5 h6")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+|[A-Z][a-z]*")
_CLOSED_BY_THE_NEXT = names(
    "p li dt dd tr td th thead tbody tfoot colgroup option optgroup rt rp body html head",
    "area base br col embed hr img input link meta source track wbr",
)
_SCANNED = re.compile(
    r"<!--(?:.*?-->|.*)|<(?P<raw>script|style|textarea|title)\b(?:.*?</(?P=raw)|.*)"
    r"|<(?P<close>/?)(?P<tag>[a-z][^\s/>]*)(?P<attributes>(?:=\s*\"[^\"]*\"|=\s*'[^']*'|[^>])*+)",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(slots=True, eq=False)
class Element:
    """An element that may hold content, with its text in its place among the children.

    Sizes are in characters; ``tags`` are the tables and headings somewhere below.
    """

    tag: str
    colspan: int = 1
    rowspan: int = 1
    heading_row: bool = False
    children: list[Element | str] = field(default_factory=list)
    text_size: int = 0
    link_size: int = 0
    links: int = 0
    tags: set[str] = field(default_factory=set)
    main: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page's body, its elements (parents before children) and its titles."""

    body: Element
    elements: list[Element]
    title: str | None
    first_heading: str | None


def parse_page(source: str, *, keep_furniture: bool = False) -> Page:
    """Return the tree of ``source`` without scripts, hidden parts and (unless kept) page furniture."""
    _check_limits(source)
    parser = LexborHTMLParser(source)
    title = parser.css_first("head > title")
    heading = parser.css_first("h1")
    holders = _Holders(*(_around(parser, selector) for selector in ("h1", "h1, main", "h2, h3, h4")))
    body = Element("body")
    elements = [body]
    stack: list[tuple[LexborNode, Element]] = [(parser.body, body)] if parser.body is not None else []
    while stack:
        node, element = stack.pop()
        child = node.child
        while child is not None:
            if child.is_text_node:
                element.children.append(child.text_content or "")
            elif child.is_element_node and not (
                _is_never_content(child) or (not keep_furniture and _is_furniture(child, holders))
            ):
                made = _element(child)
                element.children.append(made)
                elements.append(made)
                stack.append((child, made))
            child = child.next
    _measure(elements)
    return Page(body, elements, _text(title), _text(heading))


def _check_limits(source: str) -> None:
    depth = 0
    for found in _SCANNED.finditer(source):
        tag = found["tag"]
        if tag is None:
            continue
        if (
            len(found["attributes"]) > MAX_ATTRIBUTE_WORDS
            and found["attributes"].count("=") + len(found["attributes"].split()) > 2 * MAX_ATTRIBUTE_WORDS
        ):
            raise InvalidInputError(f"an HTML element with more than {MAX_ATTRIBUTE_WORDS} attributes")
        if tag.lower() not in _CLOSED_BY_THE_NEXT:
            depth = max(0, depth - 1) if found["close"] else depth + 1
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"HTML nested deeper than {MAX_DEPTH} levels")


@dataclass(frozen=True, slots=True)
class _Holders:
    """The nodes (by address) that hold a page's title, its main content, or lesser headings."""

    title: set[int]
    main: set[int]
    headings: set[int]


def _around(parser: LexborHTMLParser, selector: str) -> set[int]:
    """Return the addresses of all nodes around those selected."""
    around: set[int] = set()
    for found in parser.css(selector):
        node = found.parent
        while node is not None and node.mem_id not in around:
            around.add(node.mem_id)
            node = node.parent
    return around


def _is_never_content(node: LexborNode) -> bool:
    if node.tag in _NEVER_TEXT:
        return True
    attributes = node.attributes
    return "hidden" in attributes or _HIDDEN_STYLE.search(attributes.get("style") or "") is not None


def _is_furniture(node: LexborNode, holders: _Holders) -> bool:
    tag = node.tag or ""
    attributes = node.attributes
    if tag in _FURNITURE or attributes.get("aria-hidden") == "true":
        return True
    if tag == "header":
        return node.mem_id not in holders.title
    if tag == "sup":
        return "reference" in (attributes.get("class") or "")
    if tag in _PRECIOUS or node.mem_id in holders.main:
        return False
    if (attributes.get("role") or "").lower() in _FURNITURE_ROLES or _has_furniture_word(
        attributes.get("class")
    ):
        return True
    # ids are also anchors of sections ("cookies" in a manual), so an id alone says little
    return _has_furniture_word(attributes.get("id")) and node.mem_id not in holders.headings


def _has_furniture_word(value: str | None) -> bool:
    return value is not None and not _FURNITURE_WORDS.isdisjoint(
        word.lower() for word in _WORD.findall(value)
    )


def _element(node: LexborNode) -> Element:
    tag = node.tag or ""
    attributes = node.attributes
    element = Element(tag, main=tag == "main" or attributes.get("role") == "main")
    if tag in ("td", "th"):
        element.colspan = _span(attributes.get("colspan"))
        element.rowspan = _span(attributes.get("rowspan"))
    return element


def _span(value: str | None) -> int:
    return min(100, max(1, int(value))) if value is not None and value.isascii() and value.isdigit() else 1


def _measure(elements: list[Element]) -> None:
    """Set the sizes of text and links and the tags below, children before parents."""
    for element in reversed(elements):
        for child in element.children:
            if isinstance(child, str):
                element.text_size += len(child.strip())
                continue
            element.text_size += child.text_size
            element.link_size += child.link_size
            element.links += child.links
            element.tags |= child.tags
            if child.tag in _STRUCTURE:
                element.tags.add(child.tag)
        if element.tag == "a":
            element.link_size, element.links = element.text_size, 1


def _text(node: LexborNode | None) -> str | None:
    return " ".join(node.text(deep=True).split()) or None if node is not None else None


def contents_links(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield level (1 the outermost), address and label of the links in a book's table of contents.

    ``source`` is an EPUB navigation page; the list is the ``nav`` of type ``toc``, or else its first.
    """
    _check_limits(source)
    parser = LexborHTMLParser(source)
    found = parser.css("nav")
    typed = [nav for nav in found if "toc" in (nav.attributes.get("epub:type") or "").split()]
    for nav in (typed or found)[:1]:
        for link in nav.css("a"):
            level = 0
            node = link.parent
            while node is not None and node.mem_id != nav.mem_id:
                level += node.tag == "ol"
                node = node.parent
            yield max(1, level), link.attributes.get("href") or "", _text(link) or ""
