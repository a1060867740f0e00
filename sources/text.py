"""Plain text: paragraphs are what blank lines set apart. The extracted text is the decoded body."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sources.decoding import decode_text
from sources.outline import Block, Extracted

MAX_TITLE_CHARACTERS = 120

_PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
_FIRST_LINE = re.compile(r"\s*(?P<line>\S[^\n]*)\n[ \t]*\n")
_DATED_HEAD = re.compile(
    r"\s*(?P<line>[^\W\d_]{2,20}:[ \t]*\d{4}[-/.]?\d\d[-/.]?\d\d[^\n]{0,40})\n(?=[^\W\d_][^\n:]{0,40}:[ \t])"
)
"""A line such as ``Time: 20260924_20:00`` in front of chat turns: every turn was said then."""


def extract_text(body: bytes, charset: str | None) -> Extracted:
    """Return the text with a block a paragraph, and a first line standing alone as the title.

    The dated head of a chat kept as text is its title, too, so that each passage bears the date.
    """
    text, warnings = decode_text(body, charset)
    blocks = tuple(Block(*span) for span in paragraph_blocks(text))
    return Extracted(text, blocks, title=_title(text), warnings=tuple(warnings))


def paragraph_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans that blank lines set apart."""
    return (found.span() for found in _PARAGRAPH.finditer(text))


def _title(text: str) -> str | None:
    head = _DATED_HEAD.match(text)
    if head is not None:
        return head["line"].strip()
    found = _FIRST_LINE.match(text)
    if found is None:
        return None
    line = found["line"].strip()
    return line if len(line) <= MAX_TITLE_CHARACTERS and line[-1] not in ".!?:;,。" else None
