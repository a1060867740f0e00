"""What routers keep of the attention, and how far they lead a model astray: a part of ``bench.reader``.

A density is the part of the blocks that a router has free choice of: prefix, question, the nearest blocks and
the first ones of passages come on top, and ``blocks_looked_at`` counts them all.

Several questions are asked of each of a few long prompts, whose passages are remembered and begun once, seen
whole: what routers choose for is the question and its answer, each time anew. What is kept is judged on one
reading that sees everything, so that all routers are asked the same; then each reads by itself, and its
distributions over the answer's tokens stand against those of all blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from rich.progress import Progress

from bench.figures import Figures
from bench.reader_parts import Bench, long_prompt, means, questions
from bench.reader_readings import Read, SlotReading
from reader.anchors import COUNT, routable
from reader.attention.dense import Logits
from reader.attention.slots import Segment
from reader.routers.exact import exact
from reader.routers.flexprefill import flexprefill
from reader.routers.mean import mean
from reader.routers.moba import moba
from reader.routers.prism import Prism, fast_channels
from reader.routers.quest import quest
from reader.routing import UNROUTED, Anchors, Router, Rule, Score

DENSITIES = (0.05, 0.1, 0.2)
TOKENS = 4_000
"""Of a prompt, about."""
TOGETHER = 4
"""So many questions are asked of each prompt at most."""


class Survey:
    """Sees every block, and asks routers what they would have kept: shares of attention, by name."""

    def __init__(self, routers: Mapping[str, Router]) -> None:
        self.routers = routers
        self.kept: dict[str, list[float]] = {name: [] for name in routers}
        self._open = Router(exact, Anchors([UNROUTED]), Rule(least=1 << 20, share=1.0, trust=0.0))

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
    scores = _scores(bench)
    task = progress.add_task("routers", total=count)
    asked = 0
    prompts = 0
    for first in questions(bench.squad):
        if asked == count:
            break
        cut, names = long_prompt(bench, first, tokens)
        alike = [one for one in questions(bench.squad) if one.gold in names][: min(TOGETHER, count - asked)]
        cuts = [bench.cut(one.text, names) for one in alike]
        answers = [bench.writer.ids(one.answers[0]) for one in alike]
        opening = bench.open(cut)
        spare = max(len(each.rest) + len(answer) for each, answer in zip(cuts, answers, strict=True))
        memories = bench.remember(cut, names, opening)
        placed = bench.place(replace(cut, rest=()), memories, opening, spare=spare)
        begun = bench.read(placed)
        for each, answer in zip(cuts, answers, strict=True):
            plain = _answer(begun, each.rest, answer)
            survey = Survey(_routers(scores, placed.slots.routed))
            _answer(begun, each.rest, answer, survey)
            for name, router in _routers(scores, placed.slots.routed).items():
                read = _answer(begun, each.rest, answer, router)
                kept, told = survey.kept[name], router.told
                found.setdefault(name, []).append(
                    (*read.against(plain), told.chosen / told.seen, sum(kept) / len(kept), read.surprise)
                )
            progress.advance(task)
        asked += len(alike)
        prompts += 1
    progress.remove_task(task)
    columns = ("divergence_nats", "same_best", "blocks_looked_at", "kept", "surprise_nats")
    return {
        "questions": asked,
        "prompts": prompts,
        "tokens": tokens,
        "calibrated_anchors": list(bench.anchors.layers),
        "found": {name: means(rows, columns) for name, rows in found.items()},
        "against": "all blocks of the same memories",
    }


def _answer(
    begun: SlotReading, question: Sequence[int], answer: Sequence[int], router: Router | Survey | None = None
) -> Read:
    """Return the distributions over an answer's tokens; the reading stays where it is."""
    begun.router = router
    tokens = [*question, *answer[:-1]]
    logits = begun.read(tokens, keep=len(answer))
    begun.go_back(len(tokens))
    return Read(logits.float().log_softmax(-1), torch.tensor(list(answer)))


def spread(layers: Sequence[int], count: int) -> Sequence[int]:
    """Return ``count`` of the layers at most, evenly spread, the first among them."""
    return layers[:: max(1, -(-len(layers) // count))]


def _scores(bench: Bench) -> dict[str, tuple[Score, Anchors]]:
    """Return the routers by name: a score, and the layers where it is asked."""
    everywhere = Anchors(routable(bench.windows))
    fast = fast_channels(bench.rotary.frequencies(0, bench.shape.device), bench.shape.dim)
    return {
        "exact": (exact, everywhere),
        "exact at calibrated anchors": (exact, bench.anchors),
        "exact at spread anchors": (exact, Anchors(spread(routable(bench.windows), COUNT))),
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
