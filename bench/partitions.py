"""Which cells find most while the least is looked at, and what does it cost them that a vector goes?

    python -m bench.partitions [--vectors FOLDER] [--results FILE]

On the vectors of the four quality sets: the share of the true ten nearest passages that is found when cells
are looked at, nearest first, until a tenth or a fifth of all vectors was seen; beside k-means as FAISS fits
it, with as many cells. Then single vectors are taken out, one at a time: how many centroids change, and how
many of the other vectors change their cell.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from bench.figures import Figures, describe_run
from bench.main import keep
from bench.quality import MODEL, SETS, Offline, load_set
from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from retrieval.partition import Cells, Steps, as_steps, assign, choose_leaders, hash_rows, make_cells

RESULTS = Path(__file__).resolve().parent / "results" / "partitions.json"
QUESTIONS, NEAREST, REMOVALS = 300, 10, 20
SHARES = (0.05, 0.1, 0.2)
FITTED_ROUNDS = 25
DENSER_BITS = 3
"""Eight times as many cells."""

Make = Callable[[Steps], tuple[Steps, Cells]]


def main() -> None:
    """Measure every set and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    encoder = TextEncoder(ModelStore(default_cache(os.environ)).get(MODEL), name=MODEL)
    if options.vectors:
        options.vectors.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        with tempfile.TemporaryDirectory() as scratch:
            offline = Offline(load_set(name), encoder, Path(scratch) / "words", vectors=options.vectors)
            rows, questions = offline.matrices()
            offline.words.close()
        run = describe_run() | {"command": "python -m bench.partitions"}
        figures = measure(rows, questions[:QUESTIONS])
        keep(options.results, name, {"run": run, "vectors": len(rows), **figures})
        print(f"{name}: {len(rows)} vectors")
        for kind, told in figures.items():
            print(f"  {kind:26s} {told}")


def measure(rows: npt.NDArray[np.float32], questions: npt.NDArray[np.float32]) -> Figures:
    """Return the figures of each kind of cells over these vectors."""
    steps, asked = as_steps(rows), as_steps(questions)
    nearest = np.argsort(-(asked @ steps.T), axis=1, kind="stable")[:, :NEAREST]
    root = round(math.log2(math.sqrt(len(rows))))
    figures: Figures = {}
    for bits, size in ((root, "root n"), (root - DENSER_BITS, "8 root n")):
        count = len(choose_leaders(hash_rows(steps), bits))
        kinds: dict[str, Make] = {"k-means": fitted(count)}
        for rounds in (0, 1, 2, 4):
            kinds[f"leaders, {rounds} steps"] = led(bits, rounds)
        for kind, make in kinds.items():
            centroids, cells = make(steps)
            figures[f"{kind}, {size}"] = {
                "cells": len(centroids),
                **{
                    f"recall@10 at {share:.0%}": find(asked, centroids, cells, nearest, share)
                    for share in SHARES
                },
                **(disturb(steps, make, centroids, cells) if "leaders" in kind else {}),
            }
    return figures


def fitted(count: int) -> Make:
    """Return k-means as FAISS fits it."""

    def make(steps: Steps) -> tuple[Steps, Cells]:
        most = -(-len(steps) // count)
        means = faiss.Kmeans(
            steps.shape[1], count, niter=FITTED_ROUNDS, spherical=True, seed=1,
            min_points_per_centroid=1, max_points_per_centroid=most + 1,
        )  # fmt: skip
        means.train(steps)
        centroids = np.asarray(means.centroids, np.float32)
        return centroids, assign(steps, centroids)[0]

    return make


def led(bits: int, rounds: int) -> Make:
    """Return cells around leaders."""
    return lambda steps: make_cells(steps, hash_rows(steps), bits=bits, rounds=rounds)


def find(asked: Steps, centroids: Steps, cells: Cells, nearest: npt.NDArray[np.intp], share: float) -> float:
    """Return the mean share of the nearest that is found when so large a share of all is looked at."""
    sizes = np.bincount(cells, minlength=len(centroids))
    found = []
    for question, wanted in zip(asked, nearest, strict=True):
        order = np.argsort(-(centroids @ question), kind="stable")
        looked_at = order[: int(np.searchsorted(np.cumsum(sizes[order]), share * len(cells))) + 1]
        found.append(np.isin(cells[wanted], looked_at).mean())
    return round(float(np.mean(found)), 3)


def disturb(steps: Steps, make: Make, centroids: Steps, cells: Cells) -> Figures:
    """Return what taking one vector out changes, in the mean of several."""
    changed, moved = [], []
    for gone in np.random.default_rng(0).choice(len(steps), REMOVALS, replace=False):
        rest = np.delete(np.arange(len(steps)), gone)
        others, now = make(steps[rest])
        before = {centroid.tobytes() for centroid in centroids}
        changed.append(sum(centroid.tobytes() not in before for centroid in others))
        # A cell is known by its centroid's nearest one from before.
        same = assign(others, centroids)[0]
        moved.append(int((same[now] != cells[rest]).sum()))
    return {"centroids changed": float(np.mean(changed)), "vectors moved": float(np.mean(moved))}


if __name__ == "__main__":
    main()
