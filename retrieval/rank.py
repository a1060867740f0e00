"""Rank passages for a question: meaning and words on one scale, and one step along mentions.

Every candidate of either searcher is scored exactly by both (a convex combination of scores beats fusion of
ranks: Bruch et al. 2023). Cosines stand as they are; BM25 is divided by the geometric mean of the best
score found and the best score possible, so that a question whose words are nowhere does not trust its
words. With the hierarchy, the meaning of a small node over a passage counts beside its own, and a passage
gains from a better one next to it. Sources mentioned by title in the best passages are lifted, which finds
the second half of questions in two steps. Weights and what was tried: docs/decisions 0003 and 0007. Nothing
here knows how rows are stored, who asks, or what may be seen beyond the bitmap it is handed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retrieval.analysis import find_dates

Keys = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Allowed = npt.NDArray[np.bool_]

_DECIMALS = 9


class Vectors(Protocol):
    """Exact inner products of unit vectors (``retrieval.vectors``)."""

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]: ...

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores: ...


class Words(Protocol):
    """BM25 over passages (``retrieval.lexical``)."""

    def search(self, query: str, *, limit: int, allowed: Allowed | None = None) -> tuple[Keys, Scores]: ...

    def score(self, query: str, keys: npt.ArrayLike) -> Scores: ...

    def bound(self, query: str) -> float: ...

    def rarity(self, text: str) -> float: ...


class Catalog(Protocol):
    """What stands behind keys. ``source`` is any number one source's passages have in common."""

    def parents(self, passages: Keys) -> Keys:
        """Return the smallest node over each passage and others beside it; -1 where there is none."""

    def neighbours(self, passages: Keys) -> Keys:
        """Return the passages before and after each in its source, shape (passages, 2); -1 for none."""

    def sources(self, passages: Keys) -> Keys:
        """Return the source of each passage."""

    def passages_under(self, node: int) -> Keys:
        """Return the passages an inner node gathers."""

    def sizes(self, nodes: Keys) -> Keys:
        """Return how many passages each inner node gathers."""

    def passages_of(self, source: int) -> Keys:
        """Return all passages of a source."""

    def are_chat(self, passages: Keys) -> npt.NDArray[np.bool_]:
        """Tell passages made of chat turns; shape (keys,)."""

    def names(self, passages: Keys) -> Sequence[str]:
        """Return a name of each passage made from its content, by which ties are broken."""

    def texts(self, passages: Keys) -> Sequence[str]:
        """Return the text of each passage."""

    def mentioned(self, text: str) -> Mapping[str, Sequence[int]]:
        """Return the titles mentioned in ``text``, each with the sources that bear it (``Titles.find``)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much. One setting for all data.

    ``node_meaning`` is the share of the node's cosine in a passage's, where the smallest node over it gathers
    at most ``node_passages``; ``neighbour`` is how much of the distance to a better passage beside it one
    gains, looked for around the best ``neighbours_of`` of either searcher.
    """

    candidates: int = 100
    meaning: float = 2.0
    words: float = 1.5
    meaning_in_chats: float = 1.5
    node_meaning: float = 0.5
    node_passages: int = 6
    neighbour: float = 0.4
    neighbours_of: int = 20
    date: float = 0.6
    mention: float = 0.7
    mentioning_passages: int = 3
    nodes: int = 8
    passages_per_node: int = 256
    slope: float = 3.06
    midpoint: float = 2.12


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage found. ``score`` is a probability of relevance, 0..1; the rest says what it is made of."""

    key: int
    source: int
    score: float
    raw: float
    cosine: float
    bm25: float
    date: float
    mention: float


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the searchers need it: its text and its unit vector, shape (dimension,)."""

    text: str
    vector: npt.NDArray[np.float32]


def rank(
    question: Question,
    *,
    vectors: Vectors,
    words: Words,
    catalog: Catalog,
    limit: int,
    passages: Allowed,
    nodes: Allowed | None = None,
    weights: Weights = DEFAULT_WEIGHTS,
) -> list[Ranked]:
    """Return up to ``limit`` passages, best first; equal scores stand in the order of their names.

    ``passages`` and ``nodes`` are bitmaps over the rows of both indexes: the passages that may be found,
    and the inner nodes over them. Without ``nodes`` the hierarchy is not used.
    """
    if limit < 1:
        return []
    depth = max(weights.candidates, 2 * limit)
    near, nearness = vectors.search(question.vector, limit=depth, allowed=passages)
    worded, worth = words.search(question.text, limit=depth, allowed=passages)
    found = [near, worded]
    if nodes is not None:
        high, _ = vectors.search(question.vector, limit=weights.nodes, allowed=nodes)
        found += _leaves(high[: weights.nodes], catalog, weights)
        for keys, scores in ((near, nearness), (worded, worth)):
            found.append(_beside(keys, scores, catalog, weights))
    for date in find_dates(question.text):
        dated, _ = words.search(date, limit=depth, allowed=passages)
        found.append(dated)
    candidates = _permitted(np.unique(np.concatenate(found)), passages)
    scorer = _Scorer(question, vectors, words, catalog, nodes, weights)
    evidence = scorer.gather(candidates, worded, worth)
    scale = math.sqrt(float(evidence.bm25.max(initial=0.0)) * words.bound(question.text))
    own = scorer.combine(evidence, scale)

    def join(new: Keys) -> None:
        nonlocal candidates, evidence, own
        if len(new):
            more = scorer.gather(new, worded, worth)
            own = np.concatenate([own, scorer.combine(more, scale)])
            candidates = np.concatenate([candidates, new])
            evidence = evidence.join(more)

    raw = own if nodes is None else _lift_neighbours(candidates, own, catalog, weights)
    lifted = _mentions(candidates, raw, words, catalog, weights)
    join(_permitted(_unseen(lifted, candidates, catalog, weights), passages))
    raw = own if nodes is None else _lift_neighbours(candidates, own, catalog, weights)
    sources = catalog.sources(candidates)
    lift = _lift_best(raw, sources, lifted)
    raw = np.round(raw + lift, _DECIMALS)

    # Names are looked up for those alone that may be returned.
    leading = np.flatnonzero(raw >= np.sort(raw)[max(0, len(raw) - limit) :].min(initial=np.inf))
    names = dict(zip(leading.tolist(), catalog.names(candidates[leading]), strict=True))
    order = sorted(names, key=lambda at: (-raw[at], names[at]))[:limit]
    return [
        Ranked(
            key=int(candidates[at]),
            source=int(sources[at]),
            score=probability(float(raw[at]), weights),
            raw=float(raw[at]),
            cosine=float(evidence.cosines[at]),
            bm25=float(evidence.bm25[at]),
            date=float(evidence.dates[at]),
            mention=float(lift[at]),
        )
        for at in order
    ]


def probability(raw: float, weights: Weights = DEFAULT_WEIGHTS) -> float:
    """Return the chance that a passage of this raw score is relevant: logistic, fitted on public sets."""
    return round(1.0 / (1.0 + math.exp(-weights.slope * (raw - weights.midpoint))), 6)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What speaks for each passage; arrays of shape (passages,)."""

    cosines: Scores
    bm25: Scores
    dates: Scores
    chat: npt.NDArray[np.bool_]

    def join(self, more: _Evidence) -> _Evidence:
        return _Evidence(
            np.concatenate([self.cosines, more.cosines]),
            np.concatenate([self.bm25, more.bm25]),
            np.concatenate([self.dates, more.dates]),
            np.concatenate([self.chat, more.chat]),
        )


@dataclass(frozen=True, slots=True)
class _Scorer:
    question: Question
    vectors: Vectors
    words: Words
    catalog: Catalog
    nodes: Allowed | None
    weights: Weights

    def gather(self, passages: Keys, worded: Keys, worth: Scores) -> _Evidence:
        """Score passages exactly. Under a small node, the cosine is mixed with the node's.

        ``worth`` are the scores by words of those that were found by them, ``worded``.
        """
        found = np.isin(passages, worded)
        bm25 = np.empty(len(passages))
        order = np.argsort(worded)
        bm25[found] = worth[order[np.searchsorted(worded, passages[found], sorter=order)]]
        bm25[~found] = self.words.score(self.question.text, passages[~found])
        dates = np.zeros(len(passages))
        for date in find_dates(self.question.text):
            bears = self.words.score(date, passages) > 0.0
            dates[bears] = np.maximum(dates[bears], self.words.rarity(date))
        cosines = self.vectors.score(self.question.vector, passages)
        if self.nodes is not None and len(passages):
            cosines = self._mix_nodes(cosines, self.catalog.parents(passages), self.nodes)
        return _Evidence(cosines, bm25, dates, self.catalog.are_chat(passages))

    def _mix_nodes(self, cosines: Scores, parents: Keys, nodes: Allowed) -> Scores:
        most, share = self.weights.node_passages, self.weights.node_meaning
        over = _permitted(np.unique(parents[parents >= 0]), nodes)
        small = over[self.catalog.sizes(over) <= most]
        if not len(small):
            return cosines
        near = self.vectors.score(self.question.vector, small)
        above = dict(zip(small.tolist(), near.tolist(), strict=True))
        mixed = [above.get(node, own) for node, own in zip(parents.tolist(), cosines.tolist(), strict=True)]
        return (1.0 - share) * cosines + share * np.array(mixed)

    def combine(self, evidence: _Evidence, scale: float) -> Scores:
        """Return the raw scores: cosine, scaled BM25 and date, weighed."""
        weights = self.weights
        meaning = np.where(evidence.chat, weights.meaning_in_chats, weights.meaning)
        worded = evidence.bm25 / scale if scale > 0.0 else np.zeros_like(evidence.bm25)
        return meaning * evidence.cosines + weights.words * worded + weights.date * evidence.dates


def _leaves(nodes: Keys, catalog: Catalog, weights: Weights) -> list[Keys]:
    return [catalog.passages_under(int(node))[: weights.passages_per_node] for node in np.unique(nodes)]


def _permitted(keys: Keys, allowed: Allowed) -> Keys:
    known = keys[keys < len(allowed)]
    return known[allowed[known]]


def _beside(found: Keys, scores: Scores, catalog: Catalog, weights: Weights) -> Keys:
    """Return what stands beside the best of a search, best first, and beside those that tie with the last."""
    if not len(found):
        return found
    last = scores[min(weights.neighbours_of, len(found)) - 1]
    around = np.unique(catalog.neighbours(found[scores >= last]))
    return around[around >= 0]


def _lift_neighbours(candidates: Keys, raw: Scores, catalog: Catalog, weights: Weights) -> Scores:
    """Return scores in which a passage has gained a share of the distance to the better one beside it."""
    order = np.argsort(candidates)
    ordered, scores = candidates[order], raw[order]
    beside = raw
    for neighbours in catalog.neighbours(candidates).T:
        at = np.minimum(np.searchsorted(ordered, neighbours), len(ordered) - 1)
        beside = np.maximum(beside, np.where(ordered[at] == neighbours, scores[at], raw))
    return raw + weights.neighbour * (beside - raw)


def _mentions(
    candidates: Keys, raw: Scores, words: Words, catalog: Catalog, weights: Weights
) -> dict[int, float]:
    """Return what each source gains from being mentioned by title in the best passages of other sources.

    A rare title in the best passage gains most; sources that share a title share the gain.
    """
    count = weights.mentioning_passages
    if count < 1 or weights.mention <= 0.0 or len(candidates) == 0:
        return {}
    cut = np.sort(raw)[-min(count, len(raw))]
    leading = np.flatnonzero(raw >= cut)
    names = catalog.names(candidates[leading])
    ahead = sorted(range(len(leading)), key=lambda at: (-raw[leading[at]], names[at]))[:count]
    top = leading[ahead]
    own_sources = catalog.sources(candidates[top])
    gains: dict[int, float] = {}
    for at, text, own in zip(top, catalog.texts(candidates[top]), own_sources, strict=True):
        share = max(0.0, float(raw[at])) / max(float(raw[top[0]]), 1e-9)
        for title, sources in catalog.mentioned(text).items():
            if int(own) in sources:
                continue
            gain = weights.mention * share * words.rarity(title) / len(sources)
            for source in sources:
                gains[source] = max(gains.get(source, 0.0), gain)
    return gains


def _unseen(gains: Mapping[int, float], candidates: Keys, catalog: Catalog, weights: Weights) -> Keys:
    new = [catalog.passages_of(source)[: weights.passages_per_node] for source in sorted(gains)]
    if not new:
        return np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.concatenate(new), candidates)


def _lift_best(raw: Scores, sources: Keys, gains: Mapping[int, float]) -> Scores:
    """Give each mentioned source's gain to its best passage (and any that ties with it)."""
    lift = np.zeros_like(raw)
    for source, gain in gains.items():
        of_source = np.flatnonzero(sources == source)
        if len(of_source):
            best = of_source[raw[of_source] >= raw[of_source].max()]
            lift[best] = gain
    return lift
