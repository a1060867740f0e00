"""Lines of text found in a picture become paragraphs in reading order. Nothing here reads a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memory.values import TextLine

LINE_GAP = 0.9
"""Lines further below one another than so many of their heights are of different paragraphs."""
LINE_OVERLAP = 0.3
"""Lines that share less of the narrower one's width are of different columns."""
ROW_OVERLAP = 0.5
"""Paragraphs that begin within so much of a line's height stand beside each other."""


def order_lines(lines: Iterable[TextLine]) -> list[list[TextLine]]:
    """Return the paragraphs of a picture from the top to the bottom; of those side by side the left first."""
    paragraphs: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: (line.top, line.left)):
        above = [each for each in paragraphs if _follows(each[-1], line)]
        if above:
            max(above, key=lambda each: each[-1].bottom).append(line)
        else:
            paragraphs.append([line])
    ordered: list[list[TextLine]] = []
    while paragraphs:
        first = min(paragraphs, key=lambda each: (each[0].top, each[0].left))
        reach = first[0].top + ROW_OVERLAP * (first[0].bottom - first[0].top)
        beside = [each for each in paragraphs if each[0].top <= reach]
        chosen = min(beside, key=lambda each: each[0].left)
        paragraphs.remove(chosen)
        ordered.append(chosen)
    return ordered


def paragraph_text(lines: Sequence[TextLine]) -> str:
    """Return the lines of a paragraph as text; what a hyphen parts at the end of a line stays as it is."""
    return "\n".join(" ".join(line.text.split()) for line in lines)


def _follows(above: TextLine, line: TextLine) -> bool:
    lower = min(above.bottom - above.top, line.bottom - line.top)
    higher = max(above.bottom - above.top, line.bottom - line.top)
    shared = min(above.right, line.right) - max(above.left, line.left)
    narrower = min(above.right - above.left, line.right - line.left)
    gap = line.top - above.bottom
    return -0.5 * lower < gap < LINE_GAP * lower and shared > LINE_OVERLAP * narrower and higher < 1.6 * lower
