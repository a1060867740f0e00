"""PDF with text: pages to paragraphs, rows and headings.

Running heads and page numbers are dropped, words broken over lines are joined, and a line set clearly
larger than the body is a heading. Nothing here knows pdfium; ``pdf_pages`` reads the lines.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from memory.errors import InvalidInputError
from memory.values import Place
from sources.outline import Block, BlockKind, Extracted, Heading
from sources.pdf_pages import Line, read_pdf

HEADING_SCALE = 1.12
"""A heading's line is at least this much higher than the body's."""
MAX_HEADING_CHARACTERS = 150
MAX_BOLD_HEADING_CHARACTERS = 90
MAX_HEADING_LEVELS = 4
MAX_HEADING_SHARE = 0.3
"""When more of the text than this looks like headings, sizes tell nothing."""
RUNNING_SHARE = 0.3
MIN_RUNNING_PAGES = 3
FULL_LINE = 0.82
"""A line reaching this far across its paragraph goes on in the next line."""

_NO_TEXT = "the PDF has no text in it; when letters are drawn as shapes, text recognition (OCR) can read them"
_ONLY_PICTURES = "the PDF has only pictures (a scan?); run text recognition (OCR) on it and send it again"
_BULLET = re.compile(r"(?:[\uf000-\uf0ff•‣◦▪●○∙·–—*-]|\(?\d{1,3}[.)]|\(?[a-z]\))\s+\S")
_PAGE_NUMBER = re.compile(r"(?:page\s+)?(?:\d{1,4}|[ivxlc]{1,6})(?:\s*(?:/|of)\s*\d{1,4})?", re.IGNORECASE)
_SENTENCE_END = (".", "!", "?", ":", "。", "！", "？", "؟", "”", '."')
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")


@dataclass(slots=True)
class _Part:
    """Lines that form one block."""

    kind: BlockKind
    lines: list[Line] = field(default_factory=list)


def extract_pdf(body: bytes, charset: str | None) -> Extracted:
    """Return the PDF's text with page numbers, rows of tables as lines ``| cell | cell |``, and headings.

    ``charset`` says nothing about a PDF. Raises ``InvalidInputError`` for one that is encrypted,
    damaged or without text.
    """
    read = read_pdf(body)
    lines = [line for page in _without_running_lines(read.pages) for line in page]
    if not any(char.isalnum() for line in lines for char in line.text):
        raise InvalidInputError(_ONLY_PICTURES if read.pictures else _NO_TEXT)
    levels = _heading_levels(lines)
    words = Counter(word.lower() for line in lines for word in _WORD.findall(line.text))
    pieces: list[str] = []
    blocks: list[Block] = []
    headings: list[Heading] = []
    length = 0
    for part in _parts(lines, levels):
        told = _told(part, words)
        if part.kind == "heading":
            level = levels.get(_size(part.lines[0]), MAX_HEADING_LEVELS + 1)
            headings.append(Heading(length, level, told))
        blocks.append(Block(length, length + len(told), part.kind, place=_place(part.lines)))
        pieces.append(told + "\n\n")
        length += len(told) + 2
    title = read.title if read.title and _is_title(read.title) else None
    largest = [heading.label for heading in headings if heading.level == 1]
    opening = [heading.label for heading in headings[:1] if heading.start == 0]
    title = title or next(iter(largest + opening), None)
    warnings = [*read.warnings, *_picture_warning(read.pictures)]
    return Extracted("".join(pieces).rstrip(), tuple(blocks), tuple(headings), title, tuple(warnings))


def _picture_warning(pages: Sequence[int]) -> Iterator[str]:
    """Name the pages that are pictures, as ``pages 3, 5-7``."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and runs[-1][-1] == page - 1:
            runs[-1].append(page)
        else:
            runs.append([page])
    told = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    if pages:
        what = f"page {told} is a picture" if len(pages) == 1 else f"pages {told} are pictures"
        yield f"{what}; for their text, run text recognition (OCR) on the PDF and send it again"


def _place(lines: Sequence[Line]) -> Place:
    return Place("page", lines[0].page, lines[-1].page)


def _is_title(title: str) -> bool:
    """Producers often leave a file's name, or the program's, as the title."""
    return not re.search(
        r"\.\w{2,4}$|^untitled|^microsoft word|^powerpoint presentation$|^\W*$", title, re.IGNORECASE
    )


def _without_running_lines(pages: Sequence[Sequence[Line]]) -> Iterator[list[Line]]:
    """Leave out what stands at the head or foot of many pages, and page numbers there."""
    seen = Counter(
        key for page in pages for key in {_running_key(page[index].text) for index in _edges(page)}
    )
    often = max(MIN_RUNNING_PAGES, RUNNING_SHARE * len(pages))
    for page in pages:
        edges = _edges(page)
        yield [
            line
            for index, line in enumerate(page)
            if index not in edges
            or (
                seen[_running_key(line.text)] < often
                and not (len(pages) > 1 and _PAGE_NUMBER.fullmatch(line.text))
            )
        ]


def _edges(page: Sequence[Line]) -> set[int]:
    """The first and the last two lines, in reading order and by height."""
    by_height = sorted(range(len(page)), key=lambda index: page[index].bottom)
    return {*range(len(page))[:2], *range(len(page))[-2:], *by_height[:2], *by_height[-2:]}


def _running_key(text: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+$", "#", text.lower())


def _size(line: Line) -> float:
    return round(line.height * 2) / 2


def _heading_levels(lines: Sequence[Line]) -> dict[float, int]:
    """Return the level of each size of line that is a heading's, the largest first."""
    told = Counter[float]()
    for line in lines:
        told[_size(line)] += len(line.text)
    body = max(told, key=lambda size: (told[size], size))
    large = sorted((size for size in told if size >= HEADING_SCALE * body > 0), reverse=True)
    if sum(told[size] for size in large) > MAX_HEADING_SHARE * told.total():
        return {}
    return {size: min(rank, MAX_HEADING_LEVELS) for rank, size in enumerate(large, start=1)}


def _is_heading(line: Line, levels: dict[float, int]) -> bool:
    return (
        _size(line) in levels
        and len(line.text) <= MAX_HEADING_CHARACTERS
        and sum(char.isalpha() for char in line.text) >= max(2, len(line.text) // 3)
    )


def _bold_headings(lines: Sequence[Line], levels: dict[float, int], pitch: float) -> set[int]:
    """Return the indices of bold lines set apart from the line above, unless much of the text is bold."""
    if sum(len(line.text) for line in lines if line.bold) > MAX_HEADING_SHARE * sum(
        len(line.text) for line in lines
    ):
        return set()
    found: set[int] = set()
    for index, line in enumerate(lines):
        above = lines[index - 1] if index else None
        down = above.bottom - line.bottom if above is not None and above.page == line.page else -1.0
        apart = (
            above is None
            or down < 0
            or down > 1.15 * pitch * line.height
            or above.text.endswith(_SENTENCE_END)
        )
        if (
            line.bold
            and apart
            and len(line.cells) == 1
            and len(line.text) <= MAX_BOLD_HEADING_CHARACTERS
            and not line.text.endswith((".", ",", ";", ":"))
            and not _BULLET.match(line.text)
            and sum(char.isalpha() for char in line.text) >= max(4, len(line.text) // 2)
            and index + 1 < len(lines)
            and not lines[index + 1].bold
        ):
            found.add(index)
    return found


def _parts(lines: Sequence[Line], levels: dict[float, int]) -> list[_Part]:
    """Group lines into headings, tables, lists and paragraphs."""
    pitch = _pitch(lines)
    bold = _bold_headings(lines, levels, pitch)
    parts: list[_Part] = []
    for index, line in enumerate(lines):
        kind: BlockKind = "paragraph"
        if index in bold or _is_heading(line, levels):
            kind = "heading"
        elif len(line.cells) > 1:
            kind = "table"
        elif _BULLET.match(line.text) or (
            parts and parts[-1].kind == "list" and _hangs(parts[-1], line, pitch)
        ):
            kind = "list"
        if parts and parts[-1].kind == kind and _goes_on(parts[-1], line, pitch):
            parts[-1].lines.append(line)
        else:
            parts.append(_Part(kind, [line]))
    return parts


def _hangs(part: _Part, line: Line, pitch: float) -> bool:
    """Say whether the line goes on in the list item above it."""
    last = part.lines[-1]
    item = next(
        above for above in reversed(part.lines) if _BULLET.match(above.text) or above is part.lines[0]
    )
    close = 0 < last.bottom - line.bottom <= 1.35 * pitch * max(last.height, line.height)
    return last.page == line.page and close and line.left > item.left + 0.3 * line.height


def _pitch(lines: Sequence[Line]) -> float:
    """Return the usual distance from line to line, as a multiple of the line's height."""
    steps = [
        (above.bottom - below.bottom) / above.height
        for above, below in pairwise(lines)
        if above.page == below.page
        and above.height > 0
        and 0 < above.bottom - below.bottom < 3 * above.height
    ]
    return statistics.median(steps) if steps else 1.2


def _goes_on(part: _Part, line: Line, pitch: float) -> bool:
    last = part.lines[-1]
    if part.kind == "table":
        return last.page == line.page
    if part.kind == "heading":
        close = 0 < last.bottom - line.bottom < 1.8 * line.height * max(pitch, 1.0)
        return last.page == line.page and close and _size(last) == _size(line) and len(part.lines) < 4
    down = last.bottom - line.bottom
    if part.kind == "list":
        return last.page == line.page and 0 < down <= 2.2 * pitch * max(last.height, line.height)
    if last.page != line.page or down < 0 or down > 4 * pitch * line.height:
        # a new page or column: the paragraph goes on when its sentence does
        return not last.text.endswith(_SENTENCE_END) and line.text[:1].islower()
    return down <= 1.35 * pitch * max(last.height, line.height)


def _told(part: _Part, words: Counter[str]) -> str:
    """Return the text of a block; full lines of a paragraph are joined, others stay lines."""
    if part.kind == "table" and len(part.lines) > 1:
        return "\n".join(f"| {' | '.join(line.cells)} |" for line in part.lines)
    left = min(line.left for line in part.lines)
    width = max(line.right for line in part.lines) - left
    told = part.lines[0].text
    for last, line in pairwise(part.lines):
        full = last.right - left >= FULL_LINE * width or last.page != line.page or line.text[:1].islower()
        if part.kind == "list":
            full = _BULLET.match(line.text) is None
        space = " " if full or part.kind == "heading" else "\n"
        if space == " " and not last.spaced and last.text[-1] >= "\u2e80" and line.text[0] >= "\u2e80":
            space = ""  # scripts that are written without spaces, or break lines within words
        told = _join(told, line.text, space, words)
    return told.replace("\xad", "")


def _join(told: str, following: str, space: str, words: Counter[str]) -> str:
    """Join two lines; a word broken at the end of the first is mended."""
    if told.endswith(("\xad", "-", "‐")):
        first, second = _LAST_WORD.search(told[:-1]), _FIRST_WORD.match(following)
        if first is not None and second is not None and second.group()[0].islower():
            whole = f"{first.group()}{second.group()}".lower()
            compound = f"{first.group()}-{second.group()}".lower()
            return (told[:-1] + "-" if words[compound] > words[whole] else told[:-1]) + following
        if told.endswith("\xad"):
            return told[:-1] + "-" + following
    return told + space + following
