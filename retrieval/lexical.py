"""BM25 over passages and nodes: the word index of one tenant (tantivy).

The only importer of tantivy. A row is a passage or an inner node, known by a number. A query is
plain text, never a query language. Statistics count removed rows until the folder is written anew
(``write_lexical``), so forgetting writes it anew. Where rows are numbered otherwise by and by, the index
knows them by names that stay. Nothing here knows vectors, ranking or the service.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tantivy

from memory.errors import UnavailableError
from memory.faults import point
from memory.values import EntryId
from retrieval.analysis import STOP_WORDS, normalise

Keys = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Allowed = npt.NDArray[np.bool_]
"""A bitmap over row keys, shape (keys,): a row may be found when ``allowed[key]``; keys beyond its end may
not.
"""

_WRITER_BYTES = 32_000_000
_LONGEST_TOKEN = 64
_MOST_TERMS = 64
_FEW = 2048
_SPARSE = 8
_MOST_TIES = 1024
_DECIMALS = 4
_K1 = 1.2
_META = "meta.json"
_MANAGED = ".managed.json"
_TRIES = 10


class Numbering(Protocol):
    """Today's numbers of rows that the index knows by other, lasting ones."""

    def to_names(self, keys: npt.ArrayLike) -> Keys:
        """Return the names of those keys that have one."""

    def to_keys(self, names: Keys) -> Keys:
        """Return the key of each name, -1 for a name that has none."""


@dataclass(frozen=True, slots=True)
class LexicalRow:
    """One findable row. ``key`` is non-negative and unique in the index, or the row's name where rows are
    numbered otherwise; ``context`` counts as text.
    """

    key: int
    body: str
    context: str = ""


def _analyzer() -> Any:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.remove_long(_LONGEST_TOKEN),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
        tantivy.Filter.custom_stopword(list(STOP_WORDS)),
        tantivy.Filter.stemmer("english"),
    ):
        builder = builder.filter(step)
    return builder.build()


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("key", indexed=True, fast=True)
    builder.add_text_field("entry", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("text", tokenizer_name="lethe", index_option="freq")
    return builder.build()


class LexicalIndex:
    """The word index in one folder, made there when the folder is empty. Safe to share between threads.

    One process writes a folder at a time; several may read it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._numbering: Numbering | None = None
        self._analyzer = _analyzer()
        self._index = tantivy.Index(_schema(), path=str(folder))
        self._index.register_tokenizer("lethe", self._analyzer)
        self._writer: Any = None
        self._lock = RLock()

    def numbered(self, numbering: Numbering) -> LexicalIndex:
        """Return a view for searching that knows rows by this numbering's keys; others are not found."""
        view = copy(self)
        view._numbering = numbering
        return view

    def add(self, entry_id: EntryId, rows: Sequence[LexicalRow]) -> None:
        """Add an entry's rows; they are found after ``commit``."""
        with self._lock:
            writer = self._open_writer()
            for row in rows:
                document = tantivy.Document()
                document.add_unsigned("key", row.key)
                document.add_text("entry", entry_id)
                document.add_text("text", normalise(f"{row.context}\n{row.body}"))
                writer.add_document(document)

    def remove(self, entry_ids: Collection[EntryId]) -> None:
        """Take entries' rows out, unknown ids ignored; they are gone from results after ``commit``.

        Their words stay in the files and statistics until ``write_lexical``.
        """
        with self._lock:
            writer = self._open_writer()
            for entry_id in entry_ids:
                writer.delete_documents_by_term("entry", entry_id)

    def commit(self) -> None:
        """Make what was added and removed durable and visible to searches that start later."""
        with self._lock:
            if self._writer is not None:
                point("words.commit")
                self._writer.commit()
            self._index.reload()

    def search(
        self, query: str, *, limit: int, allowed: Allowed | None = None, every: bool = False
    ) -> tuple[Keys, Scores]:
        """Return (keys, BM25 scores), best first, of the rows that share a word with ``query``.

        With ``every``, of those that have all its words (of a very long query, its rarest ones).
        Rows that tie with the last one come along (so a caller that breaks ties by content sees them all),
        up to ``limit`` + 1,024. The filter is exact however few rows it allows.
        """
        if limit < 1:
            return _nothing()
        searcher = self._searcher()
        wanted = self._wanted(searcher, query, tantivy.Occur.Must if every else tantivy.Occur.Should)
        if wanted is None:
            return _nothing()
        if allowed is None:
            return self._filled(searcher, wanted, limit, None)
        permitted = np.flatnonzero(allowed)
        if len(permitted) == 0:
            return _nothing()
        if len(permitted) <= _FEW and len(permitted) * _SPARSE < int(searcher.num_docs):
            return self._filled(searcher, self._among(wanted, permitted), limit, None)
        return self._filled(searcher, wanted, limit, allowed)

    def score(self, query: str, keys: npt.ArrayLike) -> Scores:
        """Return the BM25 score of each row in ``keys``, 0.0 where no word is shared; shape (keys,)."""
        asked = np.asarray(keys, dtype=np.int64)
        searcher = self._searcher()
        wanted = self._wanted(searcher, query) if len(asked) else None
        if wanted is None:
            return np.zeros(len(asked))
        distinct = np.unique(asked)
        found, scores = self._fetch(searcher, self._among(wanted, distinct), len(distinct))
        by_key = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([by_key.get(key, 0.0) for key in asked.tolist()], dtype=np.float64)

    def bound(self, query: str) -> float:
        """Return the score no row can exceed for ``query``: every word there, again and again."""
        searcher = self._searcher()
        rows = int(searcher.num_docs)
        total = math.fsum(
            count * _inverse_frequency(int(searcher.doc_freq("text", word)), rows)
            for word, count in self._words(searcher, query).items()
        )
        return round((_K1 + 1.0) * total, _DECIMALS)

    def rarity(self, text: str) -> float:
        """Return how rare the rarest word of ``text`` is: 0.0 in all rows, 1.0 in one or none."""
        searcher = self._searcher()
        rows = int(searcher.num_docs)
        seen = [int(searcher.doc_freq("text", word)) for word in self._words(searcher, text)]
        if not seen or rows < 2:
            return 0.0
        return round(1.0 - math.log(min(max(1, min(seen)), rows)) / math.log(rows), _DECIMALS)

    def list_words(self, text: str) -> frozenset[str]:
        """Return the words of ``text`` as rows have them: stemmed, without stop words."""
        return frozenset(self._analyzer.analyze(normalise(text)))

    def count_rows(self, entry_id: EntryId) -> int:
        """Return how many rows of an entry the files and statistics still hold, removed ones included."""
        return int(self._searcher().doc_freq("entry", entry_id))

    def num_docs(self) -> int:
        """Return how many rows can be found."""
        return int(self._searcher().num_docs)

    def link_to(self, folder: Path) -> None:
        """Put what is committed into an empty ``folder``, by hard links: files are never written to again.

        A merge may take files away meanwhile; then it begins anew with those that came instead.
        """
        with self._lock:
            for _ in range(_TRIES):
                if _link(self.folder, folder):
                    return
        raise UnavailableError("the word index changes too fast to be saved; it is saved later")

    def close(self) -> None:
        """Finish merges and give the folder's write lock back. Uncommitted rows are lost."""
        with self._lock:
            if self._writer is not None:
                self._writer.wait_merging_threads()
                self._writer = None

    def _searcher(self) -> Any:
        return self._index.searcher()

    def _open_writer(self) -> Any:
        if self._writer is None:
            self._writer = self._index.writer(heap_size=_WRITER_BYTES, num_threads=1)
        return self._writer

    def _wanted(self, searcher: Any, query: str, occur: Any = tantivy.Occur.Should) -> Any:
        """Return a query for rows with any (or all) of the words of ``query``, None when it has none."""
        parts = [
            (
                occur,
                tantivy.Query.boost_query(
                    tantivy.Query.term_query(self._index.schema, "text", word, index_option="freq"),
                    float(count),
                ),
            )
            for word, count in self._words(searcher, query).items()
        ]
        return tantivy.Query.boolean_query(parts) if parts else None

    def _words(self, searcher: Any, query: str) -> dict[str, int]:
        """Return the words of ``query`` with their counts; of a very long query the rarest known ones."""
        counts = Counter(self._analyzer.analyze(normalise(query)))
        words = sorted(counts)
        if len(words) > _MOST_TERMS:
            rarity = {word: int(searcher.doc_freq("text", word)) or 2**62 for word in words}
            words = sorted(sorted(words, key=lambda word: (rarity[word], word))[:_MOST_TERMS])
        return {word: counts[word] for word in words}

    def _among(self, wanted: Any, keys: npt.NDArray[np.int64]) -> Any:
        names = keys if self._numbering is None else self._numbering.to_names(keys)
        # One by one: a set of terms is looked up by an automaton, which takes six times as long.
        members = tantivy.Query.boolean_query(
            [
                (
                    tantivy.Occur.Should,
                    tantivy.Query.term_query(self._index.schema, "key", name, index_option="basic"),
                )
                for name in names.tolist()
            ]
        )
        return tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Must, tantivy.Query.const_score_query(members, 0.0)),
                (tantivy.Occur.Must, wanted),
            ]
        )

    def _filled(self, searcher: Any, wanted: Any, limit: int, allowed: Allowed | None) -> tuple[Keys, Scores]:
        """Fetch deeper and deeper until ``limit`` permitted rows and all their ties are in hand."""
        depth = limit + 16
        total = max(1, int(searcher.num_docs))
        while True:
            keys, scores = self._fetch(searcher, wanted, min(depth, total))
            exhausted = len(keys) < min(depth, total) or depth >= total
            floor = scores[-1] if len(scores) else 0.0
            if allowed is None:
                keys, scores = keys[keys >= 0], scores[keys >= 0]
            else:
                keep = (keys >= 0) & (keys < len(allowed))
                keep[keep] = allowed[keys[keep]]
                keys, scores = keys[keep], scores[keep]
            settled = len(keys) >= limit and (scores[limit - 1] > floor or len(keys) >= limit + _MOST_TIES)
            if exhausted or settled:
                if len(keys) <= limit:
                    return keys, scores
                with_ties = int(np.count_nonzero(scores >= scores[limit - 1]))
                end = min(with_ties, limit + _MOST_TIES)
                return keys[:end], scores[:end]
            depth *= 4

    def _fetch(self, searcher: Any, wanted: Any, limit: int) -> tuple[Keys, Scores]:
        hits = searcher.search(wanted, limit, count=False).hits
        if not hits:
            return _nothing()
        addresses = [address for _, address in hits]
        keys = np.array(searcher.fast_field_values("key", addresses), dtype=np.int64)
        if self._numbering is not None:
            keys = self._numbering.to_keys(keys)
        exact = np.array([score for score, _ in hits], dtype=np.float64)
        scores: Scores = np.asarray(np.round(exact, _DECIMALS), dtype=np.float64)
        order = np.lexsort((keys, -scores))
        return keys[order], scores[order]


def write_lexical(folder: Path, entries: Iterable[tuple[EntryId, Sequence[LexicalRow]]]) -> None:
    """Write a fresh index of these entries into ``folder``, which must not exist or be empty.

    Nothing of what an earlier index held is in it; its statistics are those of ``entries`` alone.
    """
    index = LexicalIndex(folder)
    for entry_id, rows in entries:
        index.add(entry_id, rows)
    index.commit()
    index.close()


def _link(source: Path, target: Path) -> bool:
    """Link an index into an empty folder; False, and nothing is there, when it changed meanwhile."""
    point("words.save")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    before = (source / _META).read_bytes()
    wanted = [segment["segment_id"].replace("-", "") for segment in json.loads(before)["segments"]]
    for path in source.iterdir():
        if path.name.partition(".")[0] in wanted or path.name == _MANAGED:
            try:
                os.link(path, target / path.name)
            except FileNotFoundError:
                return False
    (target / _META).write_bytes(before)
    return (source / _META).read_bytes() == before


def link_lexical(source: Path, target: Path) -> None:
    """Put the index that nobody writes to any more at ``source`` into an empty folder, by hard links.

    Locks are left out: linked, they would be one lock for all who write to their own folders.
    """
    point("words.open")
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".lock":
            os.link(path, target / path.name)


def _inverse_frequency(holding: int, rows: int) -> float:
    return math.log(1.0 + (rows - min(holding, rows) + 0.5) / (holding + 0.5))


def _nothing() -> tuple[Keys, Scores]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
