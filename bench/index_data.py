"""Vectors for the index bench: real text embeddings and hard synthetic ones, with their true neighbours.

    python -m bench.index_data --vectors FOLDER [--sets real,synthetic] [--sizes 100k,1m]

Real: MiniLM vectors of the texts of ``bench.index_texts``; half of the 1,000 queries are questions of the
data sets, half are held-out glosses. Synthetic: 1,000 weak clusters in a Gaussian with slowly falling
variances, turned at random and scaled to the unit, so that neither the clusters nor the axes help. It is
drawn in blocks that depend on their number alone: a smaller set is the beginning of a larger one, and ten
million rows need never stand in memory. True neighbours are exact float32 inner products. All is kept in the
folder, since encoding takes twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

Matrix = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int64]

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000, "10m": 10_000_000}
SETS = ("real", "synthetic")
DIMENSION = 384
QUERIES, EXTRA = 1_000, 2_000
"""Queries, and rows that are not in the set: to insert."""
NEIGHBOURS = 100
BUCKETS = 1_000
"""Every row has a bucket, drawn evenly; a filter allows the rows whose bucket is below a bound."""
BOUNDS = (500, 100, 10, 1)
"""50, 10, 1 and 0.1 per cent allowed."""
BLOCK = 50_000
CLUSTERS, STRENGTH, DECAY = 1_000, 0.2, 0.6
"""Share of a row's variance that is its cluster's centre's; standard deviations fall as rank ** -DECAY."""
HELD_OUT = 1 << 30
"""The number of the block that queries and extra rows come from: no set reaches it."""


@dataclass(frozen=True, slots=True)
class VectorSet:
    """Unit rows, shape (rows, 384), mapped; queries; rows to insert; and the true nearest of each query.

    ``nearest`` maps a filter's bound (None: no filter) to keys and inner products, each of shape
    (queries, neighbours), best first; without a filter 100 of them, with one 10.
    """

    name: str
    rows: Matrix
    queries: Matrix
    extra: Matrix
    buckets: npt.NDArray[np.int64]
    nearest: dict[int | None, tuple[Keys, Matrix]]


def load_set(name: str, size: str, folder: Path) -> VectorSet:
    """Return a set, made and kept in the folder first where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    count = SIZES[size]
    rows, queries, extra = _load_real(folder, count) if name == "real" else _load_synthetic(folder, count)
    buckets = np.random.default_rng(2).integers(0, BUCKETS, count)
    nearest = _load_nearest(folder / f"{name}-{size}.nearest.npz", rows, queries, buckets)
    return VectorSet(f"{name}-{size}", rows, queries, extra, buckets, nearest)


def synthetic_block(number: int, count: int) -> Matrix:
    """Return block ``number`` of the synthetic rows, shape (count, 384): the same whenever it is drawn."""
    falling = np.arange(1, DIMENSION + 1, dtype=np.float64) ** -DECAY
    fixed = np.random.default_rng(1)
    turn = np.linalg.qr(fixed.standard_normal((DIMENSION, DIMENSION)))[0]
    centres = fixed.standard_normal((CLUSTERS, DIMENSION))
    drawn = np.random.default_rng((1, number))
    rows = drawn.standard_normal((count, DIMENSION)) * np.sqrt(1 - STRENGTH)
    rows += centres[drawn.integers(0, CLUSTERS, count)] * np.sqrt(STRENGTH)
    return _unit((rows * falling) @ turn)


def synthetic_blocks(count: int) -> Iterator[Matrix]:
    """Yield the first ``count`` synthetic rows."""
    for start in range(0, count, BLOCK):
        yield synthetic_block(start // BLOCK, BLOCK)[: count - start]


def in_blocks(rows: Matrix) -> Iterator[Matrix]:
    """Yield rows that may be mapped, a block at a time."""
    return (np.asarray(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))


def find_nearest(
    blocks: Iterable[Matrix], queries: Matrix, limit: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[Keys, Matrix]:
    """Return keys and exact float32 inner products of the nearest rows, each (queries, ≤ limit), best first.

    Rows count through the blocks. Where fewer than ``limit`` are allowed, only those are returned.
    """
    best = np.full((len(queries), 0), 0, np.float32)
    keys = np.full((len(queries), 0), 0, np.int64)
    start = 0
    for block in blocks:
        own = np.arange(start, start + len(block))
        start += len(block)
        if allowed is not None:
            block, own = block[allowed[own]], own[allowed[own]]
        if len(own):
            scores = queries @ block.T
            best = np.concatenate([best, scores], axis=1)
            keys = np.concatenate([keys, np.broadcast_to(own, scores.shape)], axis=1)
            order = np.argpartition(-best, min(limit, best.shape[1] - 1), axis=1)[:, :limit]
            order = np.take_along_axis(order, np.argsort(-np.take_along_axis(best, order, 1), 1), 1)
            best, keys = np.take_along_axis(best, order, 1), np.take_along_axis(keys, order, 1)
    return keys, best


def local_dimension(products: Matrix) -> float:
    """Return the mean local intrinsic dimension over queries: Levina & Bickel, NIPS 2004, eq. 8.

    ``products`` are the inner products of unit vectors with their nearest, (queries, neighbours), best first.
    """
    squares = np.maximum(2 - 2 * products.astype(np.float64), 1e-12)
    ratios = 0.5 * np.log(squares[:, -1:] / squares[:, :-1])
    return float(np.mean(1 / np.maximum(ratios.mean(axis=1), 1e-12)))


def _load_synthetic(folder: Path, count: int) -> tuple[Matrix, Matrix, Matrix]:
    path = folder / f"synthetic-{count}.rows.npy"
    if not path.exists():
        partial = path.with_suffix(".partial")
        mapped = open_memmap(partial, mode="w+", dtype=np.float32, shape=(count, DIMENSION))
        for number, block in enumerate(synthetic_blocks(count)):
            mapped[number * BLOCK : number * BLOCK + len(block)] = block
            _tell(f"synthetic: {number * BLOCK + len(block):,} rows of {count:,} drawn")
        mapped.flush()
        partial.replace(path)
    held_out = synthetic_block(HELD_OUT, QUERIES + EXTRA)
    return np.load(path, mmap_mode="r"), held_out[:QUERIES], held_out[QUERIES:]


def _load_real(folder: Path, count: int) -> tuple[Matrix, Matrix, Matrix]:
    if count > SIZES["100k"]:
        raise ValueError("there are real texts for 100,000 vectors, not for more")
    kept = [folder / f"real.{part}.npy" for part in ("rows", "questions", "held_out")]
    if not all(path.exists() for path in kept):
        _make_real(folder, *kept)
    rows, asked, held_out = (np.load(path, mmap_mode="r") for path in kept)
    others, extra = np.split(held_out, [QUERIES - len(asked)])
    return rows[:count], np.random.default_rng(5).permutation(np.vstack([asked, others])), extra


def _make_real(folder: Path, rows: Path, asked: Path, held_out: Path) -> None:
    # Here, so that who only measures does not import torch.
    from bench.index_texts import read_glosses, read_passages, read_questions

    everything = sorted(read_questions(), key=len)
    questions = everything[:: max(1, len(everything) // (QUERIES // 2))][: QUERIES // 2]
    glosses, passages = read_glosses(folder), read_passages()
    apart = QUERIES - len(questions) + EXTRA
    _encode(asked, questions, "query")
    _encode(held_out, glosses[:apart], "passage")
    texts = [*passages, *glosses[apart:]][: SIZES["100k"]]
    # Passages and glosses mixed, so that a beginning of the set is like the whole.
    order = np.random.default_rng(6).permutation(len(texts))
    _encode(rows, [texts[at] for at in order], "passage")


def _encode(path: Path, texts: list[str], role: str) -> None:
    """Keep the texts' vectors, encoded by one thread; what is done is kept, also of a broken-off run."""
    if path.exists():
        return
    from bench.quality import MODEL
    from embedding.encoder import TextEncoder
    from embedding.models import ModelStore, default_cache

    encoder = TextEncoder(ModelStore(default_cache(os.environ)).get(MODEL), name=MODEL, threads=1)
    parts, step = [], 4_096
    for start in range(0, len(texts), step):
        part = path.with_suffix(f".{start:08d}.part.npy")
        if not part.exists():
            asked = texts[start : start + step]
            np.save(part, encoder.encode(asked, role="query" if role == "query" else "passage"))
        parts.append(part)
        _tell(f"{path.stem}: {min(start + step, len(texts)):,} texts of {len(texts):,} encoded")
    np.save(path, np.vstack([np.load(part) for part in parts]))
    for part in parts:
        part.unlink()


def _load_nearest(
    path: Path, rows: Matrix, queries: Matrix, buckets: npt.NDArray[np.int64]
) -> dict[int | None, tuple[Keys, Matrix]]:
    if not path.exists():
        _tell(f"{path.stem}: finding the true neighbours")
        found = {0: find_nearest(in_blocks(rows), queries, NEIGHBOURS)}
        found |= {bound: find_nearest(in_blocks(rows), queries, 10, buckets < bound) for bound in BOUNDS}
        kept = {f"{part}{bound}": each[at] for bound, each in found.items() for at, part in enumerate("ks")}
        np.savez(path, **kept)
    with np.load(path) as stored:
        return {bound or None: (stored[f"k{bound}"], stored[f"s{bound}"]) for bound in (0, *BOUNDS)}


def _unit(rows: npt.NDArray[np.float64]) -> Matrix:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Make the sets and print what they are like."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="folder to keep them in")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--sizes", default="100k")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for size in options.sizes.split(","):
            made = load_set(name, size, options.vectors)
            _, products = made.nearest[None]
            print(f"{made.name}: {made.rows.shape}, local dimension {local_dimension(products):.1f}")


if __name__ == "__main__":
    main()
