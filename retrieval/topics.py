"""Topics: sources gathered around leaders, level by level, and folded again only where something changed.

A source leads by a hash of its own content, and belongs to the leader most similar to it; leaders are
gathered around fewer leaders in the same way. So the same sources give the same topics whatever came and
went. What an earlier fold found out about sources that are still the same is still true: only newcomers, and
those whose leader went, are compared with all leaders, the rest with new leaders alone.

All products are of whole numbers and exact (``retrieval.partition``). Nothing here knows stores or models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retrieval.hierarchy import SUMMARY_SENTENCES, Sum
from retrieval.partition import Steps, centre

FAN_OUT_BITS = 4
"""A source leads a topic of level ``n`` when its hash starts with ``4 n`` zero bits: 16 members on average.
"""

Units = Callable[[Sequence[str]], Steps]
"""Gives sources' directions in whole steps, shape (sources, dimension)."""

_MOST_LEVELS = 8
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Topic:
    """Sources that lie nearest to one leader, in hash order. Above level 1 members lead topics below."""

    level: int
    leader: str
    members: tuple[str, ...]


@dataclass(slots=True)
class Settled:
    """What an earlier fold found out at one level, as far as it still holds.

    ``leader_of`` tells the leader that was most similar among all in ``compared``, of members that are still
    what they were then, as is that leader.
    """

    leader_of: dict[str, str] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Folded:
    """What whoever folded last knows of it: the topics' names, and by level each leader with its version.

    A topic that still has the name it had then needs no comparing with those leaders.
    """

    names: frozenset[str]
    leaders: Mapping[int, Mapping[str, str]]


def rank_content(content_hash: bytes) -> int:
    """Return a uniform 64-bit number for a content: hashed once more, whatever hash the caller uses."""
    return int.from_bytes(hashlib.sha256(b"lethe topic leader\0" + content_hash).digest()[:8], "big")


def build_topics(
    ranks: Mapping[str, int], units: Units, settled: Mapping[int, Settled] | None = None
) -> list[Topic]:
    """Return the topics over sources (id → ``rank_content``), level by level, leaders in hash order.

    The result is a function of ranks and units alone; ``settled``, by level, only saves comparing. Equal
    similarity goes to the smaller hash. Fewer than two sources have no topics.
    """
    members = sorted(ranks, key=lambda source_id: (ranks[source_id], source_id))
    topics: list[Topic] = []
    if len(members) < 2:
        return topics
    for level in range(1, _MOST_LEVELS + 1):
        leaders = _leaders(members, ranks, level)
        cells: dict[str, list[str]] = {leader: [] for leader in leaders}
        places = _assign(members, leaders, units, (settled or {}).get(level, Settled()))
        for member, place in zip(members, places.tolist(), strict=True):
            cells[leaders[place]].append(member)
        topics.extend(Topic(level, leader, tuple(cell)) for leader, cell in cells.items())
        if len(leaders) == 1:
            break
        members = leaders
    return topics


def central_members(members: Sequence[str], units: Steps, count: int = SUMMARY_SENTENCES) -> tuple[str, ...]:
    """Return the members nearest to their common centre, nearest first: their summaries stand for a topic.

    ``units`` gives each member's direction. Equal nearness keeps the order given.
    """
    middle = centre(units.astype(np.int64).sum(axis=0, keepdims=True))[0]
    near = units @ middle
    return tuple(members[at] for at in np.argsort(-near, kind="stable")[:count].tolist())


def add_units(units: Steps) -> Sum:
    """Return the exact sum of directions, shape (rows, dimension) to (dimension,)."""
    total: Sum = units.astype(np.int64).sum(axis=0)
    return total


def _leaders(members: Sequence[str], ranks: Mapping[str, int], level: int) -> list[str]:
    """Return the members that lead at ``level``, at least one; of equal contents, one speaks for all."""
    below = 1 << max(0, 64 - FAN_OUT_BITS * level)
    leaders: list[str] = []
    for member in members:
        if leaders and ranks[member] >= below:
            break  # members stand in the order of their ranks
        if not leaders or ranks[member] != ranks[leaders[-1]]:
            leaders.append(member)
    return leaders


def _assign(
    members: Sequence[str], leaders: Sequence[str], units: Units, settled: Settled
) -> npt.NDArray[np.intp]:
    """Return each member's place among the leaders."""
    own = {leader: place for place, leader in enumerate(leaders)}
    places = np.array([own.get(settled.leader_of.get(member, ""), -1) for member in members], np.intp)
    fresh = [place for place, leader in enumerate(leaders) if leader not in settled.compared]
    loose = np.flatnonzero(places < 0)
    if len(loose):
        everyone = units(leaders)
        for part in _batches(loose):
            places[part] = (units([members[at] for at in part]) @ everyone.T).argmax(axis=1)
    if fresh and len(loose) < len(members):
        _move(members, leaders, places, np.setdiff1d(np.arange(len(members)), loose), fresh, units)
    for at, member in enumerate(members):
        if member in own:
            places[at] = own[member]
    return places


def _move(
    members: Sequence[str],
    leaders: Sequence[str],
    places: npt.NDArray[np.intp],
    staying: npt.NDArray[np.intp],
    fresh: Sequence[int],
    units: Units,
) -> None:
    """Move those to a fresh leader to whom it is more similar than their own, or as similar and smaller."""
    newcomers, new_places = units([leaders[place] for place in fresh]), np.array(fresh, np.intp)
    for part in _batches(staying):
        rows = units([members[at] for at in part])
        held, row_of = np.unique(places[part], return_inverse=True)
        similar = (rows * units([leaders[place] for place in held])[row_of]).sum(axis=1)
        products = rows @ newcomers.T
        best = products.argmax(axis=1)
        offered = products[np.arange(len(rows)), best]
        moves = (offered > similar) | ((offered == similar) & (new_places[best] < places[part]))
        places[part[moves]] = new_places[best[moves]]


def _batches(rows: npt.NDArray[np.intp]) -> Collection[npt.NDArray[np.intp]]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
