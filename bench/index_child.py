"""One phase of one index in a process of its own: ``build``, ``serve`` or ``change``; figures go to a file.

Started by ``bench.index``, which pins it: while building it may use every core, otherwise one, and so may
whatever the index starts beside it. What is timed is one call of the Python interface for one query.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from bench.figures import Figures, spread
from bench.index_data import BOUNDS, BUCKETS, VectorSet, load_set
from bench.index_engines import ENGINES
from bench.index_figures import WANTED, recall, timings
from bench.index_kinds import LETHE, Kind, NotOfferedError
from bench.index_libraries import LIBRARIES
from bench.index_memory import (
    cached_bytes,
    disk_bytes,
    drop_cache,
    find_traces,
    read_memory,
    sample_anonymous,
)

KINDS = {kind.name: kind for kind in (*LETHE, *LIBRARIES, *ENGINES)}
LIMIT, ROUNDS = 10, 3
ROUND_SECONDS, FILTERED_SECONDS = 4.0, 1.0
"""A round asks every query, but no more than fit in this time, and no fewer than a hundred."""
WARM_UP = 200
ENOUGH = 0.9995
"""More accurate settings are not measured once one finds this much."""
INSERT_BATCH = 100
REMOVED, TRACED = 50, 5
MIB = 1 << 20


def build(kind: Kind, data: VectorSet) -> Figures:
    """Build the index and leave it in its folder."""
    with sample_anonymous(lambda: [os.getpid(), *kind.processes()]) as samples:
        started = time.perf_counter()
        kind.build(data.rows, data.buckets)
        seconds = time.perf_counter() - started
    kind.close()
    size = disk_bytes(kind.folder)
    return {
        "build": {
            "seconds": round(seconds, 1),
            "threads": kind.threads,
            "peak_anonymous_mib": round(max(samples, default=0) / MIB, 1),
        },
        "disk": {"mib": round(size / MIB, 1), "bytes_per_vector": round(size / len(data.rows), 1)},
    }


def serve(kind: Kind, data: VectorSet, vectors: Path) -> Figures:
    """Open the index and search it: every setting, then every filter at the first that finds enough."""
    drop_cache(kind.folder)
    before = read_memory([os.getpid()], kind.folder, apart=[vectors]).total
    started = time.perf_counter()
    kind.open()
    opened = time.perf_counter() - started
    drop_cache(kind.folder)
    processes = [os.getpid(), *kind.processes()]
    curve: list[Figures] = []
    peak = 0
    for setting in kind.settings:
        figures = _search(kind, data, setting, None, ROUND_SECONDS)
        memory = read_memory([os.getpid(), *kind.processes()], kind.folder, apart=[vectors])
        peak = max(peak, memory.total)
        curve.append({"setting": setting, **figures, "ram_mib": round(peak / MIB, 1)})
        if float(str(figures["recall@10"])) >= ENOUGH:
            break
    told: Figures = {
        "open_seconds": round(opened, 3),
        "processes": len(processes),
        "ram": {
            "before_opening_mib": round(before / MIB, 1),
            "peak_mib": round(peak / MIB, 1),
            "of_it_cached_files_mib": round(cached_bytes(kind.folder) / MIB, 1),
            "bytes_per_vector": round((peak - before) / len(data.rows), 1),
        },
        "curve": curve,
    }
    if not kind.filters:
        return told | {"filters": "its Python interface has none"}
    chosen = next((each for each in curve if float(str(each["recall@10"])) >= WANTED), curve[-1])
    return told | {"filters": {"setting": chosen["setting"], **_filtered(kind, data, chosen)}}


def _filtered(kind: Kind, data: VectorSet, chosen: Figures) -> Figures:
    """Return the figures of each filter, and what share of the unfiltered recall it keeps."""
    by_share: Figures = {}
    for bound in BOUNDS:
        figures = _search(kind, data, int(str(chosen["setting"])), bound, FILTERED_SECONDS)
        kept = float(str(figures["recall@10"])) / max(float(str(chosen["recall@10"])), 1e-9)
        by_share[f"{100 * bound / BUCKETS:g} % allowed"] = {**figures, "of_unfiltered_recall": round(kept, 4)}
    return by_share


def _search(kind: Kind, data: VectorSet, setting: int, bound: int | None, seconds: float) -> Figures:
    kind.prepare(setting, bound)
    started = time.perf_counter()
    warmed = 0
    for query in data.queries[-WARM_UP:]:
        kind.search(query, LIMIT, setting, bound)
        warmed += 1
        if time.perf_counter() - started > seconds:
            break
    fit = int(seconds * warmed / (time.perf_counter() - started))
    queries = data.queries[: max(100, min(fit, len(data.queries)))]
    rounds, found = [], []
    used = _processor_seconds(kind)
    for _ in range(ROUNDS):
        times, found = [], []
        for query in queries:
            began = time.perf_counter()
            keys = kind.search(query, LIMIT, setting, bound)
            times.append(time.perf_counter() - began)
            found.append(keys)
        rounds.append(times)
    used = _processor_seconds(kind) - used
    _, products = data.nearest[bound]
    products = products[: len(queries), :LIMIT]
    return {
        "recall@10": round(recall(found, products, queries, data.rows), 4),
        **timings(rounds),
        # Unlike the times above, this one does not grow while others use the machine.
        "processor_ms_a_query": round(1000 * used / (ROUNDS * len(queries)), 4),
    }


def _processor_seconds(kind: Kind) -> float:
    """Return the time that processors have spent on the index's processes, this one's threads included."""
    seconds = 0.0
    for process in (os.getpid(), *kind.processes()):
        with suppress(psutil.NoSuchProcess):  # a server's background process may end at any time
            times = psutil.Process(process).cpu_times()
            seconds += times.user + times.system
    return seconds


def change(kind: Kind, data: VectorSet) -> Figures:
    """Insert rows, take others out, and look for what is left of them in the index's files."""
    kind.open()
    count, setting = len(data.rows), kind.settings[-1]
    keys = np.arange(count, count + len(data.extra))
    buckets = np.random.default_rng(3).integers(0, BUCKETS, len(keys))
    times = []
    for start in range(0, len(keys), INSERT_BATCH):
        part = slice(start, start + INSERT_BATCH)
        began = time.perf_counter()
        kind.insert(keys[part], data.extra[part], buckets[part])
        times.append(time.perf_counter() - began)
    kind.prepare(setting, None)
    seen = [keys[at] in kind.search(data.extra[at], LIMIT, setting, None) for at in range(0, len(keys), 20)]
    told: Figures = {
        "insert": {
            "rows_per_second": round(len(keys) / sum(times), 1),
            "batch_ms": spread([1000 * each for each in times]),
            "rows_a_batch": INSERT_BATCH,
            "found_share": round(float(np.mean(seen)), 4),
        }
    }
    began = time.perf_counter()
    kind.settle()
    told["insert"] |= {"settle_seconds": round(time.perf_counter() - began, 3)}  # type: ignore[operator]
    return told | {"removal": _removed(kind, data, setting)}


def _removed(kind: Kind, data: VectorSet, setting: int) -> Figures:
    going = np.sort(np.random.default_rng(4).choice(len(data.rows), REMOVED, replace=False))
    vectors = np.array(data.rows[going])
    before = find_traces(vectors[:TRACED], kind.folder)
    try:
        began = time.perf_counter()
        kind.remove(going)
        removed = time.perf_counter() - began
    except NotOfferedError as error:
        return {"offered": False, "why": str(error)}
    kind.prepare(setting, None)
    found = [
        key in kind.search(vector, LIMIT, setting, None) for key, vector in zip(going, vectors, strict=True)
    ]
    began = time.perf_counter()
    kind.settle()
    settled = time.perf_counter() - began
    left = find_traces(vectors[:TRACED], kind.folder)
    return {
        "offered": True,
        "rows": len(going),
        "seconds": round(removed, 4),
        "settle_seconds": round(settled, 3),
        "still_found": int(sum(found)),
        # Where no raw bytes were there to begin with, their absence says nothing.
        "bytes_gone": (not left) if before else None,
        "files_with_raw_bytes_before": before,
        "files_with_raw_bytes_after": left,
    }


def main() -> None:
    """Run one phase and write its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("phase", choices=("build", "serve", "change"))
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--set", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = load_set(options.set, options.size, options.vectors)
    kind = KINDS[options.kind](options.folder, threads=options.threads)
    if options.phase == "build":
        told = build(kind, data)
    else:
        told = serve(kind, data, options.vectors) if options.phase == "serve" else change(kind, data)
        kind.close()
    options.out.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
