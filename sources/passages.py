"""Split extracted text into passages: the one splitter of all formats.

Text is measured in characters, wide ones (CJK) counting twice, since no tokenizer is known here.
Blocks are cut only where they are too long, then packed in reading order; a passage stays within one
section unless a section is too small to stand alone. Passages never overlap and cover all text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from memory.sentences import block_spans, sentence_spans
from memory.values import Parsed, Passage, Place, Section, Times
from sources.outline import Block, Extracted, Heading

TARGET_SIZE = 900
MAX_SIZE = 1200
TINY_SIZE = 160
"""A passage smaller than this joins a neighbour of its own or a related section."""
MAX_LABEL_CHARACTERS = 120
MAX_HEADER_CHARACTERS = 300

Span = tuple[int, int]

_WIDE = re.compile("[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003ffff]")
_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_CLAUSE_END = re.compile("[、，；：,;:」』）】》〉…—។៖·]")
_KANA_TO_KANJI = re.compile("[\u3040-\u309f](?=[\u30a0-\u30ff\u4e00-\u9fff])")
_LEADS_ON = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4\u17d2\u200d（「『【《〈([{"
"""What belongs to the character after it: vowels of Thai and Lao, Khmer's sign of stacking, brackets."""
_TRAILS = (
    "\u200d\u0e30\u0e32\u0e33\u0e45\u0e46\u0e2f\u0eb0\u0eb2\u0eb3\u0ec6ーっッゃゅょャュョぁぃぅぇぉァィゥェォ々"
    "。！？、，」』）】》〉,.!?)]}"
)
"""What belongs to the character before it: joiners, vowels of Thai and Lao, small kana, closing signs."""
JOINT_REACH = 400
"""How far back a cut looks for the end of a clause."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A block, or a part of one that was too long, with the place of that part."""

    start: int
    end: int
    block: Block
    section: int
    place: Place | None


@dataclass(slots=True)
class _Piece:
    """A passage in the making: consecutive units."""

    units: list[_Unit]

    @property
    def start(self) -> int:
        return self.units[0].start

    @property
    def end(self) -> int:
        return self.units[-1].end

    @property
    def only_heading(self) -> bool:
        return all(unit.block.kind == "heading" for unit in self.units)


def split(extracted: Extracted, *, title: str | None, occurred_at: datetime | None = None) -> Parsed:
    """Return the parsed entry. ``occurred_at`` dates a chat whose messages carry no time."""
    text = extracted.text
    sections = _sections(len(text), extracted.headings)
    units = _units(text, extracted)
    pieces = _merge_tiny(text, _pack(text, units, sections), sections)
    passages = tuple(_passage(text, piece, sections, title, occurred_at) for piece in pieces)
    return Parsed(title, text, sections, passages, extracted.warnings, _times(text, extracted.blocks))


def _times(text: str, blocks: Sequence[Block]) -> Times:
    """Return when each block is said whose place is in time."""
    told = [
        (block.start, block.end, block.place.first, block.place.last)
        for block in blocks
        if block.place is not None and block.place.kind == "time" and text[block.start : block.end].strip()
    ]
    return Times(*zip(*told, strict=True)) if told else Times()


def measure(text: str) -> int:
    """Return the size of ``text``: its characters, wide ones counted twice."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def _sections(length: int, headings: Sequence[Heading]) -> tuple[Section, ...]:
    """One section a heading, after the whole text; it ends where one of its level or above begins."""
    parents: list[int | None] = [None]
    ends = [length]
    paths: list[tuple[str, ...]] = [()]
    open_sections: list[tuple[int, int]] = [(0, 0)]
    for index, heading in enumerate(headings, start=1):
        while open_sections[-1][0] >= heading.level:
            ends[open_sections.pop()[1]] = heading.start
        parent = open_sections[-1][1]
        parents.append(parent)
        ends.append(length)
        paths.append((*paths[parent], heading.label))
        open_sections.append((heading.level, index))
    starts = [0, *(heading.start for heading in headings)]
    return tuple(map(Section, starts, ends, paths, parents))


def _units(text: str, extracted: Extracted) -> list[_Unit]:
    """Cut every block that is too long, leaving room for a heading in front."""
    starts = [heading.start for heading in extracted.headings]
    units: list[_Unit] = []
    heading_size = 0
    for block in _without_gaps(text, extracted.blocks):
        section = bisect_right(starts, block.start)
        parts = _cut(text, (block.start, block.end), block.kind, MAX_SIZE - min(heading_size, MAX_SIZE // 4))
        places = _places(text, block, parts)
        units.extend(_Unit(*part, block, section, place) for part, place in zip(parts, places, strict=True))
        heading_size = (
            heading_size + measure(text[block.start : block.end]) + 2 if block.kind == "heading" else 0
        )
    return units


def _places(text: str, block: Block, parts: Sequence[Span]) -> Iterator[Place | None]:
    """Yield each part's place: the rows or lines it holds, or else the whole block's place."""
    place = block.place
    if place is None or place.kind not in ("row", "line"):
        yield from (place for _ in parts)
        return
    position, number = block.start, place.first
    for start, end in parts:
        number += text.count("\n", position, start)
        first = min(number, place.last)
        number += text.count("\n", start, end)
        position = end
        yield Place(place.kind, first, min(number, place.last))


def _without_gaps(text: str, blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield the blocks, and what non-space text lies between them as paragraphs of its own."""
    position = 0
    place = None
    for block in (*blocks, Block(len(text), len(text))):
        if text[position : block.start].strip():
            yield Block(position, block.start, place=place)
        if text[block.start : block.end].strip():
            yield block
        position, place = block.end, block.place


def _cut(text: str, span: Span, kind: str, limit: int) -> list[Span]:
    """Return stripped parts of at most ``limit``, cut at the coarsest joint that does."""
    ladder: tuple[Callable[[str], list[Span]], ...] = (_by_paragraphs, _by_sentences)
    if kind in ("list", "table", "code"):
        ladder = (_by_items, _by_lines, _by_sentences) if kind == "list" else (_by_lines, _by_sentences)
    parts = [span]
    for joints in ladder:
        parts = [
            (start + a, start + b)
            for start, end in parts
            for a, b in (joints(text[start:end]) if measure(text[start:end]) > limit else [(0, end - start)])
        ]
    return [cut for part in parts for cut in _by_size(text, _strip(text, part), limit) if cut[0] < cut[1]]


def _by_items(text: str) -> list[Span]:
    found = list(_ITEM.finditer(text))
    if not found:
        return [(0, len(text))]
    outermost = min(len(match.group()) - len(match.group().lstrip()) for match in found)
    starts = [m.start() for m in found if len(m.group()) - len(m.group().lstrip()) == outermost]
    return _between(starts, len(text))


def _by_lines(text: str) -> list[Span]:
    return _between([match.end() for match in re.finditer("\n", text)], len(text))


def _by_paragraphs(text: str) -> list[Span]:
    return _between([start for start, _ in block_spans(text)], len(text))


def _by_sentences(text: str) -> list[Span]:
    return _between([start for start, _ in sentence_spans(text)], len(text))


def _between(starts: Sequence[int], length: int) -> list[Span]:
    return list(pairwise(sorted({0, *starts, length})))


def _by_size(text: str, span: Span, limit: int) -> Iterator[Span]:
    """Cut at the last space before the limit, or where no character is torn from its marks."""
    start, end = span
    while measure(text[start : min(end, start + limit + 1)]) > limit:
        cut = start + limit
        while (over := measure(text[start:cut]) - limit) > 0:
            cut -= (over + 1) // 2
        yield _strip(text, (start, cut := _joint(text, start, cut, start + limit // 4)))
        start, end = _strip(text, (cut, end))
    yield start, end


def _joint(text: str, start: int, cut: int, floor: int) -> int:
    """Return the last good place to cut above ``floor``, at or before ``cut``.

    A space is best, then the end of a clause, then where Japanese goes from kana to kanji; failing these,
    no sign is torn from the marks above, below or beside it.
    """
    space = max(text.rfind(" ", start, cut), text.rfind("\n", start, cut))
    if space > floor:
        return space
    for joint in (_CLAUSE_END, _KANA_TO_KANJI):
        ends = [found.end() for found in joint.finditer(text, max(floor, cut - JOINT_REACH), cut)]
        if ends:
            return ends[-1]
    lowest = max(start + 1, cut - 16)
    while cut > lowest and (_depends(text[cut]) or text[cut - 1] in _LEADS_ON):
        cut -= 1
    return cut


def _depends(char: str) -> bool:
    """Say whether a character cannot begin a line: marks, joiners, and vowels that follow their consonant."""
    return unicodedata.category(char)[0] == "M" or char in _TRAILS


def _strip(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _pack(text: str, units: Sequence[_Unit], sections: Sequence[Section]) -> list[_Piece]:
    """Join units in reading order up to the target size, section by section and page by page."""
    pieces: list[_Piece] = []
    for unit in units:
        if pieces and _joins(text, pieces[-1], unit, sections):
            pieces[-1].units.append(unit)
        elif pieces and _announces(text, pieces[-1], unit):
            pieces.append(_Piece([pieces[-1].units.pop(), unit]))
        else:
            pieces.append(_Piece([unit]))
    return pieces


def _announces(text: str, piece: _Piece, unit: _Unit) -> bool:
    """Say whether the piece ends with a line such as "You need:" that belongs to the unit after it."""
    last = piece.units[-1]
    return (
        len(piece.units) > 1
        and piece.units[-2].block.kind != "heading"
        and last.section == unit.section
        and last.end - last.start < TINY_SIZE
        and text[last.end - 1] in ":："
        and measure(text[last.start : unit.end]) <= MAX_SIZE
    )


def _joins(text: str, piece: _Piece, unit: _Unit, sections: Sequence[Section]) -> bool:
    size = measure(text[piece.start : unit.end])
    last = piece.units[-1]
    if size > MAX_SIZE or last.block.apart or unit.block.apart:
        return False
    if unit.section != last.section:
        return piece.only_heading and _common(sections, last.section, unit.section) == last.section
    if piece.only_heading or measure(text[piece.start : piece.end]) < TINY_SIZE:
        return True
    return size <= TARGET_SIZE and _on_one_leaf(last.place, unit.place)


def _merge_tiny(text: str, pieces: list[_Piece], sections: Sequence[Section]) -> list[_Piece]:
    """Let a tiny piece join the one after it, or else the one before it, where they are related."""
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and _may_merge(text, merged[-1], piece, sections):
            merged[-1].units.extend(piece.units)
        else:
            merged.append(piece)
    return merged


def _may_merge(text: str, before: _Piece, after: _Piece, sections: Sequence[Section]) -> bool:
    tiny_before = measure(text[before.start : before.end]) < TINY_SIZE
    tiny_after = measure(text[after.start : after.end]) < TINY_SIZE
    if not (tiny_before or tiny_after) or before.units[-1].block.apart or after.units[0].block.apart:
        return False
    left, right = before.units[-1].section, after.units[0].section
    if left != right and _counts_rows(before) and _counts_rows(after):
        return False  # each sheet counts its own rows
    if left == right:
        return measure(text[before.start : after.end]) <= MAX_SIZE
    opens_section = after.only_heading or (
        tiny_after and not tiny_before and left not in _path(sections, right)
    )
    if opens_section and not tiny_before:
        return False
    related = _common(sections, left, right) in (left, right, sections[right].parent)
    return related and measure(text[before.start : after.end]) <= TARGET_SIZE


def _counts_rows(piece: _Piece) -> bool:
    return any(unit.place is not None and unit.place.kind == "row" for unit in piece.units)


def _path(sections: Sequence[Section], index: int) -> list[int]:
    """Return the section and those it lies in, innermost first."""
    path = [index]
    while (parent := sections[path[-1]].parent) is not None:
        path.append(parent)
    return path


def _common(sections: Sequence[Section], left: int, right: int) -> int:
    """Return the innermost section that holds both."""
    around = set(_path(sections, left))
    return next(index for index in _path(sections, right) if index in around)


def _passage(
    text: str, piece: _Piece, sections: Sequence[Section], title: str | None, occurred_at: datetime | None
) -> Passage:
    inside = sorted({unit.section for unit in piece.units})
    section = inside[0]
    for other in inside[1:]:
        section = _common(sections, section, other)
    told = Counter[int]()
    for unit in piece.units:
        if unit.block.kind != "heading":
            told[unit.section] += unit.end - unit.start
    heading = sections[next(iter(told)) if len(told) == 1 else section].heading
    turns = [unit.block.turn for unit in piece.units if unit.block.turn is not None]
    first_at = next((turn.at for turn in turns if turn.at is not None), None)
    lines = [path_line(title, heading)]
    if turns:
        lines.append(_turns_line(dict.fromkeys(turn.speaker for turn in turns), first_at or occurred_at))
    lines.append(_table_header(text, piece))
    return Passage(
        start=piece.start,
        end=piece.end,
        section=section,
        place=_place(piece),
        heading=heading,
        messages=tuple(dict.fromkeys(turn.id for turn in turns)),
        context="\n".join(filter(None, lines)),
        occurred_at=first_at,
    )


def _on_one_leaf(before: Place | None, after: Place | None) -> bool:
    """Say whether two places lie on one page or slide; rows, lines and time run on."""
    if before is None or after is None or before.kind not in ("page", "slide"):
        return True
    return before.last == after.first


def _place(piece: _Piece) -> Place | None:
    told = [unit.place for unit in piece.units if unit.place is not None]
    if not told:
        return None
    return Place(told[0].kind, min(place.first for place in told), max(place.last for place in told))


def path_line(title: str | None, heading: tuple[str, ...]) -> str:
    """Return title and headings as the context of a passage names them."""
    labels = [_SPACE.sub(" ", label).strip() for label in ((title or ""), *heading)]
    kept = [label[:MAX_LABEL_CHARACTERS] for label in dict.fromkeys(labels) if label]
    return " > ".join(kept)


def _turns_line(speakers: dict[str, None], at: datetime | None) -> str:
    names = ", ".join(speakers)[:MAX_LABEL_CHARACTERS]
    return names if at is None else f"{at.date().isoformat()} {names}"


def _table_header(text: str, piece: _Piece) -> str:
    """Return the header row of the table that the piece goes on with, unless it holds that row."""
    headers = (unit.block.header for unit in piece.units if unit.block.header is not None)
    start, end = next(headers, (0, 0))
    return text[start:end].strip()[:MAX_HEADER_CHARACTERS] if end <= piece.start else ""
