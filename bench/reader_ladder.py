"""The ladder: what each step away from reading everything at once costs, on the same questions.

L0 reads the whole prompt by the model's own attention. L1 has passages remembered and sees all blocks of
them, L2 is routed, L3 has the memories compacted, too. Of each: the greedy answer against the accepted ones,
as SQuAD's script compares them; and over the tokens of the right answer how far the next token's distribution
is from the step before, in nats, and how often the likeliest token is the same. L0 to L1 is what answers from
two passages do, L0 to L2 those from more; nothing is compacted unless a reader is told to.

Questions that are shown the same passages come one after another, so that these are read and remembered once
for all of them; intervals are drawn of such groups, whose questions are not strangers to each other. L3 can
be left to a share of the groups.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from bench.figures import Figures
from bench.hierarchy import DRAWS, SEED
from bench.reader_cases import Case, load_cases, put_best_last, squad_cases
from bench.reader_parts import SPARE, WHOLE, Bench, route
from bench.reader_readings import JointReading, Read, Reading, SlotReading, ask, write
from bench.squad13 import exact_match, f1
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
    """A set, how many passages are shown, the levels that are read, and the share of questions asked.

    ``best_last``: passages stand as in answers, the best next to the question; else in a drawn order.
    """

    set: str
    passages: int
    levels: Sequence[str] = ALL
    share: float = 0.25
    best_last: bool = False

    @property
    def name(self) -> str:
        return f"{self.set}, {self.passages} passages{', best last' if self.best_last else ''}"


LADDERS = (
    Ladder("squad13", 6, share=1.0),
    Ladder("squad13", 16, levels=("L1", "L2")),
    Ladder("hotpot100", 10),
    Ladder("musique100", 10),
    Ladder("lihua", 6),
    Ladder("squad13", 6, levels=("L0", "L1", "L2"), share=1.0, best_last=True),
)
"""The first is the one that the gates ask about. The second has more to choose from. The last is the first as
answers show its passages."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How L2 and L3 read: anchors, the share of blocks that may be kept, the method of compaction.

    ``compacted`` is the share of groups of questions that L3 is read of.
    """

    anchors: Anchors
    share: float
    method: str
    compacted: float = 1.0


def cases_of(bench: Bench, ladder: Ladder, count: int) -> list[Case]:
    """Return a ladder's questions; the bench then knows their passages."""
    asked = max(1, round(count * ladder.share))
    if ladder.set == "squad13":
        cases = squad_cases(bench.squad, asked, ladder.passages)
    else:
        shown, cases = load_cases(ladder.set, asked, ladder.passages)
        bench.shown.update(shown)
    return [put_best_last(case, bench.shown) for case in cases] if ladder.best_last else cases


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

    What each question gave is added to ``rows_file``; what it has already of the same model and ways is not
    asked again.
    """
    made_by: Row = {
        "model": bench.writer.name,
        "precision": str(bench.shape.dtype),
        "anchors": list(ways.anchors.layers),
        "share": ways.share,
        "method": ways.method,
    }
    rows = _read_rows(rows_file, made_by)
    groups = list(dict.fromkeys(case.names for case in cases))
    at_once = JointReading(bench.model)
    task = progress.add_task(ladder.name, total=len(cases))
    for number, case in enumerate(cases, start=1):
        levels = _levels_of(ladder, groups.index(case.names), ways.compacted)
        row = rows.get(_key(case))
        if row is None or not set(levels) <= set(row["levels"]):
            row = climb_one(bench, levels, case, ways, at_once) | {"made_by": made_by}
            rows[_key(case)] = row
            if rows_file is not None:
                with rows_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        if number % EVERY == 0 or number == len(cases):
            told(summarise([_at_place(rows, each) for each in cases[:number]], ladder, ways))
        progress.advance(task)
    progress.remove_task(task)


def _levels_of(ladder: Ladder, group: int, compacted: float) -> Sequence[str]:
    """Return the levels that a group of questions is read on: the groups with L3 lie evenly."""
    if int((group + 1) * compacted) > int(group * compacted):
        return ladder.levels
    return [level for level in ladder.levels if level != "L3"]


def climb_one(bench: Bench, levels: Sequence[str], case: Case, ways: Ways, at_once: JointReading) -> Row:
    """Return what one question gives on so many levels; L0 goes on from what ``at_once`` read last.

    The first question of a group pays for what all of them share.
    """
    started = time.process_time()
    cut = bench.cut(case.question, case.names)
    opening = bench.open(cut)
    tokens = bench.writer.ids(case.answers[0])[:ASKED]
    prompt = cut.tokens()
    bench.make(cut, case.names, opening, [WHOLE, ways.method] if "L3" in levels else [WHOLE])
    remembered = time.process_time()

    row: Row = {"question": case.question, "names": case.names, "tokens": len(prompt)}
    row |= {"levels": {}, "steps": {}, "cpu_seconds_remembering": remembered - started}
    reads: dict[str, Read] = {}
    for level in levels:
        began = time.process_time()
        router: Router | None = None
        if level == "L0":
            at_once.turn_to(prompt)
            reading: Reading = at_once
        else:
            memories = bench.remember(cut, case.names, opening, ways.method if level == "L3" else WHOLE)
            placed = bench.place(cut, memories, opening, spare=SPARE)
            if level == "L1":
                row["tokens_read"] = len(placed.tokens)
            router = None if level == "L1" else route(ways.anchors, ways.share)
            reading = bench.read(placed, router)
        if router is not None:
            row[f"looked_at_{level}"] = router.told.chosen / router.told.seen if router.told.seen else 1.0
        written = write(reading, prompt, bench.ends)
        answer = bench.text(written)
        if isinstance(reading, SlotReading) and router is not None:
            # What was chosen for the answer written is not for the one asked about.
            reading.router = route(ways.anchors, ways.share)
        reads[level] = ask(reading, tokens)
        row["levels"][level] = {
            "exact_match": exact_match(answer, case.answers),
            "f1": f1(answer, case.answers),
            "surprise_nats": reads[level].surprise,
            "answer": answer,
            "tokens_written": len(written),
            "cpu_seconds": time.process_time() - began,
        }
    for lower, upper in _steps(levels):
        row["steps"][_step(lower, upper)] = reads[upper].against(reads[lower])
    return row | {"cpu_seconds": time.process_time() - started}


def summarise(rows: Sequence[Row], ladder: Ladder, ways: Ways) -> Figures:
    """Return the figures of all questions asked so far, of each level and step those that it was read of."""
    levels: Figures = {}
    for level in ladder.levels:
        read = [row["levels"][level] for row in rows if level in row["levels"]]
        if read:
            names = ("exact_match", "f1", "surprise_nats")
            levels[level] = {name: _mean([one[name] for one in read]) for name in names}
    steps: Figures = {}
    for lower, upper in _steps(ladder.levels):
        name = _step(lower, upper)
        read = [row for row in rows if name in row["steps"]]
        if not read:
            continue
        groups = [_group(row["names"]) for row in read]
        change = [100 * (row["levels"][upper]["f1"] - row["levels"][lower]["f1"]) for row in read]
        divergence, same = ([row["steps"][name][at] for row in read] for at in (0, 1))
        steps[name] = {
            "questions": len(read),
            "divergence_nats": _mean(divergence),
            "divergence_nats_interval": _bounds(divergence, groups),
            "same_best": _mean(same),
            "same_best_interval": _bounds(same, groups),
            "f1_change_points": interval_of_groups(change, groups),
            "same_answer": _mean([_same(row, lower, upper) for row in read]),
        }
    figures: Figures = {
        "questions": len(rows),
        "groups": len({_group(row["names"]) for row in rows}),
        "tokens": _mean([row["tokens"] for row in rows], 1),
        "tokens_read": _mean([row["tokens_read"] for row in rows], 1),
        "share_kept_at_most": ways.share,
        "levels": levels,
        "steps": steps,
        "cpu_seconds_per_question": _mean([row["cpu_seconds"] for row in rows], 2),
        "cpu_seconds_remembering_per_question": _mean([row["cpu_seconds_remembering"] for row in rows], 2),
    }
    for level in ("L2", "L3"):
        if level in levels:
            looked = [row[f"looked_at_{level}"] for row in rows if level in row["levels"]]
            figures[f"blocks_looked_at_{level}"] = _mean(looked)
    if "L3" in levels:
        figures["compacted_by"] = ways.method
    if set(levels) >= {"L0", "L1"}:
        figures["L0 to L1 by place"] = _by_place(rows)
    return figures | {"gates": _gates(steps)}


def _by_place(rows: Sequence[Row]) -> Figures:
    """Return what remembering changes by where the one passage with the answer stands, from 1.

    What stands far from the question loses the most, and readers show the best passage last.
    """
    figures: Figures = {}
    for place in sorted({row["place"] for row in rows if row["place"] is not None}):
        read = [row for row in rows if row["place"] == place]
        groups = [_group(row["names"]) for row in read]
        pairs = [(row["levels"]["L0"], row["levels"]["L1"]) for row in read]
        points = [100 * (remembered["f1"] - whole["f1"]) for whole, remembered in pairs]
        nats = [remembered["surprise_nats"] - whole["surprise_nats"] for whole, remembered in pairs]
        figures[str(place)] = {
            "questions": len(read),
            "f1_change_points": interval_of_groups(points, groups),
            "surprise_change_nats": interval_of_groups(nats, groups),
        }
    return figures


def interval_of_groups(values: Sequence[float], groups: Sequence[Hashable]) -> Figures:
    """Return the mean of all values and its 95 % interval, by a bootstrap that draws groups, not values."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    for value, group in zip(values, groups, strict=True):
        sums[numbers[group]] += value
        counts[numbers[group]] += 1
    drawn = np.random.default_rng(SEED).integers(0, len(numbers), (DRAWS, len(numbers)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    told = {"mean": np.mean(values), "low": low, "high": high}
    return {name: round(float(value), 5) for name, value in told.items()}


def _bounds(values: Sequence[float], groups: Sequence[Hashable]) -> list[object]:
    found = interval_of_groups(values, groups)
    return [found["low"], found["high"]]


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
    """Return each level with the one before it, and the first with those that answers can be of."""
    apart = list(pairwise(levels))
    far = [(levels[0], upper) for upper in ("L2", "L3") if upper in levels]
    return list(dict.fromkeys([*apart, *far]))


def _step(lower: str, upper: str) -> str:
    return f"{lower} to {upper}"


def _same(row: Row, lower: str, upper: str) -> float:
    return float(row["levels"][lower]["answer"] == row["levels"][upper]["answer"])


def _mean(values: Sequence[float], digits: int = 4) -> float:
    return round(float(np.mean(values)), digits)


def _group(names: Sequence[str]) -> tuple[str, ...]:
    """Return what questions that are shown the same passages have in common, in whatever order."""
    return tuple(sorted(names))


def _at_place(rows: Mapping[tuple[object, ...], Row], case: Case) -> Row:
    """Return a question's row with where its passage stands: the rows that are kept need not tell it."""
    return rows[_key(case)] | {"place": case.place}


def _key(case: Case) -> tuple[object, ...]:
    return (case.question, *case.names)


def _read_rows(path: Path | None, made_by: Row) -> dict[tuple[object, ...], Row]:
    """Return rows by question and passages, the last of each that was made the same way."""
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(row["question"], *row["names"]): row for row in rows if row.get("made_by") == made_by}
