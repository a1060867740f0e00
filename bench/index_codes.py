"""Lethe's codes alone, at sizes whose vectors are kept nowhere: building, searching, memory.

    python -m bench.index_codes build|serve --size 10m --vectors FOLDER --folder FOLDER --out FILE

Started by ``bench.index``. The rows are drawn block by block, coded and let go of; what is searched is the
mapped codes. Recall is told of so many candidates as a re-ranking with half-precision rows would read, which
is what a search over both tiers can find at most.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.figures import Figures
from bench.index_data import (
    DIMENSION,
    HELD_OUT,
    QUERIES,
    SIZES,
    Keys,
    Matrix,
    find_nearest,
    local_dimension,
    synthetic_block,
    synthetic_blocks,
)
from bench.index_figures import timings
from bench.index_memory import disk_bytes, drop_cache, read_memory, sample_anonymous
from embedding.codes import rotate
from retrieval.faiss_vectors import Codes, write_codes

NAME = "lethe codes"
COUNTS = (10, 200, 1000, 4000, 16000)
LIMIT = 10
ROUNDS, ROUND_SECONDS, WARM_UP = 3, 6.0, 50
MIB = 1 << 20


def build(size: str, folder: Path, threads: int) -> Figures:
    """Write the codes of the synthetic rows; the time to draw the rows, several times over, is told apart."""
    drawing: list[float] = []
    started = time.perf_counter()
    with sample_anonymous(lambda: [os.getpid()]) as samples:
        name = write_codes(folder, DIMENSION, rotate, _drawn(SIZES[size], drawing))
    seconds = time.perf_counter() - started
    (folder / "name").write_text(name)
    bytes_taken = disk_bytes(folder)
    return {
        "build": {
            "seconds": round(seconds - sum(drawing), 1),
            "drawing_rows_seconds": round(sum(drawing), 1),
            "threads": threads,
            "peak_anonymous_mib": round(max(samples, default=0) / MIB, 1),
        },
        "disk": {
            "mib": round(bytes_taken / MIB, 1),
            "bytes_per_vector": round(bytes_taken / SIZES[size], 1),
        },
    }


def _drawn(count: int, seconds: list[float]) -> Iterator[Matrix]:
    """Yield the rows, and note how long each block took to draw."""
    blocks = synthetic_blocks(count)
    while True:
        began = time.perf_counter()
        block = next(blocks, None)
        seconds.append(time.perf_counter() - began)
        if block is None:
            return
        yield block


def serve(size: str, folder: Path, nearest: tuple[Keys, Matrix]) -> Figures:
    """Search the codes for several numbers of candidates."""
    queries = synthetic_block(HELD_OUT, QUERIES)
    drop_cache(folder)
    before = read_memory([os.getpid()], folder).total
    began = time.perf_counter()
    codes = Codes(folder / (folder / "name").read_text(), rotate, DIMENSION)
    opened = time.perf_counter() - began
    drop_cache(folder)
    curve: list[Figures] = []
    peak = 0
    for count in COUNTS:
        curve.append({"setting": count, **_search(codes, queries, count, nearest[0])})
        peak = max(peak, read_memory([os.getpid()], folder).total)
        curve[-1]["ram_mib"] = round(peak / MIB, 1)
    return {
        "open_seconds": round(opened, 3),
        "ram": {
            "before_opening_mib": round(before / MIB, 1),
            "peak_mib": round(peak / MIB, 1),
            "bytes_per_vector": round((peak - before) / SIZES[size], 1),
        },
        "codes_curve": curve,
    }


def _search(codes: Codes, queries: Matrix, count: int, nearest: Keys) -> Figures:
    began = time.perf_counter()
    for query in queries[-WARM_UP:]:
        codes.search(query, count=count, allowed=None)
    fit = int(ROUND_SECONDS * WARM_UP / (time.perf_counter() - began))
    asked = queries[: max(100, min(fit, len(queries)))]
    rounds, found = [], []
    for _ in range(ROUNDS):
        times, found = [], []
        for query in asked:
            began = time.perf_counter()
            keys, _ = codes.search(query, count=count, allowed=None)
            times.append(time.perf_counter() - began)
            found.append(keys)
        rounds.append(times)
    pairs = list(zip(found, nearest[:, :LIMIT], strict=False))
    among = [np.isin(true, keys).mean() for keys, true in pairs]
    return {
        "recall@10_among_them": round(float(np.mean(among)), 4),
        **timings(rounds),
    }


def load_nearest(size: str, vectors: Path) -> tuple[Keys, Matrix]:
    """Return the true neighbours, found once and kept."""
    path = vectors / f"synthetic-{size}.codes-nearest.npz"
    if not path.exists():
        vectors.mkdir(parents=True, exist_ok=True)
        keys, products = find_nearest(synthetic_blocks(SIZES[size]), synthetic_block(HELD_OUT, QUERIES), 100)
        np.savez(path, keys=keys, products=products)
    with np.load(path) as kept:
        return kept["keys"], kept["products"]


def main() -> None:
    """Run one phase and write its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("phase", choices=("build", "serve"))
    parser.add_argument("--size", choices=tuple(SIZES), required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.phase == "build":
        told = build(options.size, options.folder, options.threads)
        nearest = load_nearest(options.size, options.vectors)
        told["local_intrinsic_dimension"] = round(local_dimension(nearest[1]), 1)
    else:
        told = serve(options.size, options.folder, load_nearest(options.size, options.vectors))
    options.out.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
