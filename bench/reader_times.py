"""How long it takes to a first token, by the size of the evidence, and what that needs besides.

The same passages are read by the model itself, all at once; placed from memory, all blocks of them seen;
placed and routed; and by llama.cpp with its prefix cache. Each is asked about the passages in the order in
which they were read before, with another question, and in another order. Memories lie in this process, in
eight bits, as on a shelf; making them is told apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench.figures import Figures, spread
from bench.processes import peak_mib, reset_peak
from bench.reader_parts import WHOLE, Bench, long_prompt, questions, route
from bench.reader_peer import time_prompts
from bench.reader_readings import JointReading
from reader.routing import Anchors, Router

RUNS = 3
LONG = 4_000
"""Longer prompts are read at once only one time."""
LONGER = 9_000
"""Longer ones are also placed and read only one time."""
MIB = 1 << 20


def take_times(
    bench: Bench,
    sizes: Sequence[int],
    anchors: Anchors,
    shares: Sequence[float],
    progress: Progress,
    told: Callable[[Figures], None],
    *,
    peer: Path | None = None,
    peer_sizes: Sequence[int] = (),
    threads: int = 1,
    most_at_once: int = 1 << 20,
) -> None:
    """Measure every size, and tell what is known so far after each; ``peer`` is llama.cpp's model.

    Prompts of more than ``most_at_once`` tokens are not read at once.

    The first of ``shares``, the most of the blocks that a router keeps, is the one that ratios are told of.
    """
    asked, again = questions(bench.squad, 2)
    by_size: Figures = {}
    task = progress.add_task("times", total=len(sizes))
    for size in sizes:
        cut, names = long_prompt(bench, asked, size)
        orders = {"same_order": names, "shuffled": shuffle(names, size)}
        figures: Figures = {"tokens": len(cut.tokens()), "passages": len(names)}
        by_size[str(size)] = figures
        if size <= most_at_once:
            figures["read_at_once"] = _read_at_once(bench, bench.cut(again.text, names).tokens())
        figures["memory"] = _remember(bench, asked.text, names)
        ways = {"all_blocks": None, **{f"routed_{share:.2f}": share for share in shares}}
        for way, share in ways.items():
            figures[way] = {
                order: _read_remembered(bench, again.text, placed, anchors, share)
                for order, placed in orders.items()
            }
        figures["ratios"] = _ratios(figures, f"routed_{shares[0]:.2f}")
        told(by_size)  # llama.cpp takes much longer
        if peer is not None and size in peer_sizes:
            prompts = {
                "cold": cut.tokens(),
                **{order: bench.cut(again.text, placed).tokens() for order, placed in orders.items()},
            }
            figures["llama_cpp"] = time_prompts(peer, prompts, threads)
        figures["ratios"] = _ratios(figures, f"routed_{shares[0]:.2f}")
        told(by_size)
        progress.advance(task)
    progress.remove_task(task)


def shuffle(names: Sequence[str], seed: int) -> list[str]:
    """Return names in another order, which begins with another of them."""
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    if shuffled[0] == names[0]:
        shuffled.append(shuffled.pop(0))
    return shuffled


def _read_at_once(bench: Bench, tokens: Sequence[int]) -> Figures:
    """Return how long the model itself takes."""

    def read() -> None:
        int(JointReading(bench.model, tokens).first.argmax())

    return _time(read, 1 if len(tokens) > LONG else RUNS)


def _remember(bench: Bench, question: str, names: Sequence[str]) -> Figures:
    """Return what making and keeping the passages' memories costs; those that are there already count."""
    cut = bench.cut(question, names)
    reset_peak()
    bench.remember(cut, names, bench.open(cut))
    made = [bench.made[name, WHOLE] for name in names]
    seconds, tokens = sum(one.seconds for one in made), sum(one.tokens for one in made)
    held = sum(len(one.to_bytes()) for one in (each.memory for each in made))
    return {
        "made_in_seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "shelf_mib": round(held / MIB, 1),
        "bytes_per_token": round(held / tokens),
        "peak_rss_mib": peak_mib(),
    }


def _read_remembered(
    bench: Bench, question: str, names: Sequence[str], anchors: Anchors, share: float | None
) -> Figures:
    """Return how long it takes to place memories, read what is new, and know the first token."""
    cut = bench.cut(question, names)
    opening = bench.open(cut)
    memories = bench.remember(cut, names, opening)
    routers: list[Router | None] = []
    read = 0

    def place_and_read() -> None:
        nonlocal read
        placed = bench.place(cut, memories, opening)
        read = len(placed.tokens)
        routers.append(None if share is None else route(anchors, share))
        int(bench.read(placed, routers[-1]).first.argmax())

    runs = 1 if len(cut.tokens()) > LONGER else RUNS
    figures = _time(place_and_read, runs) | {"tokens_read": read}
    router = routers[-1]
    if router is not None:
        figures["blocks_looked_at"] = (
            round(router.told.chosen / router.told.seen, 4) if router.told.seen else 1.0
        )
    return figures


def _time(work: Callable[[], None], runs: int) -> Figures:
    """Return seconds, and the highest resident memory of the process meanwhile."""
    seconds = []
    reset_peak()
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return {"seconds": spread(seconds, digits=4), "peak_rss_mib": peak_mib()}


def _ratios(figures: Mapping[str, Any], routed: str) -> Figures:
    """Return how many times as fast one way is as another, by medians."""

    def median(way: str, order: str) -> float:
        return float(figures[way][order]["seconds"]["median"])

    ratios: Figures = {
        "routed_over_all_blocks": median("all_blocks", "same_order") / median(routed, "same_order"),
    }
    if "read_at_once" in figures:
        at_once = float(figures["read_at_once"]["seconds"]["median"])
        ratios["all_blocks_over_read_at_once"] = at_once / median("all_blocks", "same_order")
        ratios["routed_over_read_at_once"] = at_once / median(routed, "same_order")
    peer = figures.get("llama_cpp")
    if peer is not None:
        for order in ("same_order", "shuffled"):
            best = min(median("all_blocks", order), median(routed, order))
            ratios[f"{order}_over_llama_cpp"] = peer[order]["seconds"] / best
    return {name: round(float(str(value)), 2) for name, value in ratios.items()}
