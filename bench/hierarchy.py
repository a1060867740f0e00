"""Does the hierarchy pay? Recall@5 with it over the same search without it, question by question.

    python -m bench.hierarchy [--vectors FOLDER] [--results FILE]

LiHua as dated chats, the same joined into long ones, MuSiQue and HotpotQA, pooled: the mean gain and its
paired bootstrap interval (95 %, questions drawn with replacement). Weights were chosen on the odd questions;
the even ones were held back.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.figures import Figures, describe_run
from bench.long_chats import NAME, chats_of, load_long_chats
from bench.main import keep
from bench.quality import MODEL, PASSAGES_ASKED, Offline, QualitySet, Search, evaluate, load_set
from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from memory.ports import Encoder

RESULTS = Path(__file__).resolve().parent / "results" / "hierarchy.json"
SETS = ("lihua", "musique100", "hotpot100", NAME)
FIGURE = "recall@5"
DRAWS, SEED = 10_000, 0

Gains = npt.NDArray[np.float64]
"""What each question gains, shape (questions,)."""


def main() -> None:
    """Measure every set and all of them pooled, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    encoder = TextEncoder(ModelStore(default_cache(os.environ)).get(MODEL), name=MODEL)
    if options.vectors:
        options.vectors.mkdir(parents=True, exist_ok=True)
    run = describe_run() | {"command": "python -m bench.hierarchy"}
    gains: dict[str, Gains] = {}
    for name in SETS:
        quality = load_long_chats() if name == NAME else load_set(name)
        without, with_it = measure(quality, encoder, options.vectors)
        gains[name] = with_it - without
        means = {"without": round(float(without.mean()), 4), "with": round(float(with_it.mean()), 4)}
        keep(options.results, name, {FIGURE: means, **describe(gains[name])})
        print(f"{name}: {means} {describe(gains[name])}")
    pooled = pool(gains)
    keep(options.results, "hierarchy_gain", {"run": run, "sets": list(SETS), **pooled})
    print(f"pooled: {pooled}")


def measure(quality: QualitySet, encoder: Encoder, vectors: Path | None) -> tuple[Gains, Gains]:
    """Return each question's recall@5 without the hierarchy, and with it."""
    with tempfile.TemporaryDirectory() as scratch:
        offline = Offline(quality, encoder, Path(scratch) / "words", vectors=vectors)
        values = [
            np.array(evaluate(quality, _search(quality, offline, hierarchy=hierarchy))[FIGURE])
            for hierarchy in (False, True)
        ]
        offline.words.close()
    return values[0], values[1]


def _search(quality: QualitySet, offline: Offline, *, hierarchy: bool) -> Search:
    def search(query: str, limit: int = PASSAGES_ASKED) -> list[str]:
        hits = offline.rank(query, limit, hierarchy=hierarchy)
        if quality.name == NAME:
            return [chat for hit in hits for chat in chats_of(offline.messages(hit.key))]
        return [offline.ids[hit.source] for hit in hits]

    return search


def describe(gain: Gains) -> Figures:
    """Return the mean gain with its interval, on all questions, the odd and the even ones."""
    return {
        "questions": len(gain),
        "better": int((gain > 0).sum()),
        "worse": int((gain < 0).sum()),
        **interval(gain),
        "odd": interval(gain[1::2]),
        "even": interval(gain[0::2]),
    }


def pool(gains: Mapping[str, Gains]) -> Figures:
    """Return the same over all sets; each question counts once, halves are those of the sets."""
    halves = {
        "odd": np.concatenate([gain[1::2] for gain in gains.values()]),
        "even": np.concatenate([gain[0::2] for gain in gains.values()]),
    }
    everything = np.concatenate(list(gains.values()))
    return describe(everything) | {name: interval(gain) for name, gain in halves.items()}


def interval(gain: Gains) -> Figures:
    """Return the mean and its 95 % bootstrap interval (percentiles; Efron and Tibshirani 1993)."""
    random = np.random.default_rng(SEED)
    means = np.array([gain[random.integers(0, len(gain), len(gain))].mean() for _ in range(DRAWS)])
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": round(float(gain.mean()), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


if __name__ == "__main__":
    main()
