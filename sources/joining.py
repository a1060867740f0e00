"""One parsed entry out of several: what is said in a film and what is shown become sections of one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memory.values import Parsed, Passage, Section, Times
from sources.passages import path_line

_JOINT = "\n\n"


def join(parts: Sequence[tuple[str, Parsed]]) -> Parsed:
    """Return the parts one after another, each a section under its label; the title is the first told."""
    title = next((parsed.title for _, parsed in parts if parsed.title), None)
    text = _JOINT.join(parsed.text for _, parsed in parts)
    sections = [Section(0, len(text), ())]
    passages: list[Passage] = []
    columns: tuple[list[int], ...] = ([], [], [], [])
    start = 0
    for label, parsed in parts:
        base = len(sections)
        for section in parsed.sections:
            parent = 0 if section.parent is None else section.parent + base
            heading = (label, *section.heading)
            sections.append(Section(section.start + start, section.end + start, heading, parent))
        passages += (_move(passage, start, base, label, parsed.title) for passage in parsed.passages)
        times = parsed.times
        moved = ([at + start for at in times.starts], [at + start for at in times.ends])
        for column, more in zip(columns, (*moved, times.start_ms, times.end_ms), strict=True):
            column.extend(more)
        start += len(parsed.text) + len(_JOINT)
    warnings = tuple(dict.fromkeys(warning for _, parsed in parts for warning in parsed.warnings))
    return Parsed(title, text, tuple(sections), tuple(passages), warnings, Times(*map(tuple, columns)))


def _move(passage: Passage, start: int, base: int, label: str, title: str | None) -> Passage:
    """Return a passage so much later in the text, under a label."""
    heading = (label, *passage.heading)
    lines = passage.context.split("\n")
    if path_line(title, passage.heading):
        lines = lines[1:]
    return replace(
        passage,
        start=passage.start + start,
        end=passage.end + start,
        section=passage.section + base,
        heading=heading,
        context="\n".join(filter(None, (path_line(title, heading), *lines))),
    )
