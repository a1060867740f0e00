"""EPUB: a book's chapters in reading order, each through the HTML format, under its title in the contents.

Version 2 (NCX) and 3 (nav). Covers, pages without text and the table of contents itself are left out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from memory.errors import InvalidInputError
from sources.containers import Container, open_container
from sources.html import extract_html
from sources.html_tree import contents_links
from sources.outline import Extracted
from sources.writer import Writer, one_line
from sources.xml_tree import Element, attribute, child, children, descendants, parse_xml

MAX_CHAPTERS = 5000
MAX_CONTENTS_LEVEL = 4

_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_FONT_ALGORITHMS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def extract_epub(body: bytes, charset: str | None) -> Extracted:
    """Return the book's text; raises ``InvalidInputError`` for one that is protected or damaged."""
    container = open_container(body, "EPUB book")
    _refuse_protected(container)
    root = parse_xml(container.get("META-INF/container.xml"), "META-INF/container.xml")
    named = next((attribute(found, "full-path") for found in descendants(root, "rootfile")), None)
    if not named:
        raise InvalidInputError("this is no complete EPUB book: it does not say where its contents are")
    package = parse_xml(container.get(named), named)
    folder = posixpath.dirname(named)
    items = {
        item.get("id") or "": (_joined(folder, item.get("href") or ""), item.get("media-type") or "", item)
        for item in children(child(package, "manifest"), "item")
    }
    spine = child(package, "spine")
    chapters = [
        items[key] for found in children(spine, "itemref") if (key := found.get("idref") or "") in items
    ]
    if len(chapters) > MAX_CHAPTERS:
        raise InvalidInputError(f"the book has {len(chapters)} parts, more than {MAX_CHAPTERS}")
    navigation = next((name for name, _, item in items.values() if "nav" in _properties(item)), None)
    ncx = items.get(spine.get("toc") or "") if spine is not None else None
    contents = _contents(container, navigation, ncx[0] if ncx else None)
    writer = Writer()
    for part, media_type, _ in chapters:
        if media_type in _PAGES and part != navigation:
            _write_chapter(container, part, contents.get(part.lower()), writer)
    return writer.finish(_title(package))


def _write_chapter(container: Container, part: str, named: tuple[int, str] | None, writer: Writer) -> None:
    data = container.find(part)
    if data is None:
        writer.warnings.append(f"{posixpath.basename(part)} is missing in the book")
        return
    try:
        extracted = extract_html(data, None)
    except InvalidInputError:
        return  # a cover or another page of pictures
    if named is not None:
        level, title = named
        first = extracted.headings[0] if extracted.headings else None
        deeper = level - min((heading.level for heading in extracted.headings), default=level)
        if first is None or first.start > 0 or not _alike(first.label, title):
            writer.head(title, level, told=False)
            deeper += 1
        writer.append(extracted, deeper=deeper)
    else:
        writer.append(extracted)


def _alike(one: str, other: str) -> bool:
    first, second = (" ".join(label.lower().split()) for label in (one, other))
    return first in second or second in first


def _contents(container: Container, navigation: str | None, ncx: str | None) -> dict[str, tuple[int, str]]:
    """Return the level and title that the book's contents give each part, by its name."""
    found: dict[str, tuple[int, str]] = {}
    for level, href, label in _entries(container, navigation, ncx):
        base = posixpath.dirname((navigation or ncx) or "")
        part = _joined(base, href).lower()
        if label and part not in found:
            found[part] = (min(level, MAX_CONTENTS_LEVEL), label)
    return found


def _entries(container: Container, navigation: str | None, ncx: str | None) -> Iterator[tuple[int, str, str]]:
    if navigation is not None:
        data = container.find(navigation)
        yield from contents_links(data.decode("utf-8", "replace")) if data is not None else ()
    elif ncx is not None:
        data = container.find(ncx)
        if data is not None:
            points = child(parse_xml(data, ncx), "navMap")
            yield from _points(points, 1) if points is not None else ()


def _points(parent: Element, level: int) -> Iterator[tuple[int, str, str]]:
    for point in children(parent, "navPoint"):
        text, content = child(point, "navLabel", "text"), child(point, "content")
        yield level, attribute(content, "src") or "", one_line((text.text or "") if text is not None else "")
        yield from _points(point, level + 1)


def _properties(item: Element) -> list[str]:
    return (item.get("properties") or "").split()


def _title(package: Element) -> str | None:
    title = child(package, "metadata", "title")
    return one_line("".join(title.itertext())) or None if title is not None else None


def _refuse_protected(container: Container) -> None:
    """Fonts may be obfuscated; a book whose text is encrypted cannot be read."""
    data = container.find("META-INF/encryption.xml")
    if data is None:
        return
    root = parse_xml(data, "META-INF/encryption.xml")
    algorithms = (attribute(found, "Algorithm") for found in descendants(root, "EncryptionMethod"))
    if any(algorithm not in _FONT_ALGORITHMS for algorithm in algorithms):
        raise InvalidInputError("the book is protected (DRM); Lethe can only read books without protection")


def _joined(folder: str, href: str) -> str:
    target = unquote(href.partition("#")[0])
    return posixpath.normpath(posixpath.join(folder, target)) if target else ""
