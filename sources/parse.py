"""The parser: choose the format by media type, then split what it extracts into passages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath

from memory.errors import InvalidInputError, UnsupportedMediaError
from memory.values import MESSAGES_MEDIA_TYPE, Content, Parsed
from sources.chat import extract_json, extract_json_lines, extract_messages
from sources.decoding import valid_text
from sources.html import extract_html
from sources.markdown import extract_markdown
from sources.outline import Block, Extracted
from sources.passages import split
from sources.pdf import extract_pdf
from sources.text import extract_text

UNKNOWN_MEDIA_TYPE = "application/octet-stream"

_FORMATS: dict[str, Callable[[bytes, str | None], Extracted]] = {
    "text/plain": extract_text,
    "text/markdown": extract_markdown,
    "text/x-markdown": extract_markdown,
    "text/html": extract_html,
    "application/xhtml+xml": extract_html,
    "application/pdf": extract_pdf,
    "application/json": extract_json,
    "application/jsonl": extract_json_lines,
    "application/x-ndjson": extract_json_lines,
    MESSAGES_MEDIA_TYPE: extract_messages,
}

SUPPORTED_MEDIA_TYPES = tuple(_FORMATS)

_EXTENSIONS = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".pdf": "application/pdf",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".epub": "application/epub+zip",
}
"""Extensions of what is read, and of common files that are not, so that the refusal names them."""

_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
_BINARY_STARTS = (b"PK\x03\x04", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x7fELF", b"\x1f\x8b")
_WIDE_TEXT_STARTS = (b"\xff\xfe", b"\xfe\xff")


class SourceParser:
    """Turns documents and chats into text, sections and passages. Deterministic and stateless."""

    def parse(self, content: Content) -> Parsed:
        """Return the parsed content.

        Raises ``UnsupportedMediaError`` for a media type no format takes, and ``InvalidInputError`` when
        the body cannot be read or holds no text.
        """
        media_type, charset = _media_type(content.media_type)
        extract = _FORMATS.get(media_type)
        if extract is None:
            raise UnsupportedMediaError(content.media_type, SUPPORTED_MEDIA_TYPES)
        extracted = _valid(extract(content.body, charset))
        attributes = content.attributes
        title = attributes.title or extracted.title or _stem(content.filename)
        title = None if title is None else valid_text(title)
        parsed = split(extracted, title=title, occurred_at=attributes.occurred_at)
        if not parsed.passages:
            raise InvalidInputError("there is no text in it")
        return parsed

    def close(self) -> None:
        """Do nothing: nothing is held."""


def guess_media_type(filename: str | None, head: bytes) -> str:
    """Return the media type by the file's extension, else by its first bytes (a kilobyte or more).

    Text of an unknown extension is plain text; bytes that are not text are ``application/octet-stream``.
    """
    by_extension = _EXTENSIONS.get(PurePath(filename).suffix.lower()) if filename else None
    return by_extension or _sniff(head)


def _sniff(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if start[:16].lower().startswith(_HTML_STARTS):
        return "text/html"
    if head.startswith(_BINARY_STARTS) or (b"\x00" in head and not head.startswith(_WIDE_TEXT_STARTS)):
        return UNKNOWN_MEDIA_TYPE
    if start.startswith(b"{"):
        lines = start.splitlines()
        closed = lines[0].rstrip().endswith(b"}")
        return (
            "application/jsonl"
            if closed and len(lines) > 1 and lines[1].startswith(b"{")
            else "application/json"
        )
    if start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b"]"):
        return "application/json"
    return "text/plain"


def _valid(extracted: Extracted) -> Extracted:
    """Return the same with valid Unicode in every string, whatever the format let through."""
    return replace(
        extracted,
        text=valid_text(extracted.text),
        blocks=tuple(map(_valid_block, extracted.blocks)),
        headings=tuple(replace(each, label=valid_text(each.label)) for each in extracted.headings),
        title=None if extracted.title is None else valid_text(extracted.title),
        warnings=tuple(map(valid_text, extracted.warnings)),
    )


def _valid_block(block: Block) -> Block:
    if block.turn is None:
        return block
    turn = replace(block.turn, id=valid_text(block.turn.id), speaker=valid_text(block.turn.speaker))
    return replace(block, turn=turn)


def _media_type(told: str) -> tuple[str, str | None]:
    """Return the bare media type and the charset told with it."""
    bare, *parameters = told.split(";")
    charset = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"') or None
    return bare.strip().lower(), charset


def _stem(filename: str | None) -> str | None:
    return PurePath(filename).stem or None if filename else None
