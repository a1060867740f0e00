"""Cut text into sentences, with offsets and without a model.

Rules only, so the same text always gives the same spans: lines are first joined
into blocks (a hard-wrapped paragraph is one block; a bullet, a table row, a
heading or a chat turn starts its own), then each block is cut at its sentence marks.
Nothing here knows what the sentences are used for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WRAPPED_LINE_WIDTH = 45
"""A line at least this wide (wide characters count twice) may go on in the next line."""

_LINE = re.compile(r"[^\n\r\f\v\x85\u2028\u2029]+")
_MARKER = re.compile(r"[ \t>]*(?:#{1,6}[ \t]+|[-*+•‣◦▪●○·–—][ \t]+(?:\[[ xX]\][ \t]+)?)?")
_STARTS_BLOCK = re.compile(
    r"\s*(?:#{1,6}\s|[-*+•‣◦▪●○·–—]\s|>|\||```|~~~|\(?\d{1,3}[.)]\s|\(?[a-zA-Z][)]\s|\[\d+\]\s)"
)
_TURN = re.compile(r"\s*[^\W\d_][\w.'’() \-]{0,40}[:：](?:\s|$)")
_STANDS_ALONE = re.compile(r"\s*(?:#{1,6}\s|\||```|~~~|[=\-*_~`|+: \t]+$)")
_CLOSED = re.compile(r"[\u0f0d\u104b\u17d4\u17d5.!?…:;。！？｡।॥؟۔։።：；][\"')\]}”’»›」』）】》]*\s*$")

_WIDE = "[\u2e80-\u2fdf\u3005-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_CLOSERS = r"[\"')\]}”’»›」』）】》*_]*+"
_MARK = re.compile(
    rf"(?P<wide>[\u0f0d\u104b\u17d4\u17d5。！？｡।॥۔։።]+{_CLOSERS})(?!と)"
    rf"|(?P<narrow>[.!?…؟]+{_CLOSERS}(?:\[[\w ,]{{1,12}}\])*)(?=\s|$)"
    rf"|(?P<between>(?<={_WIDE})[!?]+{_CLOSERS})(?={_WIDE})"
)
_SPACE_IN_THAI = re.compile(r"(?<=[\u0e00-\u0eff])[ \t]+(?=[\u0e00-\u0eff])")
"""Thai and Lao have no sentence marks: a space stands between sentences, and between clauses."""
MIN_THAI_SENTENCE = 60
"""Characters (marks above and below counted) after which a space in Thai or Lao ends a sentence."""
_WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘«/]+$")
_OPENERS = "\"'([{“‘«‹¿¡*_„"
_BARE_NUMBER = re.compile(r"\(?\d{1,3}$|\(?[ivxIVX]{1,5}$")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEVER_LAST = _words(
    """
    mr mrs ms dr prof st mt sen rep gov gen col capt lt sgt cmdr adm rev hon pres messrs mme mlle
    fig figs eq eqs sec secs ch chap no nos nr vol vols ed eds pp p para art cf vs v viz e.g i.e eg
    ie ca approx resp incl excl dept univ assn bros z.b d.h u.a v.a bzw vgl evtl ggf inkl hr fr str
    s.o s.u p.ej sr sra dra ud av op cit ibid trans ref refs tab abb m.w
    """
)
"""Abbreviations (without the last full stop) after which the sentence goes on."""

MAYBE_LAST = _words(
    """
    etc inc ltd co corp jr esq al u.s u.k u.n e.u a.m p.m am pm ph.d m.d b.a m.a b.c a.d d.c usw usf
    est min max jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri
    sat sun ave blvd rd hwy
    """
)
"""Abbreviations that end a sentence only where a usual first word follows."""

FIRST_WORDS = _words(
    """
    a an the this that these those it its he she they we you i his her their our your my there here
    in on at by for from with after before when while where if as since because although though
    however but and or so then thus therefore also another some many most all each both no not what
    who why how which to under during meanwhile finally first second third one two der die das ein
    eine er sie es wir ich im am und aber le la les un une il elle ils nous je el los las una en
    """
)
"""Words that, with a capital, usually begin a sentence; used after initials and abbreviations."""

MONTHS = _words(
    """
    january february march april may june july august september october november december januar
    februar märz mai juni juli oktober dezember jan feb mär apr jun jul aug sep okt nov dez tag
    jahrhundert
    """
)
"""Words before which a number with a full stop is an ordinal (3. Oktober)."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the sentences of ``text`` as half-open spans of code points, in order, not overlapping.

    Each span is stripped and holds a letter or a digit; every letter and digit of the text is in
    a span. List bullets, heading marks and quote marks at a line's start are left out of the span.
    """
    spans: list[tuple[int, int]] = []
    for block_start, block_end in block_spans(text):
        for start, end in _cut_block(text, block_start, block_end):
            stripped = _strip(text, start, end)
            if stripped is not None:
                spans.append(stripped)
    return spans


def block_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of lines that belong together: a paragraph, a list item, a row, a turn."""
    start = end = last_start = -1
    for line in _LINE.finditer(text):
        if not line.group().strip():
            continue
        adjoining = start >= 0 and text.count("\n", end, line.start()) == 1
        if not (adjoining and _goes_on(text[last_start:end], line.group())):
            if start >= 0:
                yield start, end
            start = line.start()
        last_start, end = line.span()
    if start >= 0:
        yield start, end


def _goes_on(line: str, following: str) -> bool:
    """Say whether ``following`` continues the sentence that ``line`` leaves open."""
    if _STANDS_ALONE.match(line) or _STANDS_ALONE.match(following):
        return False
    if _STARTS_BLOCK.match(following) or _TURN.match(following):
        return False
    if _CLOSED.search(line):
        return False
    first = following.lstrip()[:1]
    return first.islower() or _width(line) >= WRAPPED_LINE_WIDTH


def _width(line: str) -> int:
    return sum(2 if char >= "\u2e80" else 1 for char in line.strip())


def _cut_block(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut one block at the marks that end a sentence."""
    sentence_start = start
    for mark in _MARK.finditer(text, start, end):
        if mark["narrow"] is None or _ends_sentence(text, sentence_start, mark, end):
            yield from _cut_thai(text, sentence_start, mark.end())
            sentence_start = mark.end()
    if sentence_start < end:
        yield from _cut_thai(text, sentence_start, end)


def _cut_thai(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch of Thai or Lao at spaces, so that no part is shorter than a sentence usually is."""
    for space in _SPACE_IN_THAI.finditer(text, start, end):
        if space.start() - start >= MIN_THAI_SENTENCE <= end - space.end():
            yield start, space.start()
            start = space.end()
    yield start, end


def _ends_sentence(text: str, sentence_start: int, mark: re.Match[str], end: int) -> bool:
    following = text[mark.end() : min(end, mark.end() + 40)].lstrip().lstrip(_OPENERS)
    if not following:
        return True
    first = following[0]
    marks = mark["narrow"]
    if first.islower():
        turn = _TURN.match(text, sentence_start, mark.start())
        said = text[turn.end() if turn is not None else sentence_start : mark.start()]
        opening = said.lstrip().lstrip(_OPENERS)[:1]
        if marks[0] in "!?" and marks[-1] in "!?؟":
            return True
        if not opening.islower():
            return False
    if marks[0] != "." or marks.startswith(".."):
        return True
    found = _WORD_BEFORE.search(text, max(sentence_start, mark.start() - 40), mark.start())
    if found is None:
        return True
    before = found.group()
    next_word = re.split(r"[\s,.;:!?)]", following, maxsplit=1)[0]
    usual_start = next_word[:1].isupper() and next_word.lower() in FIRST_WORDS
    word = before.lower().rstrip(".")
    if marks == "." and _BARE_NUMBER.match(before):
        only_number = not text[sentence_start : found.start()].strip(" \t>#-*•" + _OPENERS)
        return not only_number and next_word.lower() not in MONTHS
    if word in NEVER_LAST:
        return False
    if word in MAYBE_LAST or _is_initials(before):
        return usual_start
    return True


def _is_initials(word: str) -> bool:
    """J or J.R or U.S: single letters with full stops between."""
    return all(len(part) == 1 and part.isalpha() for part in word.split("."))


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Take spaces from both ends and a list, heading or quote mark from the front."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    marker = _MARKER.match(text, start, end)
    if marker is not None:
        start = marker.end()
    piece = text[start:end]
    if not any(char.isalnum() for char in piece):
        return None
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
