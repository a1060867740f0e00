"""Topics: how pure they are where groups are known, and how long it takes to fold them again.

    python -m bench.topics [--vectors FOLDER] [--results FILE]

Purity on SQuAD (paragraphs of 13 articles) and LiHua (chats of 20 threads), cells of 8, 16 and 32 sources
around leaders, and after one, two and four of Lloyd's steps; in the mean of eight choices of leaders. Times
over synthetic clustered directions: everything at once, then one source more and one less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.figures import Figures, describe_run
from bench.long_chats import join
from bench.main import keep
from bench.quality import DATA, MODEL, Offline, QualitySet, as_content
from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from memory.ports import Encoder
from memory.values import Attributes, Content
from retrieval.hierarchy import add_up
from retrieval.partition import Cells, Steps, as_steps, centre, make_cells
from retrieval.topics import Settled, Topic, build_topics, rank_content

RESULTS = Path(__file__).resolve().parent / "results" / "hierarchy.json"
SALTS = 8
SIZES = (1_000, 10_000, 100_000)
DIMENSION, CLUSTER = 384, 50


def main() -> None:
    """Measure both and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.vectors:
        options.vectors.mkdir(parents=True, exist_ok=True)
    encoder = TextEncoder(ModelStore(default_cache(os.environ)).get(MODEL), name=MODEL)
    run = describe_run() | {"command": "python -m bench.topics"}
    told: Figures = {name: purities(*load(name, encoder, options.vectors)) for name in ("squad13", "lihua")}
    keep(options.results, "topic_purity", {"run": run, **told})
    print(json.dumps(told, indent=1))
    times: Figures = {f"{size} sources": time_folds(size) for size in SIZES}
    keep(options.results, "topic_folds", {"run": run, **times})
    print(json.dumps(times, indent=1))


def load(name: str, encoder: Encoder, vectors: Path | None) -> tuple[Steps, list[str]]:
    """Return the sources' directions, and the group that each is of."""
    lines = (DATA / name / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    texts: dict[str, str] = {document["id"]: document["text"] for document in map(json.loads, lines)}
    if name == "lihua":
        thread_of = {chat_id: thread for thread, ids in join(texts).items() for chat_id in ids}
        contents = {chat_id: as_content(name, chat_id, text) for chat_id, text in texts.items()}
        groups = [thread_of[chat_id] for chat_id in texts]
    else:
        contents = {
            i: Content("document", "text/plain", text.encode(), Attributes(external_id=i))
            for i, text in texts.items()
        }
        groups = [i.rpartition(":")[0] for i in texts]
    with tempfile.TemporaryDirectory() as scratch:
        offline = Offline(QualitySet(name, contents, ()), encoder, Path(scratch) / "words", vectors=vectors)
        rows, _ = offline.matrices()
        offline.words.close()
    owner = offline.sources(np.arange(len(rows)))
    return centre(np.array([add_up(rows[owner == at]) for at in range(len(texts))])), groups


def purities(steps: Steps, groups: Sequence[str]) -> Figures:
    """Return purity, the share of pairs in one cell that are of one group, and mutual information."""
    figures: Figures = {"sources": len(steps), "groups": len(set(groups))}
    for bits in (3, 4, 5):
        for rounds in (0, 1, 2, 4):
            found = []
            for salt in range(SALTS):
                _, cells = make_cells(steps, _hash(steps, salt), bits=bits, rounds=rounds)
                found.append(_purity(cells, groups))
            means = np.mean([list(one.values()) for one in found], axis=0).round(3).tolist()
            figures[f"{2**bits} a cell, {rounds} steps"] = dict(zip(found[0], means, strict=True))
    return figures


def _hash(steps: Steps, salt: int) -> npt.NDArray[np.uint64]:
    rows = steps.astype("<i2")
    digests = b"".join(hashlib.sha256(bytes([salt]) + row.tobytes()).digest()[:8] for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _purity(cells: Cells, groups: Sequence[str]) -> dict[str, float]:
    count = len(groups)
    both = Counter(zip(cells.tolist(), groups, strict=True))
    of_cell, of_group = Counter(cells.tolist()), Counter(groups)
    largest: dict[int, int] = defaultdict(int)
    for (cell, _), held in both.items():
        largest[cell] = max(largest[cell], held)
    pairs = sum(n * (n - 1) for n in both.values()) / sum(n * (n - 1) for n in of_cell.values())
    told = sum(n / count * np.log(n * count / (of_cell[c] * of_group[g])) for (c, g), n in both.items())
    entropy = [-sum(n / count * np.log(n / count) for n in sizes.values()) for sizes in (of_cell, of_group)]
    return {
        "purity": sum(largest.values()) / count,
        "pairs": pairs,
        "nmi": float(2 * told / sum(entropy)),
        "cells": float(len(of_cell)),
    }


def time_folds(size: int) -> Figures:
    """Return seconds of folding ``size`` sources at once, and again with one more and one less."""
    rows = _clustered(size + 2)
    names = [f"s{at}" for at in range(size + 2)]
    ranks = {name: rank_content(name.encode()) for name in names}
    ranks[names[-1]] >>= 8  # leads a topic of the second level
    ranks[names[-2]] |= 1 << 63  # leads none
    held = {name: ranks[name] for name in names[:size]}
    first, topics = _time(held, rows)
    figures: Figures = {"topics": len(topics), "at once, s": first}
    member = next(topic for topic in topics if topic.level == 1 and len(topic.members) > 1).members[-1]
    for what, change in (
        ("one more, s", {**held, names[-2]: ranks[names[-2]]}),
        ("one more that leads, s", {**held, names[-1]: ranks[names[-1]]}),
        ("one less, s", {name: rank for name, rank in held.items() if name != member}),
    ):
        figures[what], again = _time(change, rows, settle(topics, change))
        before = set(topics)
        figures[what.replace(", s", ", topics written")] = sum(topic not in before for topic in again)
    return figures


def settle(topics: Sequence[Topic], ranks: Mapping[str, int]) -> dict[int, Settled]:
    """Return what is settled when the fold before is known and the topics of what went were erased."""
    settled: dict[int, Settled] = defaultdict(Settled)
    for topic in topics:
        if topic.leader in ranks:
            settled[topic.level].compared.add(topic.leader)
            if all(member in ranks for member in topic.members):
                settled[topic.level].leader_of.update(dict.fromkeys(topic.members, topic.leader))
    return settled


def _time(
    ranks: Mapping[str, int], rows: Steps, settled: Mapping[int, Settled] | None = None
) -> tuple[float, list[Topic]]:
    started = time.perf_counter()
    topics = build_topics(ranks, lambda ids: rows[[int(name[1:]) for name in ids]], settled)
    return round(time.perf_counter() - started, 3), topics


def _clustered(size: int) -> Steps:
    random = np.random.default_rng(0)
    centres = random.standard_normal((size // CLUSTER + 1, DIMENSION), np.float32)
    rows = centres[random.integers(0, len(centres), size)] + random.standard_normal(
        (size, DIMENSION), np.float32
    )
    return as_steps(rows / np.linalg.norm(rows, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
