"""The reader's model over remembered keys and values: ``python -m bench.reader`` writes
bench/results/reader.json.

    python -m bench.reader [--sections ladder,reuse,times,decode,routers] [--questions N] [--sizes 2000,8000]

Sections: the ladder from reading everything at once to memories that are routed and compacted
(``bench.reader_ladder``), what remembering costs by the order of passages and by what is read again
(``bench.reader_reuse``), the time to a first token by size beside llama.cpp's (``bench.reader_times``), how
fast answers are written (``bench.reader_decode``), what routers keep (``bench.reader_routers``). Figures are
merged into the file as soon as they are measured; sections that are not asked for stay. Needs the data sets
beside the repository (``../shared/data``). ``LETHE_MODELS_CACHE`` says where the weights are kept.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from bench.figures import Figures, describe_machine, describe_run
from bench.main import keep
from bench.reader_chart import draw
from bench.reader_decode import compare_lookup
from bench.reader_ladder import LADDERS, Ways, cases_of, climb
from bench.reader_parts import METHODS, Bench, open_bench
from bench.reader_reuse import BEST_LAST, ORDERS, WAYS, compare_ways
from bench.reader_routers import compare_routers
from bench.reader_times import take_times
from embedding.models import ModelStore
from reader.routing import Rule
from service.models import find_weights
from service.settings import Settings

RESULTS = Path(__file__).parent / "results" / "reader.json"
SECTIONS = ("ladder", "reuse", "times", "decode", "routers")
SIZES = (2_000, 4_000, 8_000, 16_000, 32_000)
QUESTIONS = 40
SHARES = (Rule().share,)
METHOD = "attention matching"


def main() -> None:
    """Measure the sections asked for, one after the other, keeping what is known after each few steps."""
    options = _parse()
    torch.set_num_threads(options.threads)
    settings = Settings()
    bench = open_bench(options.model, settings)
    run = describe_run() | {
        "model": options.model,
        "precision": str(bench.shape.dtype),
        "processor": describe_machine()["processor"],
        "threads": options.threads,
    }
    with Progress() as progress:
        if "ladder" in options.sections:
            _climb_all(bench, run, options, progress)
        if "reuse" in options.sections:
            compare_ways(
                bench,
                options.questions,
                progress,
                lambda orders: _keep(options, "reuse", {"run": run, "orders": orders}),
                rows_file=_rows_file(options, "reuse"),
                ways=[way for way in WAYS if options.ways is None or way.name in options.ways],
                orders=options.orders,
            )
        if "times" in options.sections:
            path, _ = find_weights(ModelStore(settings.models_cache).get(options.model))
            take_times(
                bench,
                options.sizes,
                bench.anchors,
                options.shares,
                progress,
                lambda sizes: _keep(options, "time_to_first_token", {"run": run, "sizes": sizes}),
                peer=path,
                peer_sizes=options.sizes if options.peer_sizes is None else options.peer_sizes,
                threads=options.threads,
                most_at_once=options.most_at_once,
            )
        if "decode" in options.sections:
            decoded = max(1, options.questions // 2)
            _keep(options, "decode", {"run": run} | compare_lookup(bench, decoded, progress))
        if "routers" in options.sections:
            routed = max(1, options.questions // 5)
            _keep(options, "routers", {"run": run} | compare_routers(bench, routed, progress))
    draw(json.loads(options.results.read_text(encoding="utf-8")), options.results.with_suffix(".png"))


def _climb_all(bench: Bench, run: Figures, options: argparse.Namespace, progress: Progress) -> None:
    """Climb every ladder asked for; figures of the others stay."""
    ways = Ways(bench.anchors, options.shares[0], options.method, options.compacted)
    for ladder in LADDERS:
        if ladder.set not in options.sets or (options.best_last and not ladder.best_last):
            continue

        def told(figures: Figures, name: str = ladder.name) -> None:
            measured = _read(options.results).get("ladder", {})
            kept = {one.name: measured[one.name] for one in LADDERS if one.name in measured}
            _keep(options, "ladder", {**kept, name: {"run": run, **figures}})

        rows = _rows_file(options, ladder.name)
        climb(bench, ladder, cases_of(bench, ladder, options.questions), ways, progress, told, rows)


def _rows_file(options: argparse.Namespace, name: str) -> Path | None:
    """Return where what each question gave is kept, if it is."""
    if options.rows is None:
        return None
    folder: Path = options.rows
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.jsonl"


def summarise(results: Mapping[str, Any]) -> Figures:
    """Return the figures that the reader is judged by, of the sections that are there."""
    figures: Figures = {}
    ladders = results.get("ladder", {})
    for ladder, suffix in zip(LADDERS[:2], ("", f"_{LADDERS[1].passages}_passages"), strict=True):
        if ladder.name in ladders:
            routed = ladders[ladder.name]["steps"]["L1 to L2"]
            figures[f"l1_l2_kl{suffix}"] = routed["divergence_nats"]
            figures[f"l1_l2_kl{suffix}_interval"] = routed["divergence_nats_interval"]
            figures[f"l1_l2_top1{suffix}"] = routed["same_best"]
            figures[f"l1_l2_top1{suffix}_interval"] = routed["same_best_interval"]
    # Nothing is compacted unless a reader is told to: what is lost without that, and with it.
    for ladder, suffix in ((LADDERS[0], ""), (LADDERS[-1], "_best_last")):
        steps = ladders.get(ladder.name, {}).get("steps", {})
        for level in ("L2", "L3"):
            if f"L0 to {level}" in steps:
                change, name = (
                    steps[f"L0 to {level}"]["f1_change_points"],
                    f"l0_{level.lower()}_f1_loss{suffix}",
                )
                figures[name] = -change["mean"]
                figures[f"{name}_interval"] = [-change["high"], -change["low"]]
                figures[f"{name}_questions"] = steps[f"L0 to {level}"]["questions"]
    remembered = results.get("reuse", {}).get("orders", {}).get(BEST_LAST, {}).get(WAYS[0].name)
    if remembered is not None:
        change = remembered["f1_change_points"]
        figures["reuse_f1_loss_best_last"] = -change["mean"]
        figures["reuse_f1_loss_best_last_interval"] = [-change["high"], -change["low"]]
        figures["reuse_f1_loss_best_last_questions"] = remembered["questions"]
    sizes = results.get("time_to_first_token", {}).get("sizes", {})
    at = {size: told["ratios"] for size, told in sizes.items() if "ratios" in told}
    if "8000" in at:
        figures["ttft_speedup_8k"] = max(
            at["8000"]["all_blocks_over_read_at_once"], at["8000"]["routed_over_read_at_once"]
        )
    if "32000" in at:
        figures["routed_over_l1_32k"] = at["32000"]["routed_over_all_blocks"]
    beside = [size for size in at if "shuffled_over_llama_cpp" in at[size]]
    if beside:
        largest = max(beside, key=int)
        figures["shuffled_over_llama_cpp"] = at[largest]["shuffled_over_llama_cpp"]
        figures["shuffled_over_llama_cpp_at_tokens"] = int(largest)
    if "decode" in results:
        figures["decode_speedup_lookup"] = results["decode"].get("times_as_fast")
    return figures


def _keep(options: argparse.Namespace, section: str, figures: Figures) -> None:
    """Merge a section into the results, and what follows from all that is there into the summary."""
    keep(options.results, section, figures)
    keep(options.results, "summary", summarise(_read(options.results)))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b-instruct", help="a name of `lethe models list`"
    )
    parser.add_argument("--sections", type=_names, default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    parser.add_argument(
        "--questions", type=int, default=QUESTIONS, help="of the first ladder; the others take a part of it"
    )
    sets = tuple(dict.fromkeys(ladder.set for ladder in LADDERS))
    parser.add_argument("--sets", type=_names, default=sets, help=f"of the ladders: some of {','.join(sets)}")
    parser.add_argument(
        "--best-last",
        action="store_true",
        help="of the ladders only those with passages as answers show them",
    )
    parser.add_argument(
        "--shares", type=_shares, default=SHARES, help="of the blocks a router keeps; the first is judged by"
    )
    parser.add_argument("--method", choices=METHODS, default=METHOD, help="of compaction")
    parser.add_argument(
        "--compacted",
        type=float,
        default=1.0,
        help="share of the questions asked of L3, such as .5",
    )
    parser.add_argument("--rows", type=Path, help="folder that keeps each question's row, to go on later")
    parser.add_argument("--ways", type=_names, help="of reuse, by name, with commas between; default: all")
    parser.add_argument(
        "--orders", type=_names, default=ORDERS, help=f"of passages in reuse, of {','.join(ORDERS)}"
    )
    parser.add_argument("--sizes", type=_counts, default=SIZES, help="tokens of a prompt, such as 2000,8000")
    parser.add_argument(
        "--most-at-once", type=int, default=1 << 20, help="longer prompts are not read at once by torch"
    )
    parser.add_argument("--peer-sizes", type=_counts, help="those read by llama.cpp; default: all, none: 0")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to merge the figures into")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the model")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(count) for count in text.split(",")))


if __name__ == "__main__":
    main()
