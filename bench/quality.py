"""Does recall find the right documents? Four public sets, Lethe beside its own parts and plain rank fusion.

    python -m bench.quality [--sets cranfield,lihua] [--model FOLDER] [--vectors FOLDER] [--json FILE]

``evaluate`` judges any ``search(query, limit) -> document ids``, so that the running service is judged by
the same code. Without a service everything is measured offline through the same organs the service uses:
parser, encoder, indexes and ``retrieval.rank``. Figures: nDCG@10 (binary) on Cranfield, recall@5 and @10
elsewhere, over documents; queries without relevant documents are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedding.encoder import TextEncoder
from embedding.models import ModelStore, default_cache
from memory.ports import Encoder
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content, EntryId, JsonValue, Passage
from retrieval.faiss_vectors import FlatVectors
from retrieval.hierarchy import fold_nodes, unit
from retrieval.lexical import LexicalIndex, LexicalRow, write_lexical
from retrieval.rank import Question, Ranked, rank
from retrieval.segments import as_stored
from retrieval.titles import Titles
from sources.parse import SourceParser

Search = Callable[[str, int], Sequence[str]]
"""Takes a query and how many passages to look at; returns document ids, best first, repeats allowed."""

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
MODEL = "all-minilm-l6-v2"
PASSAGES_ASKED = 60
DAMPING = 60

SETS = ("cranfield", "lihua", "musique100", "hotpot100")
FIGURES = {"cranfield": ("ndcg@10",)}
TWO_RECALLS = ("recall@5", "recall@10")
FLOORS = {
    "cranfield": {"BM25": (0.495,), "dense": (0.513,), "fused": (0.554,)},
    "lihua": {"BM25": (0.877, 0.916), "dense": (0.643, 0.735), "fused": (0.813, 0.881)},
    "musique100": {"BM25": (0.508, 0.593), "dense": (0.622, 0.703), "fused": (0.600, 0.675)},
    "hotpot100": {"BM25": (0.775, 0.900), "dense": (0.785, 0.850), "fused": (0.815, 0.885)},
}
"""Measured beforehand with a plain BM25, whole documents cut at 256 tokens, and rank fusion of the two."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question with the ids of the documents that answer it."""

    text: str
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class QualitySet:
    """Documents by id, as they are posted, and queries."""

    name: str
    documents: Mapping[str, Content]
    queries: tuple[Query, ...]


def load_set(name: str, data: Path = DATA) -> QualitySet:
    """Read one of the sets; raise ``FileNotFoundError`` where the data is absent."""
    folder = data / name
    documents = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    return QualitySet(
        name,
        {document["id"]: as_content(name, document["id"], document["text"]) for document in documents},
        tuple(Query(query["query"], frozenset(query["relevant"])) for query in queries),
    )


def as_content(set_name: str, document_id: str, text: str) -> Content:
    """Return a document as users hand it in: LiHua as dated chats, the rest as text under its title."""
    if set_name == "lihua":
        return Content(
            "memory",
            MESSAGES_MEDIA_TYPE,
            json.dumps(as_messages(text), ensure_ascii=False).encode(),
            Attributes(external_id=document_id),
        )
    title, _, body = text.partition("\n\n" if set_name == "cranfield" else "\n")
    title = " ".join(title.split())
    return Content(
        "document",
        "text/plain",
        (body.strip() or title).encode(),
        Attributes(title=title or None, external_id=document_id),
    )


def as_messages(text: str) -> list[JsonValue]:
    """Return a LiHua chat (``Time: 20260924_20:00``, then ``Name: words``) as messages with their time."""
    head, _, body = text.partition("\n")
    stamp = re.fullmatch(r"Time: (\d{4})(\d\d)(\d\d)_(\d\d):(\d\d)\s*", head)
    if stamp is None:
        raise ValueError(f"a chat starts with its time, not {head[:40]!r}")
    at = f"{stamp[1]}-{stamp[2]}-{stamp[3]}T{stamp[4]}:{stamp[5]}:00Z"
    messages: list[dict[str, JsonValue]] = []
    for line in body.splitlines():
        turn = re.match(r"([^\s:][^:\n]{0,40}):\s?(.*)", line)
        if turn:
            messages.append({"role": "user", "name": turn[1], "content": turn[2], "at": at})
        elif line.strip() and messages:
            messages[-1]["content"] = f"{messages[-1]['content']}\n{line}"
    return [message for message in messages if str(message["content"]).strip()]


def evaluate(quality: QualitySet, search: Search) -> dict[str, list[float]]:
    """Return each figure of the set, one value per query that has relevant documents."""
    figures = FIGURES.get(quality.name, TWO_RECALLS)
    values: dict[str, list[float]] = {figure: [] for figure in figures}
    for query in quality.queries:
        found = list(dict.fromkeys(search(query.text, PASSAGES_ASKED)))
        if not query.relevant:
            continue
        for figure in figures:
            kind, _, depth = figure.partition("@")
            values[figure].append(_measure(kind, found[: int(depth)], query.relevant, int(depth)))
    return values


def _measure(kind: str, found: Sequence[str], relevant: frozenset[str], depth: int) -> float:
    hits = [document in relevant for document in found]
    if kind == "recall":
        return sum(hits) / len(relevant)
    gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(depth, len(relevant))))


class Offline:
    """A set in memory, indexed the way the service does it."""

    def __init__(self, quality: QualitySet, encoder: Encoder, folder: Path, *, vectors: Path | None) -> None:
        self._encoder = encoder
        self._cache = vectors
        self.ids = tuple(quality.documents)
        parser = SourceParser()
        parsed = [parser.parse(quality.documents[name]) for name in self.ids]
        self._parsed = parsed
        texts = [
            f"{passage.context}\n{entry.text[passage.start : passage.end]}"
            for entry in parsed
            for passage in entry.passages
        ]
        started = time.perf_counter()
        rows = as_stored(self._encode(texts, "passage"))
        self.encode_seconds = time.perf_counter() - started
        self._queries: dict[str, npt.NDArray[np.float32]] = {}
        asked = [query.text for query in quality.queries]
        self._queries.update(zip(asked, self._encode(asked, "query"), strict=True))
        self._fill(quality, rows, folder)

    def _encode(self, texts: Sequence[str], role: str) -> npt.NDArray[np.float32]:
        if self._cache is None:
            return self._encoder.encode(texts, role="query" if role == "query" else "passage")
        space = self._encoder.space
        mark = hashlib.sha256(
            "\0".join([space.digest, space.numeric_class, role, *texts]).encode()
        ).hexdigest()
        path = self._cache / f"{mark}.npy"
        if not path.exists():
            np.save(path, self._encoder.encode(texts, role="query" if role == "query" else "passage"))
        stored: npt.NDArray[np.float32] = np.load(path)
        return stored

    def _fill(self, quality: QualitySet, rows: npt.NDArray[np.float32], folder: Path) -> None:
        owner: list[int] = []
        parent: list[int] = []
        self._texts: list[str] = []
        self._under: dict[int, npt.NDArray[np.int64]] = {}
        self._titles = Titles()
        node_vectors: list[npt.NDArray[np.float32]] = []
        entries: list[tuple[EntryId, list[LexicalRow]]] = []
        next_node = len(rows)
        for at, (name, entry) in enumerate(zip(self.ids, self._parsed, strict=True)):
            first, count = len(owner), len(entry.passages)
            bodies = [entry.text[passage.start : passage.end] for passage in entry.passages]
            lexical = [
                LexicalRow(first + index, body, passage.context)
                for index, (body, passage) in enumerate(zip(bodies, entry.passages, strict=True))
            ]
            owner += [at] * count
            above = [-1] * count
            if count > 1:
                nodes = fold_nodes(entry, rows[first : first + count])
                for node in nodes:
                    key = next_node
                    next_node += 1
                    node_vectors.append(unit(node.total))
                    self._under[key] = np.array([first + index for index in node.passages], dtype=np.int64)
                    for index in node.passages:
                        above[index] = key  # sections come after the source: the smallest node wins
                for key in sorted(set(above) - {-1}):
                    inside = [index - first for index in self._under[key].tolist()]
                    context = entry.passages[inside[0]].context
                    lexical.append(LexicalRow(key, "\n".join(bodies[index] for index in inside), context))
            parent += above
            self._texts += bodies
            entries.append((EntryId(name), lexical))
            title = quality.documents[name].attributes.title or entry.title
            if title:
                self._titles.add(at, title)
        self._chat = np.array([bool(p.messages) for e in self._parsed for p in e.passages], dtype=np.bool_)
        self._owner = np.array(owner, dtype=np.int64)
        self._parent = np.array(parent, dtype=np.int64)
        self.vectors = FlatVectors(rows.shape[1])
        self.vectors.add(np.arange(len(rows)), rows)
        if node_vectors:
            self.vectors.add(np.arange(len(rows), next_node), np.array(node_vectors))
        self._passages = np.arange(next_node) < len(rows)
        write_lexical(folder, entries)
        self.words = LexicalIndex(folder)

    def matrices(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the vectors of all passages and of all questions."""
        return self.vectors.rows(np.flatnonzero(self._passages)), np.array(list(self._queries.values()))

    # what retrieval.rank asks of a catalog

    def parents(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._parent[passages]

    def neighbours(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        beside = np.stack([passages - 1, passages + 1], axis=1)
        outside = (beside < 0) | (beside >= len(self._owner))
        same = self._owner[np.where(outside, 0, beside)] == self._owner[passages][:, None]
        return np.where(same & ~outside, beside, -1)

    def sources(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._owner[passages]

    def passages_under(self, node: int) -> npt.NDArray[np.int64]:
        return self._under[node]

    def sizes(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.array([len(self._under[node]) for node in nodes.tolist()], np.int64)

    def passages_of(self, source: int) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self._owner == source)

    def are_chat(self, passages: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return self._chat[passages]

    def names(self, passages: npt.NDArray[np.int64]) -> list[str]:
        return [f"{self.ids[self._owner[key]]}:{key:09d}" for key in passages.tolist()]

    def texts(self, passages: npt.NDArray[np.int64]) -> list[str]:
        return [self._texts[key] for key in passages.tolist()]

    def mentioned(self, text: str) -> Mapping[str, Sequence[int]]:
        return self._titles.find(text)

    # the contestants

    def lexical(self, query: str, limit: int) -> list[str]:
        """BM25 over passages alone."""
        keys, _ = self.words.search(query, limit=limit, allowed=self._passages)
        return self._documents(keys)

    def dense(self, query: str, limit: int) -> list[str]:
        """Cosine over passages alone."""
        keys, _ = self.vectors.search(self._queries[query], limit=limit, allowed=self._passages)
        return self._documents(keys)

    def rank_fusion(self, query: str, limit: int) -> list[str]:
        """Reciprocal rank fusion of the two, over documents (Cormack et al. 2009)."""
        scores: dict[str, float] = {}
        for ranking in (self.lexical(query, limit), self.dense(query, limit)):
            for place, document in enumerate(dict.fromkeys(ranking), start=1):
                scores[document] = scores.get(document, 0.0) + 1 / (DAMPING + place)
        return sorted(scores, key=lambda document: -scores[document])

    def lethe(self, query: str, limit: int) -> list[str]:
        """What the service's recall does."""
        return [self.ids[hit.source] for hit in self.rank(query, limit, hierarchy=True)]

    def lethe_flat(self, query: str, limit: int) -> list[str]:
        """The same with the hierarchy turned off."""
        return [self.ids[hit.source] for hit in self.rank(query, limit, hierarchy=False)]

    def rank(self, query: str, limit: int, *, hierarchy: bool) -> list[Ranked]:
        """Return passages as the service's recall ranks them."""
        return rank(
            Question(query, self._queries[query]),
            vectors=self.vectors,
            words=self.words,
            catalog=self,
            limit=limit,
            passages=self._passages,
            nodes=~self._passages if hierarchy else None,
        )

    def messages(self, key: int) -> tuple[str, ...]:
        """Return the ids of the messages a passage is made of."""
        return self.passage(key)[0].messages

    def passage(self, key: int) -> tuple[Passage, str]:
        """Return a passage and the whole text that its span is of."""
        source = int(self._owner[key])
        first = int(np.searchsorted(self._owner, source))
        return self._parsed[source].passages[key - first], self._parsed[source].text

    def _documents(self, keys: npt.NDArray[np.int64]) -> list[str]:
        return [self.ids[self._owner[key]] for key in keys.tolist()]


def compare(
    quality: QualitySet, encoder: Encoder, folder: Path, *, vectors: Path | None
) -> dict[str, dict[str, float]]:
    """Return contestant → figure → mean, both halves of the queries beside it, and the time of one query."""
    offline = Offline(quality, encoder, folder, vectors=vectors)
    contestants: dict[str, Search] = {
        "lexical": offline.lexical,
        "dense": offline.dense,
        "rank fusion": offline.rank_fusion,
        "lethe flat": offline.lethe_flat,
        "lethe": offline.lethe,
    }
    table: dict[str, dict[str, float]] = {}
    for contestant, search in contestants.items():
        started = time.perf_counter()
        values = evaluate(quality, search)
        seconds = time.perf_counter() - started
        row = {}
        for figure, each in values.items():
            row[figure] = float(np.mean(each))
            row[f"{figure} odd"] = float(np.mean(each[1::2]))
            row[f"{figure} even"] = float(np.mean(each[0::2]))
        row["ms_per_query"] = 1000 * seconds / len(quality.queries)
        table[contestant] = {name: round(value, 4) for name, value in row.items()}
    offline.words.close()
    return table


def main() -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--model", type=Path, help="folder of an encoder; the default model otherwise")
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    folder = arguments.model or ModelStore(default_cache(os.environ)).get(MODEL)
    encoder = TextEncoder(folder, name=MODEL)
    if arguments.vectors:
        arguments.vectors.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.sets.split(","):
        if not (DATA / name).is_dir():
            print(f"{name}: skipped, {DATA / name} is absent")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = compare(
                load_set(name), encoder, Path(scratch) / "words", vectors=arguments.vectors
            )
        print(f"{name} (floors: {FLOORS[name]})")
        for contestant, row in results[name].items():
            print(
                f"  {contestant:12s} " + "  ".join(f"{figure} {value:.4f}" for figure, value in row.items())
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
