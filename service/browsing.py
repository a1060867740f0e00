"""Walking the hierarchy: topics, sources and sections with what they say in their own sentences.

A topic's id is its artifact's name, a source's is its own, a section's its entry's with the section's
number. Everything is read while the fence is held: what has anything denied among its inputs is hidden until
it is folded again, and its summaries, counts and times with it. Nothing here knows HTTP.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from memory.clock import to_datetime
from memory.errors import NotFoundError
from memory.kernel import Kernel, find_denied
from memory.ledger import find_closure, list_artifacts, list_links
from memory.tables import denied, forgets
from memory.values import ArtifactName, EntryId, Parsed, SourceId, TenantId
from retrieval.analysis import STOP_WORDS
from retrieval.hierarchy import summarise
from service.cards import Card
from service.index import Indexes
from service.ingest import name_artifacts
from service.recall import Recaller, make_passage_id
from service.state import State
from service.topics import StoredTopic, read_topics, time_of
from service.views import NodeChild, NodeView, Sentence

LABEL_WORDS = 5
SUBJECTS_SHOWN = 50
LARGEST_COUNTED = 4096
"""Subjects are counted for nodes of at most so many sources: the fence is held meanwhile."""

Key = tuple[int, str]
"""Where a listing of topics stands: a level and a name."""

_SECTION_ID = re.compile(r"(?P<entry>.+)\.s(?P<section>\d{1,9})")
_WORD = re.compile(r"[^\W\d_][\w'’-]{2,}")
_STOPPED = frozenset(STOP_WORDS)


class Browser:
    """Answers from one state and one look at the ledger; made for each request, under the fence."""

    def __init__(
        self,
        kernel: Kernel,
        indexes: Indexes,
        recaller: Recaller,
        connection: sa.Connection,
        tenant: TenantId,
    ) -> None:
        self._kernel = kernel
        self._indexes = indexes
        self._recaller = recaller
        self._connection = connection
        self._tenant = tenant
        self._state: State = indexes.get(tenant).state
        self._hidden = _find_hidden(connection, tenant)

    def list_topics(
        self, *, level: int | None, after: Key | None, limit: int
    ) -> tuple[list[NodeView], Key | None]:
        """Return up to ``limit`` topics, and the key of the last when there are more.

        Those of one level; by default the roots: topics that are in no other one that can be seen.
        """
        above, levels = self._map_topics()
        unseen = {*self._hidden, None}
        shown = [
            name
            for name, height in levels.items()
            if name not in unseen and (above.get(name) in unseen if level is None else height == level)
        ]
        keys = sorted((-levels[name], name) for name in shown)
        wanted = [key for key in keys if after is None or key > (-after[0], after[1])]
        page = wanted[:limit]
        stored = self._read([ArtifactName(name) for _, name in page])
        found = [self._see_topic(stored[name], above.get(name)) for _, name in page if name in stored]
        last = (-page[-1][0], str(page[-1][1])) if len(wanted) > limit else None
        return found, last

    def get_node(self, node_id: str, *, skip: int, limit: int) -> NodeView:
        """Return a topic, a source or a section with up to ``limit`` children behind the first ``skip``."""
        section = _SECTION_ID.fullmatch(node_id)
        if section is not None:
            card = self._find_card(EntryId(section["entry"]))
            if card is not None and int(section["section"]) > 0:
                return self._see_entry(card, int(section["section"]), skip, limit)
        elif (ordinals := self._state.versions.get(SourceId(node_id))) and (
            card := self._find_card(self._state.cards[ordinals[-1]].row.id)
        ):
            return self._see_entry(card, 0, skip, limit)
        elif node_id not in self._hidden and (topic := self._read([ArtifactName(node_id)]).get(node_id)):
            above = self._find_above(topic.name)
            return self._see_topic(topic, above, skip=skip, limit=limit)
        raise NotFoundError("node", node_id)

    def _map_topics(self) -> tuple[dict[str, str], dict[str, int]]:
        """Return the topic over each topic that has one, and every topic's level."""
        recipe = self._indexes.recipes.topics.name
        names = [name for name, _ in list_artifacts(self._connection, self._tenant, recipe)]
        above = {below: str(over) for over, below in list_links(self._connection, self._tenant, recipe)}
        levels = dict.fromkeys(map(str, names), 1)
        for name in names:
            height, over = 1, above.get(name)
            while over is not None and levels.get(over, 0) < (height := height + 1):
                levels[over] = height
                over = above.get(over)
        return above, levels

    def _read(self, names: Sequence[ArtifactName]) -> Mapping[str, StoredTopic]:
        found = read_topics(self._kernel, self._indexes, self._connection, self._tenant, names)
        return {str(name): topic for name, topic in found.items()}

    def _find_above(self, name: ArtifactName) -> str | None:
        """Return the topic that can be seen over a topic, or over what is made of an entry."""
        recipe = self._indexes.recipes.topics.name
        over = list_links(self._connection, self._tenant, recipe, below=name)
        return next((artifact for artifact, _ in over if artifact not in self._hidden), None)

    def _find_card(self, entry_id: EntryId) -> Card | None:
        """Return an entry that may be seen."""
        ordinal = self._state.ordinals.get(entry_id)
        if ordinal is None or not self._state.get_version(ordinal):
            return None
        if find_denied(self._connection, self._tenant, [entry_id]):
            return None
        return self._state.cards[ordinal]

    # What is seen of a topic

    def _see_topic(self, topic: StoredTopic, above: str | None, *, skip: int = 0, limit: int = 0) -> NodeView:
        summary = self._summarise([EntryId(i) for i in self._find_speakers(topic)])
        children = self._list_below(topic) if limit else []
        return NodeView(
            id=topic.name,
            kind="topic",
            level=topic.level,
            label=_label(summary),
            title=None,
            parent=None if above in self._hidden else above,
            children=tuple(children[skip : skip + limit]),
            more_children=len(children) > skip + limit,
            summary=summary,
            sources=topic.sources,
            passages=topic.passages,
            first_at=to_datetime(topic.first_us),
            last_at=to_datetime(topic.last_us),
            subjects=self._count_subjects(topic) if limit else None,
        )

    def _find_speakers(self, topic: StoredTopic) -> list[str]:
        """Return the entries whose sentences stand for a topic; for a topic below, its first speaker's."""
        if topic.level == 1:
            entry_of = dict(zip(topic.members, topic.entries, strict=True))
            return [entry_of[member] for member in topic.speakers]
        below = {one.leader: one for one in self._read_below(topic)}
        return [self._find_speakers(below[member])[0] for member in topic.speakers if member in below]

    def _read_below(self, topic: StoredTopic) -> list[StoredTopic]:
        """Return the topics a topic gathers, in its members' order."""
        recipe = self._indexes.recipes.topics.name
        names = [below for _, below in list_links(self._connection, self._tenant, recipe, over=topic.name)]
        found = {one.leader: one for one in self._read([ArtifactName(name) for name in names]).values()}
        return [found[member] for member in topic.members if member in found]

    def _list_below(self, topic: StoredTopic) -> list[NodeChild]:
        if topic.level > 1:
            return [
                NodeChild(one.name, "topic", None, one.sources, one.passages)
                for one in self._read_below(topic)
            ]
        cards = [self._state.cards[self._state.ordinals[EntryId(i)]] for i in topic.entries]
        return [NodeChild(card.row.source_id, "source", card.title, 1, card.passages) for card in cards]

    def _count_subjects(self, topic: StoredTopic) -> tuple[tuple[str, int], ...] | None:
        if topic.sources > LARGEST_COUNTED:
            return None
        level = [topic]
        while level[0].level > 1:
            level = [below for one in level for below in self._read_below(one)]
        cards = [self._state.cards[self._state.ordinals[EntryId(i)]] for one in level for i in one.entries]
        return _count(card.attributes.subjects for card in cards)

    def _summarise(self, entry_ids: Sequence[EntryId]) -> tuple[Sentence, ...]:
        parsed = self._recaller.load_parsed(self._tenant, entry_ids)
        return tuple(
            sentence
            for entry_id in entry_ids
            if entry_id in parsed
            for sentence in self._quote(entry_id, parsed[entry_id], 0)
        )

    def _quote(self, entry_id: EntryId, parsed: Parsed, section: int) -> list[Sentence]:
        """Return the sentences that stand for an entry or one of its sections."""
        card = self._state.cards[self._state.ordinals[entry_id]]
        spans = next((node.summary for node in card.nodes if node.section == section), None)
        if spans is None:  # a source of a single passage has no node of its own
            spans = summarise(parsed, range(len(parsed.passages)))
        source_id = card.row.source_id
        return [Sentence(source_id, entry_id, start, end, parsed.text[start:end]) for start, end in spans]

    # What is seen of a source or a section

    def _see_entry(self, card: Card, section: int, skip: int, limit: int) -> NodeView:
        node = next((node for node in card.nodes if node.section == section), None)
        parsed = self._recaller.load_parsed(self._tenant, [card.row.id]).get(card.row.id)
        if parsed is None or (section and node is None):
            raise NotFoundError("node", f"{card.row.id}.s{section}" if section else card.row.source_id)
        passages = range(card.passages) if node is None else node.passages
        times = [p.occurred_at for i in passages if (p := parsed.passages[i]).occurred_at is not None]
        otherwise = to_datetime(time_of(card))
        summary = tuple(self._quote(card.row.id, parsed, section))
        children = _list_inside(card, parsed, section, passages)
        if section:
            parent: str | None = _section_above(card, parsed, section)
        else:
            recipes = self._indexes.recipes
            names = name_artifacts(self._kernel, recipes, self._tenant, card.row.id, timed=card.timed)
            parent = self._find_above(names.nodes)
        return NodeView(
            id=_section_id(card, section),
            kind="section" if section else "source",
            level=None,
            label=_label(summary),
            title=" > ".join(parsed.sections[section].heading) if section else card.title,
            parent=parent,
            children=tuple(children[skip : skip + limit]),
            more_children=len(children) > skip + limit,
            summary=summary,
            sources=1,
            passages=len(passages),
            first_at=min(times, default=otherwise),
            last_at=max(times, default=otherwise),
            subjects=_count([card.attributes.subjects]),
        )


def _section_id(card: Card, section: int) -> str:
    return f"{card.row.id}.s{section}" if section else card.row.source_id


def _list_inside(card: Card, parsed: Parsed, section: int, passages: Iterable[int]) -> list[NodeChild]:
    """Return the sections right below, and the passages that are in none of them, in reading order."""
    inside = set(passages)
    below = [node for node in card.nodes if node.section != section and inside > set(node.passages)]
    direct = [node for node in below if not any(set(o.passages) > set(node.passages) for o in below)]
    gathered = {index for node in direct for index in node.passages}
    found: list[tuple[int, NodeChild]] = [
        (
            node.passages[0],
            NodeChild(
                _section_id(card, node.section),
                "section",
                " > ".join(parsed.sections[node.section].heading),
                1,
                len(node.passages),
            ),
        )
        for node in direct
    ]
    for index in inside - gathered:
        found.append((index, NodeChild(make_passage_id(card.row.id, index), "passage", None, 1, 1)))
    return [child for _, child in sorted(found, key=lambda item: item[0])]


def _section_above(card: Card, parsed: Parsed, section: int) -> str:
    """Return the id of the smallest node around a section."""
    above = parsed.sections[section].parent
    held = {node.section for node in card.nodes}
    while above and above not in held:
        above = parsed.sections[above].parent
    return _section_id(card, above or 0)


def _label(summary: Iterable[Sentence]) -> tuple[str, ...]:
    """Return the words said most often in these sentences, the first said first among equals."""
    told: Counter[str] = Counter()
    written: dict[str, str] = {}
    for sentence in summary:
        for word in _WORD.findall(sentence.text):
            if word.lower() not in _STOPPED:
                told[word.lower()] += 1
                written.setdefault(word.lower(), word)
    return tuple(written[word] for word, _ in told.most_common(LABEL_WORDS))


def _count(subjects: Iterable[Iterable[str]]) -> tuple[tuple[str, int], ...]:
    """Return the most frequent subjects with the number of sources about them."""
    counts = Counter(subject for some in subjects for subject in set(some))
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SUBJECTS_SHOWN])


def _find_hidden(connection: sa.Connection, tenant_id: TenantId) -> set[str]:
    """Return every artifact that is still there and has something denied among its inputs.

    What earlier requests denied is gone from the ledger once they are certified.
    """
    unfinished = connection.scalars(
        sa.select(denied.c.entry_id)
        .join(forgets, forgets.c.id == denied.c.forget_id)
        .where(forgets.c.tenant_id == tenant_id, forgets.c.state != "certified")
    )
    return {str(name) for name in find_closure(connection, tenant_id, list(unfinished))}
