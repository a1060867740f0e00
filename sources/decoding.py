"""Bytes to clean text: character sets, newlines, and what does not belong into text.

UTF-8 and UTF-16 (by byte order mark) are read as such; anything else falls back with a warning.
Nothing here knows what the text is about.
"""

from __future__ import annotations

import codecs
import re

from memory.errors import InvalidInputError

MAX_CONTROL_SHARE = 0.1
"""More control characters than this among all characters is not text."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAGIC = (
    b"%PDF-",
    b"PK\x03\x04",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"\x7fELF",
    b"\x1f\x8b",
    b"Rar!",
    b"7z\xbc",
)
_NEWLINES = re.compile("\r\n?|[\v\f]")
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_INVALID = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_TEXT_CHARSET = re.compile(
    r"ascii|utf-(8|16|32)(-[lb]e)?|cp(125\d|866|874|932|949|950)|iso8859-\d+|koi8-[ru]|mac-roman"
    r"|shift_jis|euc_(jp|kr)|iso2022_jp|gb2312|gbk|gb18030|big5"
)
"""Character sets a body may declare, by Python's names; other codecs of Python are not for text."""


def decode_text(body: bytes, charset: str | None = None) -> tuple[str, list[str]]:
    """Return the text of ``body`` (newlines as line feeds, no NUL, no lone surrogate) and warnings.

    ``charset`` is what the sender declared; a byte order mark overrules it. Raises
    ``InvalidInputError`` for bytes that are not text.
    """
    text, warnings = _decode(body, charset)
    if text and len(_CONTROL.findall(text)) > MAX_CONTROL_SHARE * len(text):
        raise InvalidInputError("the bytes are not text; send the file with its own media type")
    return clean_text(text), warnings


def clean_text(text: str) -> str:
    """Return ``text`` with line feeds as its only newlines and without unwanted characters."""
    return _UNWANTED.sub("", _NEWLINES.sub("\n", text))


def valid_text(text: str) -> str:
    """Return ``text`` with U+FFFD for what UTF-8 or a database cannot hold: lone surrogates and NUL.

    One character stands for one, so that spans stay true.
    """
    if text.isascii() and "\x00" not in text:
        return text
    return _INVALID.sub("\ufffd", text)


def _decode(body: bytes, charset: str | None) -> tuple[str, list[str]]:
    for mark, marked in _MARKS:
        if body.startswith(mark):
            text = body[len(mark) :].decode(marked, errors="replace")
            return text, _damage(text, marked)
    if body.startswith(_MAGIC):
        raise InvalidInputError("the bytes are a binary file, not text; send it with its own media type")
    declared = _known_charset(charset)
    for encoding in (declared, "utf-8"):
        if encoding is not None:
            try:
                return body.decode(encoding), []
            except UnicodeDecodeError:
                continue
    return _fall_back(body)


def _known_charset(charset: str | None) -> str | None:
    if charset is None:
        return None
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
    except (LookupError, ValueError):
        return None
    if name == "iso8859-1":  # what declares Latin-1 is Windows-1252 in practice
        return "cp1252"
    return name if _TEXT_CHARSET.fullmatch(name) else None


def _fall_back(body: bytes) -> tuple[str, list[str]]:
    """Mostly valid UTF-8 keeps its good parts; otherwise one byte is one character (Windows-1252)."""
    if b"\x00" in body:
        raise InvalidInputError("the bytes are neither UTF-8 nor UTF-16 text; convert the text to UTF-8")
    text = body.decode("utf-8", errors="replace")
    replaced = text.count("\ufffd")
    if 4 * replaced <= sum(1 for char in text if char > "\x7f"):
        return text, _damage(text, "UTF-8")
    try:
        return body.decode("cp1252"), ["the text is not UTF-8; it was read as Windows-1252"]
    except UnicodeDecodeError:
        return body.decode("latin-1"), ["the text is not UTF-8; it was read as Latin-1"]


def _damage(text: str, encoding: str) -> list[str]:
    replaced = text.count("\ufffd")
    return [f"{replaced} damaged characters were replaced while reading {encoding}"] if replaced else []
