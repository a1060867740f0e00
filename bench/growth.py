"""Recall over HTTP as the store grows: ``python -m bench.growth`` writes bench/results/growth.json.

Folders are filled by ``bench.filling``, everything else is a real service: it starts on what is saved, and
answers real questions with its own encoder. p95 by size, split by stage, and the slope of its logarithm over
the size's. At the largest, documents are ingested over HTTP in the end, and one of them is forgotten.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import Progress

from bench.figures import Figures, describe_machine, describe_run, latency
from bench.filling import PASSAGES_EACH, fill
from bench.main import load_bench_encoder
from bench.scale import WARM_UP, forget_once, mean_stages, show, timed_recall
from bench.serving import Service
from bench.texts import read_questions, short_documents

RESULTS = Path(__file__).parent / "results" / "growth.json"
SIZES = (10_000, 100_000, 1_000_000)
QUERIES = 200
ROUNDS = 3
INSERTED = 1_000
"""Documents of a passage each."""


def main() -> None:
    """Fill, serve and ask at each size; figures are written after each."""
    options = _parse()
    by_size: dict[int, Figures] = {}
    service = Service(threads=options.threads, keeps=True)
    held = 0
    with Progress() as progress:
        for size in options.sizes:
            task = progress.add_task(f"fill to {size:,} passages", total=size, completed=held)
            started = time.perf_counter()
            encoder = load_bench_encoder(options.threads)
            fill(
                service.data,
                encoder,
                options.vectors,
                held=held,
                wanted=size,
                told=partial(show, progress, task),
            )
            filled = time.perf_counter() - started
            held = size
            progress.remove_task(task)
            with service:
                by_size[size] = _measure(service, progress, size) | {"fill_seconds": round(filled, 1)}
                _write(options.results, by_size)
                if size == max(options.sizes):
                    by_size[size] |= _change(service, progress)
            _write(options.results, by_size)
    service.discard()


def _measure(service: Service, progress: Progress, size: int) -> Figures:
    questions = read_questions(WARM_UP + QUERIES)
    warm, asked = questions[:WARM_UP], questions[WARM_UP:]
    task = progress.add_task(f"recall at {size:,}", total=ROUNDS)
    if service.client.stats()["passages"] != size:
        raise AssertionError(f"{service.client.stats()['passages']} passages are there, not {size}")
    first = timed_recall(service, warm[0])
    for question in warm:
        service.client.recall(question)
    before = service.stage_totals("recall")
    rounds = []
    for _ in range(ROUNDS):
        rounds.append([timed_recall(service, question) for question in asked])
        progress.advance(task)
    progress.remove_task(task)
    return {
        "recall": latency(rounds),
        "mean_ms_by_stage": mean_stages(before, service.stage_totals("recall"), rounds),
        "first_recall_ms": round(1000 * first, 1),
        "start_seconds": round(service.started_in, 2),
        "resident_mib": service.resident_mib(),
        "index_mib": service.disk_mib("index"),
        "data_folder_mib": service.disk_mib(),
    }


def _change(service: Service, progress: Progress) -> Figures:
    """Return how fast new documents of a passage each are found, and how long one takes to be gone."""
    documents = short_documents(INSERTED)
    task = progress.add_task("insert and forget", total=2)
    seconds = service.remember(documents)
    service.wait_for()
    progress.advance(task)
    fenced, certified = forget_once(service, documents[:1])
    progress.remove_task(task)
    return {
        "inserted_documents": INSERTED,
        "insert_rate_end_to_end": round(INSERTED / seconds, 1),
        "forget_one": {"fence_ms": round(1000 * fenced, 1), "certificate_seconds": round(certified, 1)},
    }


def _write(path: Path, by_size: dict[int, Figures]) -> None:
    sizes = sorted(by_size)
    p95 = [by_size[size]["recall"]["p95_ms"]["median"] for size in sizes]  # type: ignore[index]
    summary: Figures = {"recall_p95_ms": dict(zip(map(str, sizes), p95, strict=True))}
    if "insert_rate_end_to_end" in by_size[sizes[-1]]:
        summary["insert_rate_end_to_end"] = by_size[sizes[-1]]["insert_rate_end_to_end"]
    if len(sizes) > 1:
        summary["recall_p95_slope"] = round(float(np.polyfit(np.log(sizes), np.log(p95), 1)[0]), 3)
    results = {
        "summary": summary,
        "machine": describe_machine(),
        "run": describe_run(),
        "passages_an_entry": PASSAGES_EACH,
        "sizes": {str(size): by_size[size] for size in sizes},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=_counts, default=SIZES, help="passages, such as 10000,100000")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write the figures to")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the encoder")
    parser.add_argument("--vectors", type=Path, default=Path(".vectors"), help="folder to keep vectors in")
    return parser.parse_args()


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(count) for count in text.split(",")))


if __name__ == "__main__":
    main()
