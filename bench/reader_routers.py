"""What routers keep of the attention, and how far they lead a model astray: a part of ``bench.reader``.

A density is the part of the blocks that a router has free choice of: prefix, question, the nearest blocks and
the first ones of passages come on top, and ``blocks_looked_at`` counts them all.

What is kept is judged on one reading that sees everything, so that all routers are asked the same; then each
reads by itself, and its distributions over the answer's tokens stand against those of all blocks. The first
question is not judged: the model's anchors are found on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from rich.progress import Progress

from bench.figures import Figures
from bench.reader_parts import ANCHORS, Bench, find_anchors, long_prompt, means, questions, routable
from bench.squad13 import Question
from reader.attention.dense import Logits
from reader.attention.function import run
from reader.attention.slots import Segment
from reader.placing import Placed
from reader.routers.exact import exact
from reader.routers.flexprefill import flexprefill
from reader.routers.mean import mean
from reader.routers.moba import moba
from reader.routers.prism import Prism, fast_channels
from reader.routers.quest import quest
from reader.routing import UNROUTED, Anchors, Router, Rule, Score, spread_anchors

DENSITIES = (0.05, 0.1, 0.2)
TOKENS = 4_000
"""Of a prompt, about."""


class Survey:
    """Sees every block, and asks routers what they would have kept: shares of attention, by name."""

    def __init__(self, routers: Mapping[str, Router]) -> None:
        self.routers = routers
        self.kept: dict[str, list[float]] = {name: [] for name in routers}
        self._open = Router(exact, Anchors([UNROUTED]), Rule(least=1 << 20, share=1.0, trust=2.0))

    def hear(self, layer: int, queries: torch.Tensor, how: Logits) -> None:
        """Take no note."""

    def routes(self, layer: int, segment: Segment) -> bool:
        """Say whether the layer is one that routers choose for."""
        return self._open.routes(layer, segment)

    def attend(self, layer: int, queries: torch.Tensor, segment: Segment, how: Logits) -> torch.Tensor:
        """Return what all blocks give."""
        shares = exact(queries, segment, layer, how)
        for name, router in self.routers.items():
            marks = router.look(layer, queries, segment, how).marks
            self.kept[name].append(float((shares * marks).sum(-1).mean()))
        return self._open.attend(layer, queries, segment, how)


def compare_routers(bench: Bench, count: int, progress: Progress, tokens: int = TOKENS) -> Figures:
    """Return what each router keeps of the attention at several densities, and how far it leads astray."""
    found: dict[str, list[tuple[float, ...]]] = {}
    first, *others = questions(bench.squad, count + 1)
    task = progress.add_task("routers", total=len(others))
    scores = _scores(bench, _placer(bench, first, tokens)())
    anchors = scores["exact at calibrated anchors"][1]
    for question in others:
        answer = bench.writer.ids(question.answers[0])
        place = _placer(bench, question, tokens, answer)
        plain = bench.answer(place(), answer)
        placed = place()
        blocks = placed.slots.routed
        survey = Survey(_routers(scores, blocks))
        run(bench.model, placed.tokens, [placed.segment], keep=1, router=survey)
        for name, router in _routers(scores, blocks).items():
            read = bench.answer(place(), answer, router)
            kept = survey.kept[name]
            told = router.told
            found.setdefault(name, []).append(
                (*read.against(plain), told.chosen / told.seen, sum(kept) / len(kept), read.surprise)
            )
        progress.advance(task)
    progress.remove_task(task)
    names = ("divergence_nats", "same_best", "blocks_looked_at", "kept", "surprise_nats")
    return {
        "questions": len(others),
        "tokens": tokens,
        "calibrated_anchors": list(anchors.layers),
        "found": {name: means(rows, names) for name, rows in found.items()},
        "against": "all blocks of the same memories",
    }


def _scores(bench: Bench, placed: Placed) -> dict[str, tuple[Score, Anchors]]:
    """Return the routers by name: a score, and the layers where it is asked."""
    everywhere = Anchors(routable(bench))
    fast = fast_channels(bench.rotary.frequencies(0, bench.shape.device), bench.shape.dim)
    return {
        "exact": (exact, everywhere),
        "exact at calibrated anchors": (exact, find_anchors(bench, placed)),
        "exact at spread anchors": (exact, spread_anchors(bench.windows, ANCHORS)),
        "mean": (mean, everywhere),
        "quest": (quest, everywhere),
        "prism": (Prism(fast), everywhere),
        "moba": (moba, everywhere),
        "flexprefill": (flexprefill, everywhere),
    }


def _routers(scores: Mapping[str, tuple[Score, Anchors]], blocks: int) -> dict[str, Router]:
    """Return routers that keep so many of the blocks beside those that are always kept."""
    return {
        f"{name}, {density:.0%}": Router(
            score,
            anchors,
            Rule(mass=1.0, least=max(1, round(density * blocks)), share=0.0, trust=0.0, short=0),
        )
        for name, (score, anchors) in scores.items()
        for density in DENSITIES
    }


def _placer(
    bench: Bench, question: Question, tokens: int, answer: Sequence[int] = ()
) -> Callable[[], Placed]:
    """Return what lays a question's reading out, its answer written out, as often as it is called."""
    cut, names = long_prompt(bench, question, tokens)
    opening = bench.open(cut)
    return partial(bench.place, cut, bench.remember(cut, names, opening), opening, more=answer)
