"""What remembered passages cost in answers, by the order they stand in and by what is read again.

The same questions are read at once and from memories in several ways, of which the first is the reader's own.
Passages stand in a drawn order, or as answers show them: those with the best sentences last. Memories taken
from the reading at once itself tell apart what comes of placing and eight bits from what comes of reading
passages without each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from bench.figures import Figures
from bench.reader_cases import TOGETHER, Case, put_best_last, squad_cases
from bench.reader_ladder import ASKED, interval_of_groups
from bench.reader_parts import SPARE, Bench
from bench.reader_readings import JointReading, Reading, ask, write
from bench.squad13 import exact_match, f1
from reader.attention.function import run
from reader.attention.parallel import Parallel
from reader.blending import blend
from reader.language_model import READ_AGAIN, Cut
from reader.passages import Memory, compress, take_out
from reader.placing import Passage, lay_out

PASSAGES = 6
AT_ONCE = "read at once"
DRAWN, BEST_LAST = "drawn", "best last"
ORDERS = (BEST_LAST, DRAWN)

Row = dict[str, Any]
"""What one way made of one question."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is read again of each passage, and how memories are looked at.

    ``first`` and ``last`` are tokens of each passage, ``best`` passages with the likeliest sentences are read
    again whole, ``blended`` is a share of all tokens (``reader.blending``). ``joint``: memories are taken
    from a reading of all passages one after another.
    """

    name: str
    first: int = READ_AGAIN
    last: int = 0
    best: int = 0
    blended: float = 0.0
    temperature: float = 1.0
    scale: float = 1.0
    joint: bool = False


WAYS = (
    Way("remembered"),
    Way("best whole again", best=1),
    Way("64 first again", first=64),
    Way("16 first and 32 last again", last=32),
    Way("15 % chosen again", blended=0.15),
    Way("temperature .9", temperature=0.9),
    Way("scale .9", scale=0.9),
    Way("memories of the reading at once", joint=True),
)


def compare_ways(
    bench: Bench,
    count: int,
    progress: Progress,
    told: Callable[[Figures], None],
    *,
    rows_file: Path | None = None,
    ways: Sequence[Way] = WAYS,
    orders: Sequence[str] = ORDERS,
) -> None:
    """Read ``squad13`` questions, one of each paragraph, in every way and order; tell figures after each.

    What ``rows_file`` has of the same model is not read again.
    """
    made_by: Row = {"model": bench.writer.name, "precision": str(bench.shape.dtype)}
    rows = _read_rows(rows_file, made_by)
    by_passages: dict[frozenset[str], Case] = {}
    for case in squad_cases(bench.squad, count * TOGETHER, PASSAGES):
        by_passages.setdefault(frozenset(case.names), case)
    cases = list(by_passages.values())[:count]
    at_once = JointReading(bench.model)
    task = progress.add_task("reuse", total=len(cases) * len(orders))
    figures: Figures = {}
    for order in orders:
        for number, case in enumerate(cases, start=1):
            shown = case if order == DRAWN else put_best_last(case, bench.shown)
            for way in (None, *ways):
                key = (case.question, order, AT_ONCE if way is None else way.name)
                if key in rows:
                    continue
                rows[key] = read_one(bench, shown, way, at_once) | {"order": order, "made_by": made_by}
                if rows_file is not None:
                    with rows_file.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[key]) + "\n")
            asked = {one.question for one in cases[:number]}
            figures[order] = summarise([row for row in rows.values() if row["question"] in asked], order)
            told(figures)
            progress.advance(task)
    progress.remove_task(task)


def read_one(bench: Bench, case: Case, way: Way | None, at_once: JointReading) -> Row:
    """Return what a way makes of a question: answer, its measures, and what it took; ``None``: at once."""
    cut = bench.cut(case.question, case.names)
    prompt, answer = cut.tokens(), bench.writer.ids(case.answers[0])[:ASKED]
    if way is None:
        started = time.process_time()
        at_once.turn_to(prompt)
        reading: Reading = at_once
        taken, tokens_read = time.process_time() - started, len(prompt)
    else:
        memories = _recall(bench, cut, case, way)
        started = time.process_time()
        passages = _choose(bench, cut, case, way, memories)
        before = Passage((), cut.opening, bench.open(cut))
        placed = lay_out(bench.shape, bench.rotary, before, passages, cut.rest, again=way.first, spare=SPARE)
        plain = (way.temperature, way.scale) == (1.0, 1.0)
        seen = None if plain else Parallel(temperature=way.temperature, scale=way.scale)
        reading = bench.read(placed, seen)
        taken, tokens_read = time.process_time() - started, len(placed.tokens)
    written = bench.text(write(reading, prompt, bench.ends))
    return {
        "question": case.question,
        "names": case.names,
        "way": AT_ONCE if way is None else way.name,
        "tokens_read": tokens_read,
        "cpu_seconds_to_first": taken,
        "surprise_nats": ask(reading, answer).surprise,
        "answer": written,
        "f1": f1(written, case.answers),
        "exact_match": exact_match(written, case.answers),
    }


def _recall(bench: Bench, cut: Cut, case: Case, way: Way) -> Sequence[Memory]:
    """Return what is remembered of the passages: each read by itself, or all one after another."""
    opening = bench.open(cut)
    if not way.joint:
        return bench.remember(cut, case.names, opening)
    bare = [Passage(text.header, text.body, None) for text in cut.texts]
    placed = lay_out(bench.shape, bench.rotary, Passage((), cut.opening, opening), bare, [])
    run(bench.model, placed.tokens, [placed.segment], keep=1)
    memories, at = [], 0
    for text in cut.texts:
        at += len(text.header) + len(text.body)
        places = placed.segment.places[at - len(text.body) : at]
        memories.append(compress(*take_out(placed.slots, bench.rotary, places)))
    return memories


def _choose(bench: Bench, cut: Cut, case: Case, way: Way, memories: Sequence[Memory]) -> list[Passage]:
    """Return the passages with the offsets of what is read again beside the first tokens of each."""
    passages = [
        Passage(text.header, text.body, memory) for text, memory in zip(cut.texts, memories, strict=True)
    ]
    if way.blended:
        before = Passage((), cut.opening, bench.open(cut))
        passages = blend(bench.model, bench.shape, bench.rotary, before, passages, share=way.blended)
    best = put_best_last(case, bench.shown).names[len(passages) - way.best :]
    chosen = []
    for name, one in zip(case.names, passages, strict=True):
        count = len(one.body)
        again = {*one.again, *range(0 if name in best else max(0, count - way.last), count)}
        chosen.append(replace(one, again=sorted(again)))
    return chosen


def summarise(rows: Sequence[Row], order: str) -> Figures:
    """Return each way's figures in an order, and how far it is from reading at once on the same questions."""
    by_way: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["order"] == order:
            by_way.setdefault(row["way"], {})[row["question"]] = row
    at_once = by_way.get(AT_ONCE, {})
    figures: Figures = {}
    for way, read in by_way.items():
        both = [(row, at_once[question]) for question, row in read.items() if question in at_once]
        if not both:
            continue
        told: Figures = {"questions": len(both)}
        for name in ("f1", "exact_match", "surprise_nats", "tokens_read", "cpu_seconds_to_first"):
            told[name] = round(float(np.mean([row[name] for row, _ in both])), 3)
        if way != AT_ONCE:
            told["read_at_once_f1"] = round(float(np.mean([other["f1"] for _, other in both])), 3)
            groups = [tuple(sorted(row["names"])) for row, _ in both]
            points = [100 * (row["f1"] - other["f1"]) for row, other in both]
            nats = [row["surprise_nats"] - other["surprise_nats"] for row, other in both]
            told["f1_change_points"] = interval_of_groups(points, groups)
            told["surprise_change_nats"] = interval_of_groups(nats, groups)
        figures[way] = told
    return figures


def _read_rows(path: Path | None, made_by: Row) -> dict[tuple[str, str, str], Row]:
    """Return rows by question, order and way, the last of each that the same model made."""
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(row["question"], row["order"], row["way"]): row for row in rows if row["made_by"] == made_by}
