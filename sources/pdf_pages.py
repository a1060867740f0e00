"""Lines of a PDF's pages with their places: what pdfium sees, page by page.

The only importer of pypdfium2. pdfium is not safe for threads, so one lock is held while it reads.
"""

from __future__ import annotations

import ctypes
import re
import statistics
import threading
from dataclasses import dataclass
from itertools import pairwise

import pypdfium2
import pypdfium2.raw as pdfium

from memory.errors import InvalidInputError

MAX_PAGES = 5000
MAX_PAGE_CHARACTERS = 200_000
WIDE_GAP = 1.6
"""A gap wider than this many line heights sets cells apart."""

BOLD_WEIGHT = 600

_LEADER = re.compile(r"\s*(?:\.\s?){5,}\s*")
_BOLD_NAME = re.compile(rb"bold|black|heavy", re.IGNORECASE)
_LOCK = threading.Lock()
_ENCRYPTED = "the PDF is encrypted; send it again without its password"
_DAMAGED = "the PDF is damaged and cannot be opened; save or print it to PDF anew and send that"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page in points from the lower left.

    ``cells`` are its parts between wide gaps or dot leaders; ``bold`` when it begins and ends in bold type;
    ``spaced`` when it ends with a space.
    """

    text: str
    page: int
    height: float
    left: float
    right: float
    bottom: float
    bold: bool
    spaced: bool
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PdfText:
    """The lines of each page in reading order, the document's own title, and warnings.

    ``pictures`` are the numbers of the pages that show pictures and have no text.
    """

    pages: tuple[tuple[Line, ...], ...]
    pictures: tuple[int, ...]
    title: str | None
    warnings: tuple[str, ...]


def read_pdf(body: bytes) -> PdfText:
    """Return every page's lines; raises ``InvalidInputError`` for a PDF that cannot be opened."""
    with _LOCK:
        try:
            document = pypdfium2.PdfDocument(body)
        except pypdfium2.PdfiumError as error:
            encrypted = getattr(error, "err_code", None) == pdfium.FPDF_ERR_PASSWORD or "assword" in str(
                error
            )
            raise InvalidInputError(_ENCRYPTED if encrypted else _DAMAGED) from error
        try:
            return _read(document)
        finally:
            document.close()


def _read(document: pypdfium2.PdfDocument) -> PdfText:
    count = len(document)
    if count > MAX_PAGES:
        raise InvalidInputError(f"the PDF has {count} pages, more than {MAX_PAGES}; send it in parts")
    pages: list[tuple[Line, ...]] = []
    pictures: list[int] = []
    warnings: list[str] = []
    for index in range(count):
        try:
            page = document[index]
            text_page = page.get_textpage()
        except pypdfium2.PdfiumError:
            warnings.append(f"page {index + 1} is damaged and was left out")
            pages.append(())
            continue
        lines = tuple(_page_lines(text_page, index + 1, warnings))
        if not lines and _shows_picture(page):
            pictures.append(index + 1)
        pages.append(lines)
        text_page.close()
        page.close()
    title = " ".join(document.get_metadata_value("Title").replace("\x00", "").split())
    return PdfText(tuple(pages), tuple(pictures), title or None, tuple(warnings))


def _shows_picture(page: pypdfium2.PdfPage) -> bool:
    """Say whether the page draws an image; forms within it are searched to a small depth."""
    return any(True for _ in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=5))


def _page_lines(text_page: pypdfium2.PdfTextPage, page: int, warnings: list[str]) -> list[Line]:
    count = text_page.count_chars()
    if count > MAX_PAGE_CHARACTERS:
        warnings.append(f"page {page} has {count} characters; only the first {MAX_PAGE_CHARACTERS} were read")
        count = MAX_PAGE_CHARACTERS
    lines: list[Line] = []
    start = 0
    codes = [pdfium.FPDFText_GetUnicode(text_page, index) for index in range(count)]
    for index in range(count + 1):
        if index == count or codes[index] in (10, 13):
            if index > start:
                line = _line(text_page, codes, range(start, index), page)
                if line is not None:
                    lines.append(line)
            start = index + 1
    return lines


def _line(text_page: pypdfium2.PdfTextPage, codes: list[int], indices: range, page: int) -> Line | None:
    """Read one line's characters and boxes, with its cells where wide gaps part it."""
    box = pdfium.FS_RECTF()
    heights: list[float] = []
    left, right, bottom = float("inf"), float("-inf"), float("inf")
    pieces: list[str] = []
    gaps: list[int] = []
    for index in indices:
        char = _character(codes[index])
        if not char.isspace() and pdfium.FPDFText_GetLooseCharBox(text_page, index, ctypes.byref(box)):
            height = box.top - box.bottom
            if heights and box.left - right > WIDE_GAP * max(height, 1.0):
                gaps.append(len(pieces))
            if height > 0:
                heights.append(height)
            left, right, bottom = min(left, box.left), max(right, box.right), min(bottom, box.bottom)
        pieces.append(char)
    if pieces[0] == "\xad" and len(pieces) > 1 and pieces[1].isspace():
        pieces[0] = "•"  # no word is broken here: a symbol font's bullet
    bounds = [0, *gaps, len(pieces)]
    parts = [part for a, b in pairwise(bounds) for part in _LEADER.split("".join(pieces[a:b]))]
    cells = tuple(filter(None, (" ".join(part.split()) for part in parts)))
    if not cells:
        return None
    if not heights:
        left = right = bottom = 0.0
    height = statistics.median(heights) if heights else 0.0
    seen = [index for index in indices if not _character(codes[index]).isspace()]
    bold = bool(seen) and _is_bold(text_page, seen[0]) and _is_bold(text_page, seen[-1])
    spaced = pieces[-1].isspace()
    return Line(" ".join(cells), page, height, left, right, bottom, bold, spaced, cells)


def _is_bold(text_page: pypdfium2.PdfTextPage, index: int) -> bool:
    if pdfium.FPDFText_GetFontWeight(text_page, index) >= BOLD_WEIGHT:
        return True
    name = ctypes.create_string_buffer(128)
    length = pdfium.FPDFText_GetFontInfo(text_page, index, name, len(name), None)
    return 0 < length <= len(name) and _BOLD_NAME.search(name.value) is not None


def _character(code: int) -> str:
    """Return the character; the hyphen pdfium marks at a line's end becomes a soft hyphen."""
    if code in (0x02, 0xFFFE, 0xAD):
        return "\xad"
    if code < 0x20 or 0xD800 <= code <= 0xDFFF or code > 0x10FFFF or code == 0x7F:
        return " " if code in (9, 11, 12) else ""
    if 0x80 <= code < 0xA0:  # a symbol font's sign without a meaning of its own: mostly a bullet
        return "•"
    return chr(code)
