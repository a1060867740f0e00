"""A picture of the index bench: speed against recall, and memory a vector, a row of panels a set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.index_figures import WANTED, ram_at


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture; say so where matplotlib, which comes with the peers, is absent."""
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (bench/requirements-peers.txt)", file=sys.stderr)
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = {name: told for name, told in results.get("sets", {}).items() if _curves(told)}
    if not sets:
        return
    names = list(dict.fromkeys(name for told in sets.values() for name in _curves(told)))
    colours = {name: f"C{at}" for at, name in enumerate(names)}
    figure, rows = pyplot.subplots(len(sets), 2, figsize=(14, 4.6 * len(sets)), squeeze=False)
    for (place, told), (speed, memory) in zip(sets.items(), rows, strict=True):
        curves = _curves(told)
        for name, curve in curves.items():
            recalls = [each["recall@10"] for each in curve]
            speeds = [each["qps"]["median"] for each in curve]
            wide = 2.5 if name.startswith("lethe") else 1.2
            speed.plot(recalls, speeds, marker="o", ms=3, lw=wide, color=colours[name], label=name)
        speed.axvline(WANTED, color="#999", lw=0.8, ls="--")
        speed.set(yscale="log", xlabel="recall@10", ylabel="single queries a second, one core")
        speed.set_title(f"{place}: local intrinsic dimension {told['local_intrinsic_dimension']}")
        speed.grid(alpha=0.3, which="both")
        speed.legend(fontsize=8)
        taken = {name: ram_at(curve) for name, curve in curves.items()}
        shown = {name: ram for name, ram in taken.items() if ram is not None}
        memory.barh(list(shown), list(shown.values()), color=[colours[name] for name in shown])
        memory.invert_yaxis()
        memory.set(xlabel="MiB, page cache included")
        memory.set_title(f"{place}: memory at recall@10 ≥ {WANTED}")
        memory.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _curves(told: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: each["curve"] for name, each in told.get("kinds", {}).items() if "curve" in each}
