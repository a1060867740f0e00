"""Pack evidence for a reader: the most probable passages that fit, neighbours joined.

Passages of one source that touch are handed over as one text, so that a sentence cut by the splitter is
whole again. Nothing here knows tokens, readers or where the texts are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Order = Literal["best_first", "best_last"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage found: its span in its source's text and the probability (0..1) that it matters."""

    key: int
    source: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True, slots=True)
class Packed:
    """A stretch of one source's text made of one or more passages, best passage first in ``keys``."""

    keys: tuple[int, ...]
    source: str
    start: int
    end: int
    text: str
    probability: float


def pack(
    candidates: Sequence[Candidate],
    texts: Mapping[str, str],
    *,
    characters: int,
    per_source: int | None = None,
    gap: int = 2,
    order: Order = "best_first",
) -> list[Packed]:
    """Choose candidates (best first) while they fit into ``characters``, at most ``per_source`` of a source.

    ``texts`` gives each source's whole text. Chosen passages at most ``gap`` characters apart become one;
    it is at least as probable as its best passage, and more when several agree (one minus the product of
    the doubts). ``best_last`` puts the best next to the question that follows the evidence. A candidate too
    long for the room left is passed over, and shorter ones after it still get in.
    """
    room = characters
    taken: dict[str, int] = {}
    chosen: list[Candidate] = []
    held: set[tuple[str, int, int]] = set()
    for candidate in candidates:
        length = candidate.end - candidate.start
        span = (candidate.source, candidate.start, candidate.end)
        full = per_source is not None and taken.get(candidate.source, 0) >= per_source
        if length > room or length <= 0 or full or span in held:
            continue
        chosen.append(candidate)
        held.add(span)
        taken[candidate.source] = taken.get(candidate.source, 0) + 1
        room -= length
    packed = [_join(group, texts) for group in _touching(chosen, gap)]
    packed.sort(key=lambda item: (-item.probability, item.source, item.start))
    return packed if order == "best_first" else packed[::-1]


def _touching(chosen: Sequence[Candidate], gap: int) -> list[list[Candidate]]:
    groups: list[list[Candidate]] = []
    for candidate in sorted(chosen, key=lambda item: (item.source, item.start, item.end)):
        last = groups[-1] if groups else None
        if (
            last is not None
            and last[0].source == candidate.source
            and candidate.start - max(item.end for item in last) <= gap
        ):
            last.append(candidate)
        else:
            groups.append([candidate])
    return groups


def _join(group: Sequence[Candidate], texts: Mapping[str, str]) -> Packed:
    doubt = 1.0
    for candidate in group:
        doubt *= 1.0 - min(1.0, max(0.0, candidate.probability))
    start, end = group[0].start, max(candidate.end for candidate in group)
    best_first = sorted(group, key=lambda item: (-item.probability, item.start))
    return Packed(
        keys=tuple(candidate.key for candidate in best_first),
        source=group[0].source,
        start=start,
        end=end,
        text=texts[group[0].source][start:end],
        probability=round(1.0 - doubt, 6),
    )
