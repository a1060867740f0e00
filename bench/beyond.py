"""Reading from a memory larger than the window: ``python -m bench.beyond --tokens 64k,256k,1m --kept DIR``.

A memory of texts of all sets, what is kept of them in files (``bench.beyond_memory``); needles in it, planted
and real. For each size: how often the passage that tells the answer is ranked first, and how often it is
chosen into the window, by attention alone, by recall alone, and by both; then, for some needles, the time
from the question to the first token, what is loaded for it, and whether the answer is written. Times are the
processor's, so that a busy machine tells the same; encoding the question for recall is not in them, nor is
reading a passage whole when it is chosen for the first time. Summaries missing in DIR are made first, which
takes a core an hour and more for a million tokens; ``--build`` does no more than that, and
``--compare-layers`` tells by which layer's keys needles are found in a small memory, ``--tokens 24k``. Writes
bench/results/beyond.json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from bench.beyond_memory import Corpus, Files, Needle, cut_passages, read_corpus
from bench.figures import Figures, describe_machine, describe_run, spread
from bench.quality import Offline, QualitySet, Query
from bench.reader_parts import Bench, open_bench
from bench.recalled import RememberingEncoder, encoder_folder
from bench.squad13 import contained
from reader.attention.function import run
from reader.attention.slots import Segment
from reader.beyond import Asked, Overview, ask, choose
from reader.beyond import summarise as summarise_passage
from reader.language_model import READ_AGAIN
from reader.placing import Passage, Placed, lay_out
from reader.routers.exact import exact
from reader.routing import Router, Rule
from service.settings import Settings

RESULTS = Path(__file__).parent / "results" / "beyond.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WINDOWS = (8_192, 32_768)
BELIEFS = (0.25, 0.5, 1.0, 2.0)
RECALLED = 512
ANSWER = 24
NUMBER = 8
"""Tokens of the number before a passage, at most."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of a question before anything is loaded."""

    needle: Needle
    told_by: set[int]
    masses: torch.Tensor
    beliefs: list[float]

    def choose(self, how: str, lengths: Sequence[int], room: int) -> list[int]:
        """Return passages by ``attention`` alone, ``recall`` alone, or both, with a weight of recall's."""
        if how == "attention":
            return choose(self.masses, None, lengths, room)
        if how == "recall":
            return choose(None, self.beliefs, lengths, room)
        return choose(self.masses, self.beliefs, lengths, room, belief=float(how.split()[-1]))


RULES = ("attention", *(f"attention and recall, {belief}" for belief in BELIEFS), "recall")


READ_BY = "attention and recall, 1.0"
"""How passages are chosen that are read for an answer."""


class Clock:
    """Seconds of the processor by step, for one question."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.spent[name] += time.process_time() - started


class Memory:
    """The beginning of a corpus: its summaries, and recall over it."""

    def __init__(
        self,
        bench: Bench,
        corpus: Corpus,
        files: Files,
        needles: dict[str, list[Needle]],
        folder: Path,
    ) -> None:
        self.bench, self.corpus, self.files = bench, corpus, files
        self.overview = Overview([files.summary(number) for number in range(len(corpus.passages))])
        asked = [Query(needle.question, frozenset()) for found in needles.values() for needle in found]
        quality = QualitySet("beyond", corpus.documents, tuple(asked))
        self.recall = Offline(quality, RememberingEncoder(encoder_folder()), folder / "words", vectors=None)
        self.lengths = [NUMBER + len(cut_passages(bench, "", [one]).texts[0].body) for one in corpus.passages]

    def look(self, needle: Needle, clock: Clock) -> Looked:
        """Read a question, look at all summaries, and ask recall."""
        bench = self.bench
        with clock.step("question"):
            asked = _ask(bench, self.files, needle, [self.files.layer])[self.files.layer]
        with clock.step("summaries"):
            masses = self.overview.masses(asked)
        with clock.step("recall"):
            hits = self.recall.rank(needle.question, RECALLED, hierarchy=True)
        beliefs = [0.0] * len(self.lengths)
        for hit in hits:
            beliefs[hit.key] = hit.score
        return Looked(needle, self.corpus.holding(needle), masses, beliefs)

    def room(self, needle: Needle, window: int) -> int:
        """Return how many tokens of passages a window has room for."""
        cut = cut_passages(self.bench, needle.question, [])
        return window - len(cut.opening) - len(cut.rest) - ANSWER

    def read(self, looked: Looked, chosen: Sequence[int], clock: Clock) -> tuple[Placed, str]:
        """Place what was chosen, best last, read it, and write."""
        bench = self.bench
        best_last = list(chosen)[::-1]
        cut = cut_passages(bench, looked.needle.question, [self.corpus.passages[at] for at in best_last])
        with clock.step("loading"):
            memories = [self.files.load(number) for number in best_last]
        with clock.step("placing"):
            passages = [
                Passage(text.header, text.body, memory)
                for text, memory in zip(cut.texts, memories, strict=True)
            ]
            placed = lay_out(
                bench.shape,
                bench.rotary,
                self.files.opening,
                passages,
                cut.rest,
                again=READ_AGAIN,
                spare=ANSWER,
            )
        router = Router(exact, bench.anchors, Rule())
        with clock.step("reading"):
            logits = run(bench.model, placed.tokens, [placed.segment], keep=1, router=router)
        return placed, _write(bench, placed, int(logits[-1].argmax()), router)


def _ask(bench: Bench, files: Files, needle: Needle, layers: Sequence[int]) -> dict[int, Asked]:
    before, question = bench.writer.ids("\n\nQuestion:"), bench.writer.ids(f" {needle.question}")
    return ask(bench.model, bench.shape, bench.rotary, files.opening, before, question, layers)


def compare_layers(bench: Bench, files: Files, needles: Sequence[Needle], progress: Progress) -> Figures:
    """Return by layer how many needles' passages rank first among all, and their mean reciprocal rank.

    All passages are read whole for it.
    """
    numbers = range(len(files.corpus.passages))
    for number in progress.track(numbers, description="passages"):
        files.make([number])
    memories = [files.load(number) for number in numbers]
    layers = range(bench.shape.layers)
    asked = [_ask(bench, files, needle, layers) for needle in needles]
    told = [files.corpus.holding(needle) for needle in needles]
    found: Figures = {}
    for layer in progress.track(layers, description="layers"):
        overview = Overview([summarise_passage(memory, layer) for memory in memories])
        ranks = []
        for one, by in zip(asked, told, strict=True):
            order = overview.masses(one[layer]).argsort(descending=True).tolist()
            ranks.append(1 + min(order.index(number) for number in by))
        found[str(layer)] = {
            "first": _share(rank == 1 for rank in ranks),
            "reciprocal_rank": round(sum(1 / rank for rank in ranks) / len(ranks), 4),
        }
    return found


def choose_all(memory: Memory, needles: dict[str, list[Needle]], windows: Sequence[int]) -> Figures:
    """Return what a memory is, and how often each rule chooses what tells an answer, by window."""
    chosen: dict[str, Figures] = {}
    looked = {kind: [memory.look(needle, Clock()) for needle in found] for kind, found in needles.items()}
    for window in windows:
        chosen[str(window)] = {
            how: {
                kind: _share(
                    bool(one.told_by & set(one.choose(how, memory.lengths, memory.room(one.needle, window))))
                    for one in found
                )
                for kind, found in looked.items()
            }
            for how in RULES
        }
    first = {
        how: {
            kind: _share(one.choose(how, memory.lengths, 1 << 30)[0] in one.told_by for one in found)
            for kind, found in looked.items()
        }
        for how in RULES
    }
    return {
        "tokens": sum(memory.corpus.lengths),
        "passages": len(memory.corpus.passages),
        "bytes_of_summaries": memory.overview.size,
        "layer_of_summaries": memory.files.layer,
        "needles": {kind: len(found) for kind, found in needles.items()},
        "ranked_first": first,
        "chosen_into_window": chosen,
    }


def _read(memory: Memory, needles: Sequence[Needle], window: int) -> Figures:
    """Read needles through a window from question to answer."""
    clocks, held, tokens, new, answered = [], [], [], [], []
    for needle in needles:
        clock = Clock()
        looked = memory.look(needle, clock)
        chosen = looked.choose(READ_BY, memory.lengths, memory.room(needle, window))
        memory.files.make(chosen)
        placed, said = memory.read(looked, chosen, clock)
        clocks.append(clock.spent)
        held.append(memory.files.size(chosen))
        tokens.append(placed.end)
        new.append(len(placed.tokens))
        answered.append(contained(said, needle.answers) > 0)
    if max(tokens, default=0) + ANSWER > window:
        raise RuntimeError("more was placed than the window takes")
    return {
        "chosen_by": READ_BY,
        "needles": len(needles),
        "answered": _share(answered),
        "first_token_cpu_seconds": spread([sum(spent.values()) for spent in clocks]),
        "of_it": {step: spread([spent[step] for spent in clocks]) for step in clocks[0]},
        "tokens_in_window": spread(tokens, digits=0),
        "tokens_read": spread(new, digits=0),
        "bytes_loaded": spread(held, digits=0),
    }


def _write(bench: Bench, placed: Placed, token: int, router: Router) -> str:
    """Return what is written after a first token, greedily."""
    slots, end = placed.slots, placed.end
    written = [token]
    while len(written) < ANSWER and written[-1] != bench.tokenizer.eos_token_id:
        position = torch.tensor([end + len(written) - 1], device=bench.shape.device)
        segment = Segment(slots, 0, slots.place(position), position, (0, 1))
        written.append(int(run(bench.model, written[-1:], [segment], keep=1, router=router)[-1].argmax()))
    return str(bench.tokenizer.decode(written, skip_special_tokens=True))


def _share(found: Iterable[bool]) -> float:
    known = list(found)
    return round(sum(known) / len(known), 4) if known else 0.0


def main() -> None:
    """Make what is missing of the memory, and measure at each size; figures are written as they come."""
    options = _parse()
    torch.set_num_threads(options.threads)
    bench = open_bench(options.model, Settings(), dtype=DTYPES[options.precision])
    corpus = read_corpus(bench, max(options.tokens))
    with Progress() as progress:
        files = Files(bench, corpus, options.kept, options.layer)
        if options.build:
            files.build(progress)
            return
        if options.compare_layers:
            found = compare_layers(bench, files, [*corpus.planted, *corpus.squad], progress)
            print(json.dumps(found, indent=2))
            return
        results: Figures = {
            "machine": describe_machine(),
            "run": describe_run(),
            "model": options.model,
            "precision": options.precision,
            "threads": options.threads,
            "files": "plain, as fast as the system's cache has them",
        }
        for size in options.tokens:
            part = corpus.first(size)
            own = Files(bench, part, options.kept, options.layer)
            own.build(progress)
            drawn = random.Random(19)
            needles = {
                kind: drawn.sample(found, min(options.needles, len(found)))
                for kind, found in (("planted", part.planted), ("squad13", part.squad))
            }
            with tempfile.TemporaryDirectory() as folder:
                memory = Memory(bench, part, own, needles, Path(folder))
                figures = results[str(size)] = choose_all(memory, needles, options.windows)
                results["summary"] = summarise(results, options.tokens, options.windows)
                _save(results, options.results)
                figures["read"] = {
                    str(window): {
                        kind: _read(memory, found[: options.read], window)
                        for kind, found in needles.items()
                        if found[: options.read]
                    }
                    for window in options.windows
                }
                results["summary"] = summarise(results, options.tokens, options.windows)
                _save(results, options.results)
                memory.recall.words.close()


def summarise(results: Figures, sizes: Sequence[int], windows: Sequence[int]) -> Figures:
    """Return how many of all needles come into the widest window, and what a first token takes, by size.

    Both by the rule that answers are read by; times are medians over planted needles, as a part of those of
    the smallest memory.
    """
    figures: Figures = {}
    first: dict[int, float] = {}
    for size in sizes:
        told = results.get(str(size), {})
        if "needles" not in told:
            continue
        found = told["chosen_into_window"][str(max(windows))][READ_BY]
        asked = told["needles"]
        total = sum(asked.values())
        figures[f"needle_recall_{_short(size)}"] = round(
            sum(found[kind] * asked[kind] for kind in asked) / total, 4
        )
        if "read" in told:
            first[size] = told["read"][str(max(windows))]["planted"]["first_token_cpu_seconds"]["median"]
            figures[f"first_token_{_short(size)}_over_{_short(min(first))}"] = round(
                first[size] / first[min(first)], 3
            )
    return figures


def _short(size: int) -> str:
    return f"{size // 1_000_000}m" if size % 1_000_000 == 0 else f"{size // 1_000}k"


def _save(results: Figures, path: Path) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b-instruct", help="a name of `lethe models list`"
    )
    parser.add_argument("--tokens", type=_sizes, default=(64_000,), help="sizes such as 64k,256k,1m")
    parser.add_argument("--kept", type=Path, required=True, help="folder for keys and values")
    parser.add_argument("--build", action="store_true", help="only make what is missing there")
    parser.add_argument(
        "--compare-layers", action="store_true", help="only tell which layer's keys find needles"
    )
    parser.add_argument("--windows", type=_sizes, default=WINDOWS, help="tokens, such as 8k,32k")
    parser.add_argument("--needles", type=int, default=40, help="of each kind, to be chosen")
    parser.add_argument("--read", type=int, default=8, help="of each kind, to be read for an answer")
    parser.add_argument("--layer", type=int, default=9, help="whose keys are looked at to choose")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write the figures to")
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, ...]:
    units = {"k": 1_000, "m": 1_000_000}
    return tuple(sorted(int(float(one.rstrip("km")) * units.get(one[-1], 1)) for one in text.split(",")))


if __name__ == "__main__":
    main()
