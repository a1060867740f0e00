"""From which cosine on does a passage match a watch? Real questions against the passages that arrive.

    python -m bench.watches [--model FOLDER]

A question stands for a watch. For each threshold: how many of the documents that answer it have a passage at
or above it, and how many of a thousand passages of other documents are, too. The same with the rule for words
beside it: all the question's words stand in the passage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.quality import MODEL, QualitySet, load_set
from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from memory.ports import Encoder
from memory.values import EntryId
from retrieval.lexical import LexicalIndex
from service.ingest import derive
from sources.parse import SourceParser

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
MOST_QUERIES = 400
SETS = ("lihua", "cranfield", "musique100")


def main() -> None:
    """Print a line for each set and threshold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder with the encoder's weights")
    folder = parser.parse_args().model or ModelStore(default_cache(os.environ)).get(MODEL)
    encoder = TextEncoder(folder, name=MODEL)
    for name in SETS:
        for line in measure(load_set(name), encoder):
            print(json.dumps({"set": name, **line}), flush=True)


def measure(quality: QualitySet, encoder: Encoder) -> list[dict[str, float | str]]:
    """Return what each threshold finds and what it tells falsely, with the rule for words and without."""
    queries = [query for query in quality.queries if query.relevant]
    queries = random.Random(5).sample(queries, min(MOST_QUERIES, len(queries)))
    parsing = SourceParser()
    parsed = {EntryId(name): parsing.parse(content) for name, content in quality.documents.items()}
    made = derive(parsed, encoder)
    rows = np.concatenate([one.vectors for one in made])
    of = np.repeat(np.arange(len(made)), [len(one.vectors) for one in made])
    scores = encoder.encode([query.text for query in queries], role="query") @ rows.T
    with tempfile.TemporaryDirectory() as folder:
        words = LexicalIndex(Path(folder))
        texts = [one.parsed.text[p.start : p.end] for one in made for p in one.parsed.passages]
        said = [words.list_words(text) for text in texts]
        asked = [words.list_words(query.text) for query in queries]
    worded = np.array([[bool(want) and want <= have for have in said] for want in asked])
    names = [one.entry_id for one in made]
    relevant = np.array([[name in query.relevant for name in names] for query in queries])
    return [
        {"threshold": threshold, "words": with_words, **_judge(hits, relevant, of)}
        for threshold in THRESHOLDS
        for with_words, hits in (("no", scores >= threshold), ("yes", (scores >= threshold) | worded))
    ]


def _judge(
    hits: npt.NDArray[np.bool_], relevant: npt.NDArray[np.bool_], of: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the share of relevant documents found, and false matches among 1,000 passages of others.

    ``hits`` has shape (queries, passages), ``relevant`` (queries, documents), ``of`` (passages,).
    """
    found = np.zeros(relevant.shape, bool)
    for passage, document in enumerate(of):
        found[:, document] |= hits[:, passage]
    wrong = hits & ~relevant[:, of]
    return {
        "found": round(float(found[relevant].mean()), 3),
        "false_per_1000": round(1000 * float(wrong.sum() / (~relevant[:, of]).sum()), 2),
        "precision": round(float((found & relevant).sum() / max(1, found.sum())), 3),
    }


if __name__ == "__main__":
    main()
