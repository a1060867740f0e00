"""The ladder: what each step away from reading everything at once costs, on the same questions.

L0 reads the whole prompt by the model's own attention. L1 has passages remembered and sees all blocks of
them, L2 is routed, L3 has the memories compacted, too. Of each: the greedy answer against the accepted ones,
as SQuAD's script compares them; and over the tokens of the right answer how far the next token's distribution
is from the step before, in nats, and how often the likeliest token is the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from bench.figures import Figures
from bench.hierarchy import interval
from bench.reader_cases import Case, load_cases, squad_cases
from bench.reader_parts import SPARE, WHOLE, Bench, route
from bench.reader_readings import JointReading, Read, Reading, SlotReading, ask, write
from bench.squad13 import exact_match, f1
from reader.passages import Memory
from reader.routing import Anchors, Router

ALL = ("L0", "L1", "L2", "L3")
EVERY = 5
"""Figures are written after so many questions."""
ASKED = 32
"""So many tokens of a right answer are asked about at most."""
MOST_DIVERGENCE, LEAST_SAME, MOST_LOSS = 0.02, 0.98, 2.0

Row = dict[str, Any]
"""What one question gave: figures by level and by step."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A set, how many passages are shown, the levels that are read, and the share of questions asked."""

    set: str
    passages: int
    levels: Sequence[str] = ALL
    share: float = 0.25

    @property
    def name(self) -> str:
        return f"{self.set}, {self.passages} passages"


LADDERS = (
    Ladder("squad13", 6, share=1.0),
    Ladder("squad13", 16, levels=("L1", "L2")),
    Ladder("hotpot100", 10),
    Ladder("musique100", 10),
    Ladder("lihua", 6),
)
"""The first is the one that the gates ask about. The second has more to choose from."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How L2 and L3 read: anchors, the share of blocks that may be kept, the method of compaction."""

    anchors: Anchors
    share: float
    method: str


def cases_of(bench: Bench, ladder: Ladder, count: int) -> list[Case]:
    """Return a ladder's questions; the bench then knows their passages."""
    asked = max(1, round(count * ladder.share))
    if ladder.set == "squad13":
        return squad_cases(bench.squad, asked, ladder.passages)
    shown, cases = load_cases(ladder.set, asked, ladder.passages)
    bench.shown.update(shown)
    return cases


def climb(
    bench: Bench,
    ladder: Ladder,
    cases: Sequence[Case],
    ways: Ways,
    progress: Progress,
    told: Callable[[Figures], None],
    rows_file: Path | None = None,
) -> None:
    """Ask every question of a ladder and tell the figures so far after every few of them.

    What each question gave is added to ``rows_file``; questions that it has already are not asked again.
    """
    rows = _read_rows(rows_file)
    task = progress.add_task(ladder.name, total=len(cases))
    for number, case in enumerate(cases, start=1):
        if case.question not in rows:
            rows[case.question] = climb_one(bench, ladder, case, ways)
            if rows_file is not None:
                with rows_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"question": case.question, **rows[case.question]}) + "\n")
        if number % EVERY == 0 or number == len(cases):
            so_far = [rows[each.question] for each in cases[:number]]
            told(summarise(so_far, ladder, ways))
        progress.advance(task)
    progress.remove_task(task)


def climb_one(bench: Bench, ladder: Ladder, case: Case, ways: Ways) -> Row:
    """Return what one question gives on every level."""
    started = time.process_time()
    cut = bench.cut(case.question, case.names)
    opening = bench.open(cut)
    tokens = bench.writer.ids(case.answers[0])[:ASKED]
    prompt = cut.tokens()
    memories: dict[str, Sequence[Memory]] = {}
    for level, how in (("L1", WHOLE), ("L3", ways.method)):
        if level in ladder.levels:
            memories[level] = bench.remember(cut, case.names, opening, how)
    remembered = time.process_time()

    row: Row = {"tokens": len(prompt), "levels": {}, "steps": {}}
    reads: dict[str, Read] = {}
    for level in ladder.levels:
        router: Router | None = None
        if level == "L0":
            reading: Reading = JointReading(bench.model, prompt)
        else:
            placed = bench.place(cut, memories["L3" if level == "L3" else "L1"], opening, spare=SPARE)
            if level == "L1":
                row["tokens_read"] = len(placed.tokens)
            router = None if level == "L1" else route(ways.anchors, ways.share)
            reading = bench.read(placed, router)
        if router is not None:
            row[f"looked_at_{level}"] = router.told.chosen / router.told.seen if router.told.seen else 1.0
        answer = bench.text(write(reading, prompt, bench.ends))
        if isinstance(reading, SlotReading) and router is not None:
            # What was chosen for the answer written is not for the one asked about.
            reading.router = route(ways.anchors, ways.share)
        reads[level] = ask(reading, tokens)
        row["levels"][level] = {
            "exact_match": exact_match(answer, case.answers),
            "f1": f1(answer, case.answers),
            "surprise_nats": reads[level].surprise,
            "answer": answer,
        }
    for lower, upper in _steps(ladder.levels):
        row["steps"][_step(lower, upper)] = reads[upper].against(reads[lower])
    ended = time.process_time()
    return row | {"cpu_seconds": ended - started, "cpu_seconds_remembering": remembered - started}


def summarise(rows: Sequence[Row], ladder: Ladder, ways: Ways) -> Figures:
    """Return the figures of all questions asked so far."""
    levels: dict[str, dict[str, float]] = {
        level: {
            name: _mean([row["levels"][level][name] for row in rows])
            for name in ("exact_match", "f1", "surprise_nats")
        }
        for level in ladder.levels
    }
    steps: Figures = {}
    for lower, upper in _steps(ladder.levels):
        name = _step(lower, upper)
        change = [100 * (row["levels"][upper]["f1"] - row["levels"][lower]["f1"]) for row in rows]
        steps[name] = {
            "divergence_nats": _mean([row["steps"][name][0] for row in rows]),
            "same_best": _mean([row["steps"][name][1] for row in rows]),
            "f1_change_points": interval(np.array(change)),
            "same_answer": _mean([_same(row, lower, upper) for row in rows]),
        }
    figures: Figures = {
        "questions": len(rows),
        "tokens": _mean([row["tokens"] for row in rows], 1),
        "tokens_read": _mean([row["tokens_read"] for row in rows], 1),
        "share_kept_at_most": ways.share,
        "levels": levels,
        "steps": steps,
        "cpu_seconds_per_question": _mean([row["cpu_seconds"] for row in rows], 2),
        "cpu_seconds_remembering_per_question": _mean([row["cpu_seconds_remembering"] for row in rows], 2),
    }
    for level in ("L2", "L3"):
        if level in ladder.levels:
            figures[f"blocks_looked_at_{level}"] = _mean([row[f"looked_at_{level}"] for row in rows])
    if "L3" in ladder.levels:
        figures["compacted_by"] = ways.method
    return figures | {"gates": _gates(steps)}


def _gates(steps: Mapping[str, Any]) -> Figures:
    """Say which of what is asked for holds."""
    routed = steps["L1 to L2"]
    gates: Figures = {
        f"L1 to L2 diverges by {MOST_DIVERGENCE} nats at most": routed["divergence_nats"] <= MOST_DIVERGENCE,
        f"L1 to L2 has the best token of {LEAST_SAME:.0%}": routed["same_best"] >= LEAST_SAME,
    }
    if "L0 to L3" in steps:
        low = steps["L0 to L3"]["f1_change_points"]["low"]
        gates[f"L0 to L3 loses less than {MOST_LOSS} points of F1 for certain (95 %)"] = low > -MOST_LOSS
    return gates


def _steps(levels: Sequence[str]) -> list[tuple[str, str]]:
    """Return each level with the one before it, and the first with the last."""
    apart = list(pairwise(levels))
    return apart if len(levels) == 2 else [*apart, (levels[0], levels[-1])]


def _step(lower: str, upper: str) -> str:
    return f"{lower} to {upper}"


def _same(row: Row, lower: str, upper: str) -> float:
    return float(row["levels"][lower]["answer"] == row["levels"][upper]["answer"])


def _mean(values: Sequence[float], digits: int = 4) -> float:
    return round(float(np.mean(values)), digits)


def _read_rows(path: Path | None) -> dict[str, Row]:
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row.pop("question"): row for row in rows}
