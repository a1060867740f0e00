"""The topic level: artifacts over the sources' newest versions, one per topic.

A topic is named by its members, so that folding again writes only the topics that changed, and reads the
vectors of those sources alone that have to be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import sqlalchemy as sa

from memory.clock import to_micros
from memory.kernel import Kernel, find_denied, get_position
from memory.ledger import Artifact, artifact_name, delete, iter_payloads, list_artifacts, put
from memory.values import ArtifactName, EntryId, TenantId
from retrieval.hierarchy import Sum
from retrieval.partition import Steps, centre
from retrieval.topics import Folded, Settled, Topic, add_units, build_topics, central_members, rank_content
from service.cards import Card
from service.generation import Generation
from service.index import Indexes
from service.ingest import name_artifacts, node_code


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic as stored: its members (sources at level 1), and whose summaries speak for it.

    ``entries`` are the versions that the members were in, in the same order, ``recipe`` the digest of what
    made it, ``total`` the sum of all its sources' directions. What follows is told of all those sources:
    how many they are and how many passages they have, and the times from the first to the last.
    """

    name: ArtifactName
    recipe: str
    level: int
    leader: str
    members: tuple[str, ...]
    entries: tuple[str, ...]
    speakers: tuple[str, ...]
    total: tuple[int, ...]
    sources: int
    passages: int
    first_us: int
    last_us: int


def fold_topics(kernel: Kernel, indexes: Indexes, tenant_id: TenantId, *, anew: bool = False) -> bool:
    """Make the topics of the current set; False, and nothing changed, when a forget came between.

    ``anew`` trusts no topic that there is. One fold at a time: of two, the one that saw less could otherwise
    write last.
    """
    with indexes.folding(tenant_id):
        return _fold_current(kernel, indexes, tenant_id, anew=anew)


def _fold_current(kernel: Kernel, indexes: Indexes, tenant_id: TenantId, *, anew: bool) -> bool:
    if anew:
        indexes.folded.pop(tenant_id, None)
    with kernel.database.read() as connection:
        before = get_position(connection, tenant_id)
        names = [name for name, _ in list_artifacts(connection, tenant_id, indexes.recipes.topics.name)]
        stored = list(read_topics(kernel, indexes, connection, tenant_id, [] if anew else names).values())
    # At least as new as the position: what was denied up to there is in no view of it.
    sources = _Sources(indexes.get(tenant_id))
    settled = _find_settled(sources, stored, indexes.folded.get(tenant_id))
    topics = build_topics(sources.ranks, sources.units, settled)
    made, kept = _to_artifacts(kernel, indexes, tenant_id, sources, topics, stored)
    with kernel.commit(tenant_id, ()) as commit:
        now = get_position(commit.connection, tenant_id)
        if now.epoch != before.epoch and find_denied(
            commit.connection, tenant_id, [EntryId(entry_id) for entry_id in sources.entries.values()]
        ):
            return False
        old = {name for name, _ in list_artifacts(commit.connection, tenant_id, indexes.recipes.topics.name)}
        delete(commit.connection, tenant_id, old - kept - made.keys())
        fresh = [artifact for name, artifact in made.items() if anew or name not in old]
        put(commit.connection, kernel.vault, tenant_id, fresh)
    leaders: dict[int, dict[str, str]] = defaultdict(dict)
    for topic in topics:
        leaders[topic.level][topic.leader] = sources.entries[topic.leader]
    indexes.folded[tenant_id] = Folded(frozenset(kept | made.keys()), leaders)
    return True


def time_of(card: Card) -> int:
    """Return when a source's content is from: when it happened where that is told, else when it came."""
    happened = card.attributes.occurred_at
    return card.row.recorded_us if happened is None else to_micros(happened)


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """What is told of some sources together: sums and extremes, which make those of topics above."""

    total: Sum
    sources: int
    passages: int
    first_us: int
    last_us: int

    @classmethod
    def of(cls, topic: StoredTopic) -> _Tally:
        total = np.array(topic.total, np.int64)
        return cls(total, topic.sources, topic.passages, topic.first_us, topic.last_us)

    @classmethod
    def join(cls, parts: Sequence[_Tally]) -> _Tally:
        return cls(
            np.array([part.total for part in parts]).sum(axis=0),
            sum(part.sources for part in parts),
            sum(part.passages for part in parts),
            min(part.first_us for part in parts),
            max(part.last_us for part in parts),
        )


class _Sources:
    """The sources that have passages, in their newest versions."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._state = state = generation.state
        self._ordinals: dict[str, int] = {}
        self.entries: dict[str, EntryId] = {}
        self.ranks: dict[str, int] = {}
        for ordinal in np.flatnonzero(state.list_visible(None)).tolist():
            card = state.cards[ordinal]
            if card.passages:
                self._ordinals[card.row.source_id] = ordinal
                self.entries[card.row.source_id] = card.row.id
                self.ranks[card.row.source_id] = rank_content(bytes.fromhex(card.row.content_key))

    def units(self, ids: Sequence[str]) -> Steps:
        """Return directions in whole steps, shape (sources, dimension)."""
        return centre(self._generation.total(np.array([self._ordinals[i] for i in ids], np.int64)))

    def tally(self, ids: Sequence[str], units: Steps) -> _Tally:
        """Return what is told of sources together; ``units`` are their directions."""
        cards = [self._state.cards[self._ordinals[i]] for i in ids]
        times = [time_of(card) for card in cards]
        return _Tally(add_units(units), len(ids), sum(c.passages for c in cards), min(times), max(times))

    def is_timed(self, source_id: str) -> bool:
        """Say whether a source is media or captions."""
        return self._state.cards[self._ordinals[source_id]].timed

    def is_still(self, source_id: str, entry_id: str) -> bool:
        """Say whether a source is in the version that it was in."""
        return self.entries.get(source_id) == entry_id


def read_topics(
    kernel: Kernel,
    indexes: Indexes,
    connection: sa.Connection,
    tenant_id: TenantId,
    names: Sequence[ArtifactName],
) -> dict[ArtifactName, StoredTopic]:
    """Return those of these topics that are there and made by today's recipe."""
    recipe = indexes.recipes.topics.digest.hex()
    payloads = iter_payloads(connection, kernel.vault, tenant_id, names)
    stored = [_load_topic(name, payload) for name, payload in payloads]
    return {topic.name: topic for topic in stored if topic is not None and topic.recipe == recipe}


def _find_settled(
    sources: _Sources, stored: Iterable[StoredTopic], folded: Folded | None
) -> dict[int, Settled]:
    """Return what holds of the topics there are, by level."""
    settled: dict[int, Settled] = defaultdict(Settled)
    names = set()
    for topic in stored:
        names.add(topic.name)
        entries = dict(zip(topic.members, topic.entries, strict=True))
        if not sources.is_still(topic.leader, entries[topic.leader]):
            continue
        level = settled[topic.level]
        level.compared.add(topic.leader)
        for member, entry_id in entries.items():
            if sources.is_still(member, entry_id):
                level.leader_of[member] = topic.leader
    if folded is not None and names <= folded.names:
        for number, leaders in folded.leaders.items():
            still = {leader for leader, entry_id in leaders.items() if sources.is_still(leader, entry_id)}
            settled[number].compared |= still
    return settled


def _to_artifacts(
    kernel: Kernel,
    indexes: Indexes,
    tenant_id: TenantId,
    sources: _Sources,
    topics: Sequence[Topic],
    stored: Iterable[StoredTopic],
) -> tuple[dict[ArtifactName, Artifact], set[ArtifactName]]:
    """Return the artifacts of topics that are new, and the names of those that stay as they are."""
    recipe = indexes.recipes.topics
    known = {topic.name: topic for topic in stored}
    same = {(topic.level, topic.leader, topic.members, topic.entries): topic.name for topic in known.values()}
    names: dict[tuple[int, str], ArtifactName] = {}
    tallies: dict[ArtifactName, _Tally] = {}
    made: dict[ArtifactName, Artifact] = {}
    kept: set[ArtifactName] = set()
    for topic in topics:
        entries = tuple(sources.entries[member] for member in topic.members)
        name = same.get((topic.level, topic.leader, topic.members, entries)) if topic.level == 1 else None
        inputs: list[str] = []
        if name is None:
            inputs = [
                name_artifacts(
                    kernel, indexes.recipes, tenant_id, entry_id, timed=sources.is_timed(member)
                ).nodes
                if topic.level == 1
                else names[topic.level - 1, member]
                for member, entry_id in zip(topic.members, entries, strict=True)
            ]
            name = artifact_name(kernel.vault, tenant_id, recipe, inputs)
        names[topic.level, topic.leader] = name
        if name in known:
            kept.add(name)
            tallies[name] = _Tally.of(known[name])
            continue
        if topic.level == 1:
            units = sources.units(topic.members)
            tally = sources.tally(topic.members, units)
        else:
            below = [tallies[names[topic.level - 1, member]] for member in topic.members]
            units = centre(np.array([one.total for one in below]))
            tally = _Tally.join(below)
        tallies[name] = tally
        speakers = central_members(topic.members, units)
        payload = _dump_topic(recipe.digest.hex(), topic, entries, speakers, tally)
        made[name] = Artifact(name, recipe.name, tuple(inputs), payload)
    return made, kept


def _dump_topic(
    recipe: str, topic: Topic, entries: tuple[str, ...], speakers: tuple[str, ...], tally: _Tally
) -> bytes:
    return orjson.dumps(
        {
            "recipe": recipe,
            "level": topic.level,
            "leader": topic.leader,
            "members": topic.members,
            "entries": entries,
            "speakers": speakers,
            "total": tally.total.tolist(),
            "code": node_code(tally.total),
            "sources": tally.sources,
            "passages": tally.passages,
            "first_us": tally.first_us,
            "last_us": tally.last_us,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _load_topic(name: ArtifactName, payload: bytes) -> StoredTopic | None:
    """Return a stored topic; ``None`` for one of an earlier form, which the next fold replaces."""
    value = orjson.loads(payload)
    if "recipe" not in value:
        return None
    return StoredTopic(
        name,
        value["recipe"],
        value["level"],
        value["leader"],
        tuple(value["members"]),
        tuple(value["entries"]),
        tuple(value["speakers"]),
        tuple(value["total"]),
        value["sources"],
        value["passages"],
        value["first_us"],
        value["last_us"],
    )
