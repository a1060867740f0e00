"""A picture of the reader's bench: time to the first token by the size of the evidence."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LABELS = {
    "read_at_once": "read at once (torch)",
    "all_blocks": "remembered, all blocks",
    "routed": "remembered, routed",
    "cold": "llama.cpp, nothing cached",
    "same_order": "llama.cpp, same order cached",
    "shuffled": "llama.cpp, another order cached",
}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture; say so where matplotlib, which comes with the peers, is absent."""
    section = results.get("time_to_first_token", {})
    curves = curves_of(section.get("sizes", {}))
    if not curves:
        return
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (bench/requirements-peers.txt)", file=sys.stderr)
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.8))
    for name, points in curves.items():
        tokens, seconds = zip(*points, strict=True)
        style = "--" if name.startswith("llama.cpp") else "-"
        axes.plot(tokens, seconds, marker="o", ms=4, ls=style, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tokens of the prompt",
        ylabel="seconds to the first token",
        title=f"{section['run']['model']}, {section['run']['threads']} threads",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def curves_of(sizes: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return (tokens, seconds) by way, shortest first."""
    curves: dict[str, list[tuple[int, float]]] = {}

    def add(name: str, tokens: int, seconds: float) -> None:
        curves.setdefault(name, []).append((tokens, seconds))

    for told in sorted(sizes.values(), key=lambda told: int(told["tokens"])):
        tokens = told["tokens"]
        if "read_at_once" in told:
            add(LABELS["read_at_once"], tokens, told["read_at_once"]["seconds"]["median"])
        for way, figures in told.items():
            if way == "all_blocks":
                add(LABELS[way], tokens, figures["same_order"]["seconds"]["median"])
            elif way.startswith("routed_"):
                label = f"{LABELS['routed']} to {float(way.removeprefix('routed_')):.0%}"
                add(label, tokens, figures["same_order"]["seconds"]["median"])
        for order in ("cold", "same_order", "shuffled"):
            if told.get("llama_cpp"):
                add(LABELS[order], tokens, told["llama_cpp"][order]["seconds"])
    return curves
