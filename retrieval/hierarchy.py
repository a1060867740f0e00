"""Inner nodes of one source: passage → section → source, as pure functions of what is there now.

A node's vector is the normalised sum of its passages' vectors. Sums are int64 over quantized vectors: they
do not depend on order, and taking a member out is exact subtraction. Nothing here knows ids' meaning, stores
or models; what lies above sources is ``retrieval.topics``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.sentences import sentence_spans
from memory.values import Parsed
from retrieval.analysis import STOP_WORDS

Sum = npt.NDArray[np.int64]
"""A sum of quantized vectors, shape (dimension,)."""

Span = tuple[int, int]

SCALE = 1 << 14
"""One in a quantized vector. Products of two quantized unit vectors are exact in double precision."""

SUMMARY_SENTENCES = 3
SUMMARY_CHARACTERS = 600
_WORD = re.compile(r"[^\W_]+")
_STOPPED = frozenset(STOP_WORDS)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A section (index into ``Parsed.sections``) or, at section 0, the whole source.

    ``passages`` are indexes into ``Parsed.passages``; ``summary`` holds spans of whole sentences of
    ``Parsed.text``.
    """

    section: int
    passages: tuple[int, ...]
    total: Sum
    summary: tuple[Span, ...]


def quantize(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return vectors in whole steps of 1/16384, same shape."""
    return np.rint(vectors.astype(np.float64) * SCALE).astype(np.int64)


def add_up(vectors: npt.NDArray[np.floating]) -> Sum:
    """Return the exact sum of quantized rows; shape (rows, dimension) to (dimension,)."""
    total: Sum = quantize(vectors).sum(axis=0, dtype=np.int64)
    return total


def unit(total: Sum) -> npt.NDArray[np.float32]:
    """Return the direction of a sum as a unit vector; of a sum of nothing, zeros."""
    exact = total.astype(np.float64)
    length = math.sqrt(math.fsum(value * value for value in exact.tolist()))
    return (exact / length if length else exact).astype(np.float32)


def fold_nodes(parsed: Parsed, vectors: npt.NDArray[np.floating]) -> list[Node]:
    """Return the source's node, then one for each section that gathers several but not all passages.

    ``vectors`` has shape (passages, dimension). A section that holds the same passages as the one above it
    has no node of its own.
    """
    gathered: list[list[int]] = [[] for _ in parsed.sections]
    for index, passage in enumerate(parsed.passages):
        section: int | None = passage.section
        while section is not None:
            gathered[section].append(index)
            section = parsed.sections[section].parent
    everything = tuple(range(len(parsed.passages)))
    gathered[0] = list(everything)
    quantized = quantize(vectors)
    nodes: list[Node] = []
    seen: set[tuple[int, ...]] = set()
    for section, indexes in enumerate(gathered):
        passages = tuple(indexes)
        if section and (len(passages) < 2 or passages in seen):
            continue
        seen.add(passages)
        total: Sum = quantized[list(passages)].sum(axis=0, dtype=np.int64)
        nodes.append(Node(section, passages, total, summarise(parsed, passages)))
    return nodes


def summarise(parsed: Parsed, passages: Sequence[int]) -> tuple[Span, ...]:
    """Return the spans, in reading order, of the one to three sentences that say most of the matter.

    A sentence counts for the words it shares with the rest (log of their count, SumBasic's idea, Nenkova and
    Vanderwende 2005), damped by its length; words already said count no more. No model is asked.
    """
    sentences: list[tuple[Span, frozenset[str]]] = []
    counts: Counter[str] = Counter()
    for index in passages:
        passage = parsed.passages[index]
        text = parsed.text[passage.start : passage.end]
        for start, end in sentence_spans(text):
            words = [word for word in _WORD.findall(text[start:end].lower()) if word not in _STOPPED]
            counts.update(words)
            if words and end - start <= SUMMARY_CHARACTERS:
                sentences.append(((passage.start + start, passage.start + end), frozenset(words)))
    chosen: list[Span] = []
    said: set[str] = set()
    room = SUMMARY_CHARACTERS
    while len(chosen) < SUMMARY_SENTENCES:
        fitting = [item for item in sentences if item[0][1] - item[0][0] <= room and item[0] not in chosen]
        best = max(
            fitting,
            key=lambda item: (_worth(item[1] - said, counts, len(item[1])), -item[0][0]),
            default=None,
        )
        if best is None or not best[1] - said:
            break
        chosen.append(best[0])
        said |= best[1]
        room -= best[0][1] - best[0][0]
    return tuple(sorted(chosen))


def _worth(words: frozenset[str], counts: Counter[str], length: int) -> float:
    return round(math.fsum(math.log(counts[word]) + 0.1 for word in words) / math.sqrt(length + 4), 9)
