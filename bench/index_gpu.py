"""How near the scans on a GPU come to the floor: the bytes they must read, at the measured copy bandwidth.

    python -m bench.index_gpu [--rows N ...] [--device cuda] [--dimension 384] [--results FILE]

For each size: filling, then single queries one after the other, the exact scan in half precision and the
scan of codes, each without a filter and with half, a tenth and a hundredth of the keys allowed. The floor
share is the time that reading every row (or code) once takes at the bandwidth of a large copy on the same
device, over the median time of a whole ``search``, the result on the host included. Vectors are a mixture of
weak clusters, made of one million by turning their dimensions. That both scans find what they should is what
the tests are for; here their recall@10 against each other is told.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench.figures import Figures, describe_run, percentile
from bench.main import keep
from embedding.codes import rotate
from retrieval.torch_vectors import TorchVectors

RESULTS = Path(__file__).resolve().parent / "results" / "index-gpu.json"
SIZES = (10_000_000, 50_000_000)
PART = 1_000_000
QUERIES, WARM_UP, NEAREST = 100, 5, 10
SHARES = (1.0, 0.5, 0.1, 0.01)
CLUSTERS = 1000
WEAK = 0.4
"""The length of a cluster's centre, beside 1 for what is each vector's own."""
COPY_BYTES = 2 << 30
COPIES = 20


def main() -> None:
    """Measure every size and keep the figures, size by size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--copy-bytes", type=int, default=COPY_BYTES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    copied = measure_copy(options.device, options.copy_bytes)
    device = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(f"{device}: a copy reads and writes {copied / 1e9:.0f} GB/s")
    for rows in options.rows:
        figures = measure(rows, options.dimension, options.device, copied)
        run = describe_run() | {"command": "python -m bench.index_gpu", "device": device}
        keep(options.results, f"{rows} rows of {options.dimension}", {"run": run, **figures})
        print(f"{rows}: {figures}")


def measure_copy(device: str, size: int) -> float:
    """Return how many bytes a second a copy on the device reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(COPIES):
        times.append(_seconds(lambda: target.copy_(source), device))
    return 2 * size / percentile(times, 0.5)


def measure(rows: int, dimension: int, device: str, copied: float) -> Figures:
    """Return the figures of both scans at a size."""
    base, queries = make_vectors(min(rows, PART), dimension), make_vectors(QUERIES, dimension, seed=1)
    filters = {share: np.random.default_rng(2).random(rows) < share for share in SHARES}
    figures: Figures = {"copy_gb_per_second": round(copied / 1e9, 1)}
    found: dict[str, list[npt.NDArray[np.int64]]] = {}
    for name in ("exact", "codes"):
        index = TorchVectors(
            dimension,
            device=device,
            encode=code_on(device, dimension) if name == "codes" else None,
            room=rows,
        )
        started = time.perf_counter()
        for turn, start in enumerate(range(0, rows, PART)):
            part = np.roll(base, turn, axis=1)[: rows - start]
            index.add(np.arange(start, start + len(part)), part)
        told: Figures = {"rows_per_second_filled": round(rows / (time.perf_counter() - started))}
        scanned = rows * (dimension * 2 if name == "exact" else -(-dimension // 32) * 4)
        told["floor_ms"] = round(1000 * scanned / copied, 4)
        for share, allowed in filters.items():
            answers, times = [], []
            for query in (*queries[:WARM_UP], *queries):
                started = time.perf_counter()
                keys, _ = index.search(query, limit=NEAREST, allowed=None if share == 1 else allowed)
                times.append(time.perf_counter() - started)
                answers.append(keys[:NEAREST])
            times = times[WARM_UP:]
            if share == 1:
                found[name] = answers[WARM_UP:]
                told["floor_share"] = round(scanned / copied / percentile(times, 0.5), 3)
            told[f"allowed {share:.0%}"] = {
                f"p{point}_ms": round(1000 * percentile(times, point / 100), 3) for point in (50, 95, 99)
            }
        figures[name] = told
        del index
    pairs = zip(found["exact"], found["codes"], strict=True)
    figures["recall_at_10_of_codes"] = round(
        float(np.mean([np.isin(exact, codes).mean() for exact, codes in pairs])), 4
    )
    return figures


def make_vectors(count: int, dimension: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return unit vectors around weak clusters, which are the same for every seed; (count, dimension)."""
    centres = np.random.default_rng(100).standard_normal((CLUSTERS, dimension), dtype=np.float32)
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dimension), dtype=np.float32)
    vectors += WEAK * centres[random.integers(0, CLUSTERS, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def code_on(device: str, dimension: int) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
    """Return the codes' rotation as one matrix product on the device, which fills millions of rows sooner.

    It rounds otherwise than `embedding.codes`, so a bit may differ where a figure is nearly zero.
    """
    turn = torch.from_numpy(rotate(np.eye(dimension, dtype=np.float32))).to(device)

    def encode(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        bits = (torch.from_numpy(rows).to(device) @ turn > 0).cpu().numpy()
        return np.packbits(bits, axis=1)

    return encode


def _seconds(act: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
