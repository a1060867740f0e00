"""A picture of a load test, written by hand as SVG: how long a route took all through the measured run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.figures import percentile
from bench.traffic import Timed

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 260, 60, 30, 30
COLOURS = {0.5: "#2b6cb0", 0.95: "#c05621"}
SLICES = 120


def draw_latency(path: Path, timed: Sequence[Timed], *, title: str, route: str = "recall") -> None:
    """Write p50 and p95 of a route in slices of the run, by when requests were due."""
    own = [one for one in timed if one.route == route]
    first, last = min(one.due for one in own), max(one.due for one in own)
    wide = max(1.0, (last - first) / SLICES)
    slices: dict[int, list[float]] = {}
    for one in own:
        slices.setdefault(int((one.due - first) / wide), []).append(1000 * (one.done - one.due))
    top = max(percentile(times, 0.95) for times in slices.values())
    right, floor = WIDTH - 20, HEIGHT - BOTTOM

    def place(at: int, value: float) -> str:
        x = LEFT + (right - LEFT) * at / max(1, max(slices))
        return f"{x:.1f},{floor - (floor - TOP) * value / top:.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
        + " ".join(place(at, percentile(times, share)) for at, times in sorted(slices.items()))
        + '"/>'
        for share, colour in COLOURS.items()
    ]
    legend = [
        f'<text x="{right - 110 + 60 * at}" y="18" fill="{colour}">p{share:.0%}</text>'.replace("%", "")
        for at, (share, colour) in enumerate(COLOURS.items())
    ]
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18">{escape(title)}: {escape(route)}, milliseconds from when it was due</text>',
        f'<path d="M{LEFT},{TOP} V{floor} H{right}" fill="none" stroke="#888"/>',
        f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{top:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>',
        f'<text x="{right}" y="{HEIGHT - 10}" text-anchor="end">{last - first:.0f} s</text>',
        *legend,
        *lines,
        "</svg>",
    ]
    path.write_text("\n".join(svg) + "\n", encoding="utf-8")
