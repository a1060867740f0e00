"""Captions: cues, from WebVTT and SubRip or from elsewhere, become running text that knows its times.

A cue that says who speaks is a turn. Lines that roll (each cue repeats the last line of the one before) are
told once. Captions that end no sentences, as those of many a machine, are parted by time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import unescape

from memory.errors import InvalidInputError
from memory.values import Place
from sources.decoding import decode_text
from sources.outline import Extracted, Turn
from sources.writer import Writer, one_line

PAUSE_MS = 4000
"""A silence of this length sets paragraphs apart."""
BREATH_MS = 10_000
"""Where no sentence ends, a paragraph lasts no longer, unless it is one cue."""
MARKED_SHARE = 0.1
"""Of the cues that end a sentence: in captions with fewer, what ends none need not go on."""

_TIMES = re.compile(
    r"\s*(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})\s*-->\s*(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
)
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^<>\n]{0,300})>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|</?\d\d?:[\d:.]+>|<\d[\d:.]*>|\{\\[^{}]*\}")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown or said from ``start_ms`` to ``end_ms``; ``key`` names it, by its number for one."""

    start_ms: int
    end_ms: int
    text: str
    speaker: str | None = None
    key: str = ""


def extract_captions(body: bytes, charset: str | None) -> Extracted:
    """Return the cues' text with ``Place`` of kind time, in milliseconds.

    Raises ``InvalidInputError`` when there is no cue with its times.
    """
    text, warnings = decode_text(body, charset)
    cues = _list_cues(text)
    return extract_cues(cues, warnings, _title(text))


def extract_json_cues(body: bytes, charset: str | None) -> Extracted:
    """Return the text of a JSON array of cues {start_ms, end_ms, text, speaker?}, which is UTF-8.

    Raises ``InvalidInputError`` when it is no such array.
    """
    return extract_cues(read_json_cues(body))


def read_json_cues(body: bytes) -> list[Cue]:
    """Return the cues of a JSON array in the order of their times, as ``extract_json_cues`` takes it."""
    try:
        cues = [
            Cue(
                int(cue["start_ms"]),
                int(cue["end_ms"]),
                str(cue["text"]),
                _name(cue.get("speaker")),
                str(number),
            )
            for number, cue in enumerate(json.loads(body), start=1)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError("this is no list of cues with start_ms, end_ms and text") from error
    return sorted(cues, key=lambda cue: (cue.start_ms, cue.end_ms))


def dump_json_cues(cues: Iterable[Cue]) -> bytes:
    """Return cues as ``read_json_cues`` reads them."""
    told = [
        {"start_ms": cue.start_ms, "end_ms": cue.end_ms, "text": cue.text, "speaker": cue.speaker}
        for cue in cues
    ]
    return json.dumps(told, ensure_ascii=False).encode()


def _name(told: object) -> str | None:
    return None if told is None else str(told)


def cut_captions(body: bytes, charset: str | None, spans: Sequence[tuple[int, int]]) -> list[Cue]:
    """Return the cues of captions that touch none of these spans of milliseconds, half-open.

    Raises what ``extract_captions`` does.
    """
    text, _ = decode_text(body, charset)
    return [cue for cue in _list_cues(text) if not touches(cue.start_ms, cue.end_ms, spans)]


def touches(start_ms: int, end_ms: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Say whether a cue is shown in one of these spans; one without a length is, at its moment."""
    return any(start_ms < until and max(end_ms, start_ms + 1) > since for since, until in spans)


def extract_cues(cues: Iterable[Cue], warnings: Sequence[str] = (), title: str | None = None) -> Extracted:
    """Return the text of cues, which are in the order of their times."""
    writer = Writer(warnings)
    last: Cue | None = None
    begun_ms = 0
    shown = list(_without_rolling(cues))
    marked = sum(_SENTENCE_END.search(cue.text) is not None for cue in shown)
    is_marked = marked >= MARKED_SHARE * len(shown)
    for cue in shown:
        place = Place("time", cue.start_ms, max(cue.start_ms, cue.end_ms))
        same = last is not None and cue.speaker == last.speaker
        paused = last is None or not same or cue.start_ms - last.end_ms >= PAUSE_MS
        ended = last is None or _SENTENCE_END.search(last.text) is not None
        parted = paused or not (ended or is_marked or cue.end_ms - begun_ms <= BREATH_MS)
        joint = "\n\n" if parted else "\n" if ended else " "
        if parted or ended:
            begun_ms = cue.start_ms
        if cue.speaker is None:
            writer.add(cue.text, place=place, joint=joint)
        else:
            told = cue.text if same and not paused else f"{cue.speaker}: {cue.text}"
            writer.add(told, "turn", place=place, turn=Turn(cue.key, cue.speaker), joint=joint)
        last = cue
    return writer.finish(title)


def _title(text: str) -> str | None:
    """Return what stands beside the signature of a WebVTT file, as in ``WEBVTT - Opening talk``."""
    first = text.split("\n", 1)[0]
    return first[6:].strip(" \t-–:") or None if first.startswith("WEBVTT") else None


def _list_cues(text: str) -> list[Cue]:
    cues = list(iter_cues(text))
    if not cues:
        raise InvalidInputError(
            "there are no captions in it: no line of times such as 00:01.000 --> 00:04.000"
        )
    return cues


def iter_cues(text: str) -> Iterator[Cue]:
    """Yield the cues; notes, styles and regions have no times and fall away."""
    lines = text.split("\n")
    index = count = 0
    while index < len(lines):
        times = _TIMES.match(lines[index]) if "-->" in lines[index] else None
        if times is None:
            index += 1
            continue
        name = lines[index - 1].strip() if index else ""
        told: list[str] = []
        index += 1
        while index < len(lines) and lines[index].strip() and "-->" not in lines[index]:
            told.append(lines[index])
            index += 1
        if index < len(lines) and "-->" in lines[index] and told and told[-1].strip().isdigit():
            told.pop()  # the number of the next cue, with no blank line before it
        count += 1
        start, end = _milliseconds(times.groups()[:4]), _milliseconds(times.groups()[4:])
        yield from split_voices(name[:100] or str(count), start, end, "\n".join(told))


def split_voices(key: str, start_ms: int, end_ms: int, told: str) -> Iterator[Cue]:
    """Yield a cue for each speaker that the tags in ``told`` name; other tags fall away."""
    pieces = _VOICE.split(told)
    speakers = [None, *(one_line(unescape(name)) or None for name in pieces[1::2])]
    for speaker, piece in zip(speakers, pieces[::2], strict=True):
        lines = (one_line(unescape(_TAG.sub("", line))) for line in piece.split("\n"))
        text = "\n".join(filter(None, lines))
        if text:
            yield Cue(start_ms, end_ms, text, speaker, key)


def _without_rolling(cues: Iterable[Cue]) -> Iterator[Cue]:
    """Leave out lines that the cue before has just shown, and join each cue's lines."""
    shown: list[str] = []
    for cue in cues:
        lines = cue.text.split("\n")
        fresh = lines
        for count in range(min(len(lines), len(shown)), 0, -1):
            if shown[-count:] == lines[:count]:
                fresh = lines[count:]
                break
        shown = lines
        dashed = len(fresh) > 1 and all(line.startswith(("-", "–")) for line in fresh)
        text = ("\n" if dashed else " ").join(fresh)
        if text:
            yield replace(cue, text=text)


def _milliseconds(parts: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, "0"))
