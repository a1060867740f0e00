"""Measure Lethe end to end, over HTTP, and write ``bench/results/main.json``.

    python -m bench.main [--only ingest,latency,quality,answers,forget] [--quick] [--results FILE]

Each section is measured on ``lethe serve`` processes of its own and merged into the file, with when and
how it was run; figures of several runs are medians with the least and the greatest. Needs the data sets
beside the repository (``../shared/data``). ``LETHE_MODELS_CACHE`` says where the weights are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import answers, found, ingest, scale
from bench.figures import Figures, describe_machine, describe_run
from bench.quality import DATA, SETS
from embedding.encoder import TextEncoder
from embedding.models import ModelStore
from service.settings import Settings

SECTIONS = ("ingest", "latency", "quality", "answers", "forget")
RESULTS = Path(__file__).resolve().parent / "results" / "main.json"
LANGUAGE_MODEL = "qwen2.5-coder-0.5b-instruct"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    ingest_documents: int = 512
    ingest_runs: int = 3
    single_documents: int = 40
    passages: tuple[int, ...] = (1_000, 10_000, 100_000)
    recalls: int = 100
    rounds: int = 3
    forgets: int = 3
    sets: tuple[str, ...] = SETS
    queries: int | None = None
    answers: int = 200
    model_answers: int = 60
    paragraphs: int | None = None


QUICK = Sizes(
    ingest_documents=64,
    ingest_runs=2,
    single_documents=5,
    passages=(500, 1_000),
    recalls=20,
    rounds=2,
    forgets=2,
    sets=("lihua",),
    queries=40,
    answers=20,
    model_answers=0,
    paragraphs=5,
)


def main() -> None:
    """Measure the sections asked for, one after the other, keeping each as soon as it is done."""
    options = _parse()
    if not DATA.is_dir():
        sys.exit(f"bench: the data sets are absent; they are looked for in {DATA}")
    sizes = options.sizes
    sections = options.only
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))  # so that no service is left behind
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for section in ("ingest", "quality", "answers"):
            if section in sections:
                keep(options.results, section, _measure(section, sizes, options, progress))
                console.print(f"{section}: written to {options.results}")
        grown = [section for section in ("latency", "forget") if section in sections]
        if grown:
            run = describe_run()

            def told(by_size: Mapping[str, Figures]) -> None:
                for section, sizes_so_far in by_size.items():
                    keep(options.results, section, {"run": run, "sizes": sizes_so_far})
                    console.print(f"{section}: written to {options.results}")

            scale.measure(
                grown,
                sizes=sizes.passages,
                queries=sizes.recalls,
                rounds=sizes.rounds,
                forgets=sizes.forgets,
                threads=options.threads,
                progress=progress,
                told=told,
            )


def _measure(section: str, sizes: Sizes, options: argparse.Namespace, progress: Progress) -> Figures:
    run: Figures = {"run": describe_run()}
    if section == "ingest":
        return run | ingest.measure(
            load_bench_encoder(options.threads),
            documents=sizes.ingest_documents,
            runs=sizes.ingest_runs,
            singles=sizes.single_documents,
            threads=options.threads,
            progress=progress,
        )
    if section == "quality":
        return run | found.measure(
            load_bench_encoder(options.threads),
            sets=sizes.sets,
            queries=sizes.queries,
            threads=options.threads,
            vectors=options.vectors,
            progress=progress,
        )
    readers = {"extractive": sizes.answers, LANGUAGE_MODEL: sizes.model_answers}
    return run | {
        reader: answers.measure(
            reader=reader,
            questions=questions,
            paragraphs=sizes.paragraphs,
            threads=options.threads,
            progress=progress,
        )
        for reader, questions in readers.items()
        if questions and (options.reader is None or reader == options.reader)
    }


def keep(path: Path, section: str, figures: Mapping[str, object]) -> None:
    """Merge a section into the results; figures of other sections stay, so do readers not run this time."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if section == "answers":
        figures = results.get(section, {}) | figures
    results |= {"machine": describe_machine(), section: dict(figures)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def load_bench_encoder(threads: int) -> TextEncoder:
    """Return the encoder that a service would use."""
    settings = Settings.model_validate({})
    folder = ModelStore(settings.models_cache).get(settings.embedder)
    return TextEncoder(folder, name=settings.embedder, threads=threads)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=_names, default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look in two minutes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to merge the figures into")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the models")
    parser.add_argument("--passages", type=_counts, help="sizes for latency and forget, such as 1000,10000")
    parser.add_argument("--sets", type=lambda text: tuple(text.split(",")), help="sets for quality")
    parser.add_argument("--reader", help="answers of this reader only")
    parser.add_argument("--vectors", type=Path, help="folder to keep the offline parts' vectors in")
    options = parser.parse_args()
    changes = {"passages": options.passages, "sets": options.sets}
    base = QUICK if options.quick else Sizes()
    options.sizes = replace(base, **{name: value for name, value in changes.items() if value})
    if options.vectors:
        options.vectors.mkdir(parents=True, exist_ok=True)
    return options


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no section {', '.join(unknown)}")
    return names


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


if __name__ == "__main__":
    main()
