"""The topic level: artifacts over the sources' newest versions, one per topic.

A topic is named by its members, so that folding again writes only the topics that changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import orjson

from memory.kernel import Kernel, find_denied, get_position
from memory.ledger import Artifact, artifact_name, delete, iter_payloads, list_artifacts, put
from memory.values import ArtifactName, TenantId
from retrieval.hierarchy import Topic, build_topics, central_members
from service.generation import Card
from service.index import Indexes
from service.ingest import name_artifacts, node_code


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic as stored: its members (sources at level 1), and whose summaries speak for it."""

    name: ArtifactName
    level: int
    leader: str
    members: tuple[str, ...]
    speakers: tuple[str, ...]


def fold_topics(kernel: Kernel, indexes: Indexes, tenant_id: TenantId) -> bool:
    """Make the topics of the current set; False, and nothing changed, when a forget came between.

    One fold at a time: of two, the one that saw less could otherwise write last.
    """
    with indexes.folding(tenant_id):
        return _fold_current(kernel, indexes, tenant_id)


def _fold_current(kernel: Kernel, indexes: Indexes, tenant_id: TenantId) -> bool:
    with kernel.database.read() as connection:
        before = get_position(connection, tenant_id)
    state = indexes.get(tenant_id).state
    visible = np.flatnonzero(state.list_visible(None))
    with kernel.database.read() as connection:
        ids = [state.cards[at].row.id for at in visible]
        hidden = find_denied(connection, tenant_id, ids)
    cards: dict[str, Card] = {
        state.cards[at].row.source_id: state.cards[at]
        for at in visible
        if state.cards[at].row.id not in hidden and state.cards[at].passages
    }
    made = _to_artifacts(kernel, indexes, tenant_id, cards)
    with kernel.commit(tenant_id, ()) as commit:
        now = get_position(commit.connection, tenant_id)
        if now.epoch != before.epoch:
            used = {card.row.id for card in cards.values()}
            if find_denied(commit.connection, tenant_id, used):
                return False
        recipe = indexes.recipes.topics.name
        old = {name for name, _ in list_artifacts(commit.connection, tenant_id, recipe)}
        delete(commit.connection, tenant_id, old - made.keys())
        fresh = [artifact for name, artifact in made.items() if name not in old]
        put(commit.connection, kernel.vault, tenant_id, fresh)
    return True


def _to_artifacts(
    kernel: Kernel, indexes: Indexes, tenant_id: TenantId, cards: Mapping[str, Card]
) -> dict[ArtifactName, Artifact]:
    recipe = indexes.recipes.topics
    totals = {source_id: card.total for source_id, card in cards.items()}
    topics = build_topics(
        {source_id: (bytes.fromhex(card.row.content_key), card.total) for source_id, card in cards.items()}
    )
    names: dict[tuple[int, str], ArtifactName] = {}
    sums = {(0, source_id): total for source_id, total in totals.items()}
    made: dict[ArtifactName, Artifact] = {}
    for topic in topics:
        inputs = [
            name_artifacts(kernel, indexes.recipes, tenant_id, cards[member].row.id).nodes
            if topic.level == 1
            else names[topic.level - 1, member]
            for member in topic.members
        ]
        name = artifact_name(kernel.vault, tenant_id, recipe, inputs)
        names[topic.level, topic.leader] = name
        sums[topic.level, topic.leader] = topic.total
        speakers = central_members(topic, {m: sums[topic.level - 1, m] for m in topic.members})
        made[name] = Artifact(name, recipe.name, tuple(inputs), _dump_topic(topic, speakers))
    return made


def _dump_topic(topic: Topic, speakers: tuple[str, ...]) -> bytes:
    return orjson.dumps(
        {
            "level": topic.level,
            "leader": topic.leader,
            "members": topic.members,
            "speakers": speakers,
            "total": topic.total.tolist(),
            "code": node_code(topic.total),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def list_topics(kernel: Kernel, indexes: Indexes, tenant_id: TenantId) -> list[TopicView]:
    """Return the topics, highest level first."""
    with kernel.database.read() as connection:
        names = [name for name, _ in list_artifacts(connection, tenant_id, indexes.recipes.topics.name)]
        found = [
            (name, orjson.loads(payload))
            for name, payload in iter_payloads(connection, kernel.vault, tenant_id, names)
        ]
    views = [
        TopicView(n, t["level"], t["leader"], tuple(t["members"]), tuple(t["speakers"])) for n, t in found
    ]
    return sorted(views, key=lambda view: (-view.level, view.name))
