"""Figures of the index bench: recall, latencies, speed at equal recall, and Lethe beside the best peer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.figures import Figures, percentile, spread
from bench.index_data import Keys, Matrix

WANTED = 0.99
_SAME = 1e-6
"""Inner products this close are a tie: either row counts as found."""


def recall(found: Sequence[Keys], products: npt.NDArray[np.float32], queries: Matrix, rows: Matrix) -> float:
    """Return the mean share of the true nearest that was found.

    ``products`` holds the exact inner products of the true nearest, shape (queries, k), best first. A row
    that ties with the last of them counts as well as it; a row told twice counts once.
    """
    shares = []
    for keys, best, query in zip(found, products, queries, strict=True):
        own = np.unique(np.asarray(keys[: len(best)], np.int64))
        exact = np.asarray(rows[own]) @ query
        shares.append(min(1.0, np.count_nonzero(exact >= best[-1] - _SAME) / len(best)))
    return float(np.mean(shares))


def timings(rounds: Sequence[Sequence[float]]) -> Figures:
    """Return queries a second and p50, p95, p99 in milliseconds of rounds of single queries, in seconds."""
    figures: Figures = {"qps": spread([len(times) / sum(times) for times in rounds], digits=1)}
    for share in (50, 95, 99):
        figures[f"p{share}_ms"] = spread([1000 * percentile(each, share / 100) for each in rounds], digits=4)
    return figures | {"queries_a_round": len(rounds[0])}


def qps_at(curve: Sequence[Mapping[str, Any]], wanted: float = WANTED) -> float | None:
    """Return the queries a second at a recall: between two settings log QPS is linear in recall.

    Where the least accurate setting finds more than that already, it is that setting's; ``None`` where
    none does.
    """
    points = sorted((float(each["recall@10"]), float(each["qps"]["median"])) for each in curve)
    # Of settings that find as much or more only the fastest counts.
    front = [(at, max(speed for other, speed in points if other >= at)) for at, _ in points]
    above = [point for point in front if point[0] >= wanted]
    below = [point for point in front if point[0] < wanted]
    if not above:
        return None
    if not below:
        return above[0][1]
    (low, fast), (high, slow) = below[-1], above[0]
    share = (wanted - low) / (high - low)
    return math.exp((1 - share) * math.log(fast) + share * math.log(slow))


def ram_at(curve: Sequence[Mapping[str, Any]], wanted: float = WANTED) -> float | None:
    """Return the MiB taken when the first setting of that recall had been measured."""
    return next((float(each["ram_mib"]) for each in curve if each["recall@10"] >= wanted), None)


def summarise(kinds: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Return Lethe's best kind beside the fastest peer at recall@10 of .99, of one set."""
    reached: dict[str, tuple[float, float]] = {}
    for name, told in kinds.items():
        speed, ram = qps_at(told.get("curve", ())), ram_at(told.get("curve", ()))
        if speed is not None and ram is not None:
            reached[name] = (speed, ram)
    figures: Figures = {
        "qps_at_99": {name: round(speed, 1) for name, (speed, _) in reached.items()},
        "ram_mib_at_99": {name: round(ram, 1) for name, (_, ram) in reached.items()},
    }
    own = [name for name in reached if name.startswith("lethe")]
    peers = [name for name in reached if not name.startswith("lethe")]
    if own and peers:
        best_own = max(own, key=lambda name: reached[name])
        best_peer = max(peers, key=lambda name: reached[name])
        figures |= {
            "lethe": best_own,
            "best_peer": best_peer,
            "qps_ratio_at_99": round(reached[best_own][0] / reached[best_peer][0], 3),
            "ram_ratio": round(reached[best_own][1] / reached[best_peer][1], 3),
        }
    return figures


def best_peers(kinds: Mapping[str, Mapping[str, Any]], count: int) -> list[str]:
    """Return the fastest peers at recall@10 of .99, the fastest first."""
    speeds = {name: qps_at(told.get("curve", ())) for name, told in kinds.items()}
    ranked = [(speed, name) for name, speed in speeds.items() if speed and not name.startswith("lethe")]
    return [name for _, name in sorted(ranked, reverse=True)[:count]]
