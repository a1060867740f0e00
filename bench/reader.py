"""The reader's model over remembered keys and values: ``python -m bench.reader`` writes
bench/results/reader.json.

A ladder, step by step: everything read at once (the model's own attention), passages remembered, blocks
routed, memories compacted. For each step how far the distributions over the answer's tokens are from the step
before (nats), how often the likeliest token is the same, and how likely the right answer is; then the time to
the first token by the size of the evidence, and what routers keep. Evidence is paragraphs of ``squad13`` in
one seeded order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import DynamicCache

from bench.figures import Figures, describe_machine, describe_run, spread
from bench.squad13 import Question, Squad
from embedding.models import ModelStore
from memory.values import Evidence, PassageId
from reader.anchors import Recorder, choose_anchors
from reader.attention.function import NAME, run, use_slots, windows_of
from reader.attention.rotary import Rotary
from reader.compaction.attention_matching import match_attention
from reader.compaction.expected_attention import expect_attention
from reader.compaction.method import Method, compact
from reader.compaction.most_attended import keep_most_attended
from reader.language_model import READ_AGAIN, Cut, LanguageModelWriter, load_language_model
from reader.passages import Memory, WholeMemory, compress, read_alone, take_out
from reader.placing import Passage, Placed, lay_out
from reader.prompt import build_prompt
from reader.routers.exact import exact
from reader.routers.mean import mean
from reader.routers.prism import Prism, fast_channels
from reader.routers.quest import quest
from reader.routing import UNROUTED, Anchors, Router, Rule, Score
from service.settings import Settings
from service.wiring import find_weights

RESULTS = Path(__file__).parent / "results" / "reader.json"
MARK = "5eed1e55"
SIZES = (2_000, 4_000, 8_000)
QUESTIONS, PASSAGES = 24, 4
ROUTED_TOKENS = 4_000
DENSITIES = (0.05, 0.1, 0.2)
AGAIN = (0, 8, READ_AGAIN, 32)
ANCHORS = 6
KEPT = 0.5
METHODS: Mapping[str, Method] = {
    "attention matching": match_attention,
    "expected attention": expect_attention,
    "most attended": keep_most_attended,
}


@dataclass(frozen=True, slots=True)
class Read:
    """What a step made of a question: log probabilities by answer token, (tokens, words), and the answer."""

    told: torch.Tensor
    answer: torch.Tensor

    def against(self, other: Read) -> tuple[float, float]:
        """Return the mean divergence of this from another, in nats, and how often the best token is its."""
        apart = (other.told.exp() * (other.told - self.told)).sum(-1).mean()
        same = (other.told.argmax(-1) == self.told.argmax(-1)).float().mean()
        return float(apart), float(same)

    @property
    def surprise(self) -> float:
        """Return the mean negative log probability of the answer's tokens."""
        return -float(self.told.gather(1, self.answer[:, None]).mean())


class Bench:
    """A model, and what it remembers of paragraphs."""

    def __init__(self, name: str, settings: Settings, dtype: torch.dtype | None = None) -> None:
        """``dtype`` is computed in; ``None`` for that of readers."""
        path, digest = find_weights(ModelStore(settings.models_cache).get(name))
        self.model, self.tokenizer = load_language_model(
            path, digest=digest, converted=settings.models_cache / "converted"
        )
        self.model.to(dtype)
        self.writer = LanguageModelWriter(
            self.model, self.tokenizer, name=name, mark=MARK, most_prompt_tokens=1 << 20
        )
        self.shape, self.rotary = use_slots(self.model), Rotary(self.model)
        self.windows = windows_of(self.model)
        self.known: dict[tuple[str, str], Memory] = {}
        self.squad = Squad()

    def cut(self, question: str, paragraphs: Sequence[str]) -> Cut:
        """Return the tokens of the prompt that a reader would make."""
        evidence = [
            Evidence(
                PassageId(name), self.squad.texts[name], name.split(":")[0].replace("_", " "), is_whole=True
            )
            for name in paragraphs
        ]
        return self.writer.cut(
            build_prompt(question, evidence, lambda: MARK, self.writer.reserved, mark=MARK)
        )

    def open(self, cut: Cut) -> WholeMemory:
        """Return what is made of a prompt's beginning."""
        return WholeMemory(*read_alone(self.model, self.shape, self.rotary, (), cut.opening))

    def remember(
        self, cut: Cut, paragraphs: Sequence[str], opening: Memory, how: str = "whole"
    ) -> list[Memory]:
        """Return memories of paragraphs, each made once: whole, or compacted by a method."""
        made = []
        for name, text in zip(paragraphs, cut.texts, strict=True):
            key = (name, how)
            if key not in self.known:
                before = Passage((), cut.opening, opening)
                if how == "whole":
                    placed = lay_out(self.shape, self.rotary, before, [], [*text.header, *text.body])
                    run(self.model, placed.tokens, [placed.segment], keep=1)
                    own = placed.segment.places[-len(text.body) :]
                    self.known[key] = compress(*take_out(placed.slots, self.rotary, own))
                else:
                    self.known[key] = compact(
                        self.model,
                        self.shape,
                        self.rotary,
                        before,
                        text.header,
                        text.body,
                        text.body,
                        method=METHODS[how],
                        kept=max(17, round(KEPT * len(text.body))),
                    )
            made.append(self.known[key])
        return made

    def place(
        self,
        cut: Cut,
        memories: Sequence[Memory | None],
        opening: Memory,
        *,
        again: int = READ_AGAIN,
        more: Sequence[int] = (),
    ) -> Placed:
        """Return a reading with what is remembered in its place."""
        passages = [
            Passage(text.header, text.body, memory) for text, memory in zip(cut.texts, memories, strict=True)
        ]
        before = Passage((), cut.opening, opening)
        return lay_out(self.shape, self.rotary, before, passages, [*cut.rest, *more], again=again)

    def answer(self, placed: Placed, answer: Sequence[int], router: Router | None = None) -> Read:
        """Return the distributions over the answer's tokens, which stand at the end of what is read."""
        count = len(answer)
        logits = run(self.model, placed.tokens, [placed.segment], keep=count + 1, router=router)[:count]
        return Read(logits.float().log_softmax(-1), torch.tensor(list(answer)))


def main() -> None:
    """Climb the ladder, take the times, compare the routers; figures are written after each."""
    options = _parse()
    torch.set_num_threads(options.threads)
    bench = Bench(options.model, Settings())
    results: Figures = {
        "machine": describe_machine(),
        "run": describe_run(),
        "model": options.model,
        "precision": str(bench.shape.dtype),
        "threads": options.threads,
    }
    with Progress() as progress:
        sections: list[tuple[str, Callable[[], Figures]]] = [
            ("ladder", partial(climb, bench, options.questions, progress)),
            ("routers", partial(compare_routers, bench, options.questions // 3, progress)),
            ("time_to_first_token", partial(take_times, bench, options.sizes, progress)),
        ]
        for name, measure in sections:
            results[name] = measure()
            options.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def climb(bench: Bench, count: int, progress: Progress) -> Figures:
    """Return the ladder's figures on questions with their paragraph among others of its article."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    task = progress.add_task("ladder", total=count)
    for number, question in enumerate(questions(bench.squad, count)):
        paragraphs = among(bench.squad, question, PASSAGES)
        cut = bench.cut(question.text, paragraphs)
        answer = bench.writer.ids(question.answers[0])
        opening = bench.open(cut)

        read = partial(_read, bench, cut, opening, answer)
        joint = read([None] * len(paragraphs))
        rows.setdefault("joint", []).append((0.0, 1.0, joint.surprise))
        whole = bench.remember(cut, paragraphs, opening)
        for again in AGAIN:
            reused = read(whole, again)
            rows.setdefault(f"remembered, {again} read again", []).append(
                (*reused.against(joint), reused.surprise)
            )
        reused = read(whole)
        for method in METHODS if number < count // 3 else ():
            fewer = read(bench.remember(cut, paragraphs, opening, method))
            rows.setdefault(f"half of it by {method}", []).append((*fewer.against(reused), fewer.surprise))
        progress.advance(task)
    progress.remove_task(task)
    return {
        "questions": count,
        "paragraphs": PASSAGES,
        "steps": {
            name: _means(found, ("divergence_nats", "same_best", "surprise_nats"))
            for name, found in rows.items()
        },
        "against": f"remembered: joint; half of it: remembered, {READ_AGAIN} read again",
        "questions_with_half_of_it": count // 3,
    }


def compare_routers(bench: Bench, count: int, progress: Progress) -> Figures:
    """Return what each router keeps of the attention at several densities, and how far it leads astray."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    cases = [
        (question, *_long(bench, question, ROUTED_TOKENS)) for question in questions(bench.squad, count + 1)
    ]
    task = progress.add_task("routers", total=count)
    anchors = Anchors(())
    scores: dict[str, Score] = {}
    for number, (question, cut, paragraphs) in enumerate(cases):
        answer = bench.writer.ids(question.answers[0])
        opening = bench.open(cut)
        memories = bench.remember(cut, paragraphs, opening)
        place = partial(bench.place, cut, memories, opening, more=answer)
        if number == 0:  # what the first shows of the model is used for the others
            anchors = find_anchors(bench, place())
            fast = fast_channels(bench.rotary.frequencies(0, bench.shape.device), bench.shape.dim)
            scores = {"exact at anchors": exact, "mean": mean, "quest": quest, "prism": Prism(fast)}
            continue
        plain = bench.answer(place(), answer)
        everywhere = Anchors(_routable(bench))
        for name, score in scores.items():
            for density in DENSITIES:
                rule = Rule(mass=1.0, least=1, share=density, trust=0.0)
                router = Router(score, anchors if name == "exact at anchors" else everywhere, rule)
                read = bench.answer(place(), answer, router)
                told = router.told
                found.setdefault(f"{name}, {density:.0%}", []).append(
                    (*read.against(plain), told.chosen / told.seen, read.surprise)
                )
        progress.advance(task)
    progress.remove_task(task)
    names = ("divergence_nats", "same_best", "blocks_looked_at", "surprise_nats")
    return {
        "questions": count,
        "tokens": ROUTED_TOKENS,
        "anchors": list(anchors.layers),
        "found": {name: _means(rows, names) for name, rows in found.items()},
        "against": "all blocks of the same memories",
    }


def take_times(bench: Bench, sizes: Sequence[int], progress: Progress) -> Figures:
    """Return seconds to the first token by size: read anew by the model itself, remembered, and routed."""
    question = questions(bench.squad, 1)[0]
    by_size: Figures = {}
    task = progress.add_task("times", total=len(sizes))
    cut, paragraphs = _long(bench, question, min(sizes))
    opening = bench.open(cut)
    anchors = find_anchors(bench, bench.place(cut, bench.remember(cut, paragraphs, opening), opening))
    for size in sizes:
        cut, paragraphs = _long(bench, question, size)
        memories = bench.remember(cut, paragraphs, opening)

        routers = [None, *(Router(exact, anchors, Rule(share=share)) for share in (0.1, 0.2))]
        remembered, tenth, fifth = (
            [_read_remembered(bench, cut, memories, opening, router) for _ in range(3)] for router in routers
        )
        anew = [_read_anew(bench, cut) for _ in range(2)]
        by_size[str(size)] = {
            "tokens": len(cut.tokens()),
            "tokens_read": len(bench.place(cut, memories, opening).tokens),
            "passages": len(paragraphs),
            "read_anew_seconds": spread(anew),
            "remembered_seconds": spread(remembered),
            "routed_tenth_seconds": spread(tenth),
            "routed_fifth_seconds": spread(fifth),
            "times_as_fast_remembered": round(min(anew) / min(remembered), 2),
            "times_as_fast_routed": round(min(anew) / min(tenth), 2),
        }
        progress.advance(task)
    progress.remove_task(task)
    return by_size


def find_anchors(bench: Bench, placed: Placed) -> Anchors:
    """Return the anchors that keep the most of the attention on one reading."""
    recorder = Recorder()
    everything = Rule(mass=1.0, least=1 << 20, share=1.0, trust=0.0, short=0)
    router = Router(recorder, Anchors(_routable(bench)), everything)
    run(bench.model, placed.tokens, [placed.segment], keep=1, router=router)
    return choose_anchors(recorder.masses, ANCHORS)


def questions(squad: Squad, count: int) -> list[Question]:
    """Return questions in one seeded order."""
    drawn = list(squad.questions)
    random.Random(5).shuffle(drawn)
    return drawn[:count]


def among(squad: Squad, question: Question, count: int) -> list[str]:
    """Return a question's paragraph among the nearest others, in a seeded order."""
    others = [name for name in squad.nearest(question.text, count) if name != question.gold][: count - 1]
    chosen = [question.gold, *others]
    random.Random(question.text).shuffle(chosen)
    return chosen


def _long(bench: Bench, question: Question, tokens: int) -> tuple[Cut, list[str]]:
    """Return a prompt of about so many tokens, the question's paragraph in the midst of it."""
    others = [name for name in bench.squad.texts if name != question.gold]
    random.Random(question.text).shuffle(others)
    low, high = 1, len(others)
    while low < high:  # the most paragraphs that do not go beyond
        middle = (low + high + 1) // 2
        count = len(bench.cut(question.text, [question.gold, *others[:middle]]).tokens())
        low, high = (middle, high) if count <= tokens else (low, middle - 1)
    chosen = others[:low]
    chosen.insert(len(chosen) // 2, question.gold)
    return bench.cut(question.text, chosen), chosen


def _read(
    bench: Bench,
    cut: Cut,
    opening: Memory,
    answer: Sequence[int],
    memories: Sequence[Memory | None],
    again: int = READ_AGAIN,
) -> Read:
    return bench.answer(bench.place(cut, memories, opening, again=again, more=answer), answer)


def _read_remembered(
    bench: Bench, cut: Cut, memories: Sequence[Memory], opening: Memory, router: Router | None
) -> float:
    """Return how long it takes to place memories and read what is new."""
    started = time.perf_counter()
    placed = bench.place(cut, memories, opening)
    run(bench.model, placed.tokens, [placed.segment], keep=1, router=router)
    return time.perf_counter() - started


def _read_anew(bench: Bench, cut: Cut) -> float:
    """Return how long the model itself takes to read a prompt, by torch's attention."""
    bench.model.set_attn_implementation("sdpa")
    started = time.perf_counter()
    with torch.inference_mode():
        bench.model(
            input_ids=torch.tensor([cut.tokens()]),
            past_key_values=DynamicCache(config=bench.model.config),
            use_cache=True,
            logits_to_keep=1,
        )
    seconds = time.perf_counter() - started
    bench.model.set_attn_implementation(NAME)
    return seconds


def _routable(bench: Bench) -> list[int]:
    return [layer for layer, window in enumerate(bench.windows) if window is None and layer >= UNROUTED]


def _means(rows: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, Any]:
    return {name: round(sum(row[at] for row in rows) / len(rows), 4) for at, name in enumerate(names)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b-instruct", help="a name of `lethe models list`"
    )
    parser.add_argument("--sizes", type=_counts, default=SIZES, help="tokens of evidence, such as 2000,8000")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="questions of the ladder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write the figures to")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the model")
    return parser.parse_args()


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(count) for count in text.split(",")))


if __name__ == "__main__":
    main()
