"""The twin test: after any history, what is held equals what a store holds that never knew what was forgotten.

A Hypothesis state machine plays ingests, batches, updates, chats, forgets of every scope, compaction, folding,
interrupted work and restarts against one house; at the end the entries that survive are told to a
second house, in order and at their times, and nothing else. Content digests and ranked lists must be equal.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embedding.encoder import TextEncoder
from memory.clock import to_datetime
from memory.digest import digest_content
from memory.journal import get_content, list_entry_ids, list_rows
from memory.tables import key_metadata, metadata
from memory.values import (
    CUES_MEDIA_TYPE,
    MESSAGES_MEDIA_TYPE,
    STREAM_MEDIA_TYPE,
    Attributes,
    Content,
    EntryId,
    Part,
    SourceId,
    TenantId,
)
from service.remember import make_source_id
from service.topics import fold_topics
from service.views import Scope
from service.work import COMPACT
from tests.service.harness import House
from tests.tiny import build_tiny_encoder

SHARDS = 4
HISTORIES = int(os.environ.get("LETHE_TWIN_HISTORIES", "320"))
WORDS = [
    "ferry",
    "harbour",
    "kettle",
    "lamp",
    "winter",
    "engine",
    "rope",
    "ledger",
    "anchor",
    "cabin",
    "stove",
    "tide",
]
SUBJECTS = ("ada", "bo", "cy")
USERS = ("u1", "u2")
NAMES = ("north", "south")
STEP_US = 10_000_000


@dataclass(frozen=True)
class Told:
    """One entry as the model remembers it."""

    entry_id: str
    source_id: str
    at_us: int
    content: Content


@dataclass
class Pair:
    """Two houses with the same keys, and a fresh tenant in both for each history."""

    first: House
    second: House
    folder: Path
    serial: int = 0
    tenants: list[TenantId] = field(default_factory=list)

    def begin(self) -> TenantId:
        self.serial += 1
        tenant_id = TenantId(f"t{self.serial}")
        key = bytes(range(32))
        for house in (self.first, self.second):
            house.lethe.kernel.create_tenant(tenant_id)
            # Names are HMACs under the tenant's key: twins must share it to be comparable.
            vault: Any = house.lethe.kernel.vault
            vault.adopt_tenant_key(tenant_id, key)
        return tenant_id

    def end(self, tenant_id: TenantId) -> None:
        for house in (self.first, self.second):
            house.waker.drain()
            generation = house.lethe.indexes._live.pop(tenant_id, None)
            if generation is not None:
                generation.close()
            shutil.rmtree(house.data / "index" / tenant_id, ignore_errors=True)
            kernel = house.lethe.kernel
            vault: Any = kernel.vault
            for database, tables in ((kernel.database, metadata), (vault.database, key_metadata)):
                with database.write() as connection:
                    for table in tables.sorted_tables:
                        if table.name == "tenants":
                            connection.execute(table.delete().where(table.c.id == tenant_id))
                        elif table.name == "key_uses":
                            connection.execute(table.delete())
                        elif "tenant_id" in table.c:
                            connection.execute(table.delete().where(table.c.tenant_id == tenant_id))


_PAIR: Pair | None = None


@pytest.fixture(scope="module")
def pair() -> Any:
    global _PAIR
    # Hundreds of histories sync thousands of times; what a sync survives is tested elsewhere.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="lethe-twin-", dir=memory))
    encoder = TextEncoder(build_tiny_encoder(folder / "model"), name="tiny")
    _PAIR = Pair(House(folder / "first", encoder), House(folder / "second", encoder), folder)
    yield _PAIR
    _PAIR.first.close()
    _PAIR.second.close()
    shutil.rmtree(folder)


TEXTS = st.lists(st.sampled_from(WORDS), min_size=3, max_size=14).map(" ".join)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "subjects": st.lists(st.sampled_from(SUBJECTS), max_size=2, unique=True).map(tuple),
        "user_id": st.sampled_from((None, *USERS)),
        "metadata": st.sampled_from(({}, {"group": 1}, {"group": 2})),
    }
)


class Histories(RuleBasedStateMachine):
    """One random history on the first house, judged against its twin at the end."""

    def __init__(self) -> None:
        super().__init__()
        assert _PAIR is not None
        self.pair = _PAIR
        self.house = _PAIR.first
        self.told: list[Told] = []
        self.count = 0
        self.numbers: dict[str, int] = {}
        """The last segment's, by stream."""

    @initialize()
    def begin(self) -> None:
        self.tenant_id = self.pair.begin()
        self.house.clock.now_us = 1_750_000_000_000_000

    def _tick(self) -> int:
        self.house.clock.now_us += STEP_US
        return self.house.clock.now_us

    def _tell(self, contents: list[Content], *, drain: bool, put: SourceId | None = None) -> None:
        now = self._tick()
        ids = [f"{self.count + i:08x}".rjust(32, "e") for i in range(len(contents))]
        self.count += len(contents)
        self.house.ids.given = list(ids)
        done = self.house.lethe.remember(self.tenant_id, contents, source_id=put)
        assert not self.house.ids.given
        for entry_id, content, item in zip(ids, contents, done, strict=True):
            assert not item.unchanged
            earlier = [told.at_us for told in self.told if told.source_id == item.source_id]
            at_us = max([now, *(when + 1 for when in earlier[-1:])])
            self.told.append(Told(entry_id, item.source_id, at_us, content))
        if drain:
            self.house.waker.drain()

    def _content(self, text: str, attributes: dict[str, Any], **more: Any) -> Content:
        self.count += 1
        unique = f"{text} number {self.count} of the log."
        return Content("document", "text/plain", unique.encode(), Attributes(**attributes, **more))

    @rule(text=TEXTS, attributes=ATTRIBUTES, name=st.sampled_from((None, None, *NAMES)), drain=st.booleans())
    def ingest(self, text: str, attributes: dict[str, Any], name: str | None, drain: bool) -> None:
        """A new document, or under a known name the next version of one."""
        self._tell([self._content(text, attributes, external_id=name)], drain=drain)

    @rule(items=st.lists(st.tuples(TEXTS, ATTRIBUTES), min_size=2, max_size=4), drain=st.booleans())
    def batch(self, items: list[tuple[str, dict[str, Any]]], drain: bool) -> None:
        self._tell([self._content(text, attributes) for text, attributes in items], drain=drain)

    @rule(text=TEXTS, attributes=ATTRIBUTES)
    def long_document(self, text: str, attributes: dict[str, Any]) -> None:
        """Several passages under headings, so that sections and summaries are made."""
        self.count += 1
        parts = [f"# Part {i}\n\n{(text + f' item {self.count}-{i}. ') * 12}\n" for i in range(3)]
        body = "\n".join(parts).encode()
        self._tell([Content("document", "text/markdown", body, Attributes(**attributes))], drain=True)

    @rule(texts=st.lists(TEXTS, min_size=2, max_size=5), attributes=ATTRIBUTES)
    def chat(self, texts: list[str], attributes: dict[str, Any]) -> None:
        self.count += 1
        messages = [
            {"role": "user", "name": f"N{i % 2}", "content": f"{text} {self.count}", "id": f"m{i}"}
            for i, text in enumerate(texts)
        ]
        body = json.dumps(messages).encode()
        self._tell([Content("memory", MESSAGES_MEDIA_TYPE, body, Attributes(**attributes))], drain=True)

    @rule(attributes=ATTRIBUTES, name=st.sampled_from((None, *NAMES)), drain=st.booleans())
    def open_stream(self, attributes: dict[str, Any], name: str | None, drain: bool) -> None:
        if any(
            told.content.kind == "stream" and told.content.attributes.external_id == name is not None
            for told in self.told
        ):
            return  # it is open
        said = Attributes(**attributes, external_id=name, title="A log")
        content = Content("stream", STREAM_MEDIA_TYPE, b"", said)
        now, entry_id = self._tick(), self._next_id()
        opened = open_stream(self.house, self.tenant_id, content)
        assert opened == entry_id
        self.told.append(Told(entry_id, entry_id, now, content))
        if drain:
            self.house.waker.drain()

    @precondition(lambda self: self._streams())
    @rule(data=st.data(), texts=st.lists(TEXTS, max_size=3), attributes=ATTRIBUTES, drain=st.booleans())
    def append_segment(self, data: Any, texts: list[str], attributes: dict[str, Any], drain: bool) -> None:
        """The next one, a second long for each text; without any it is silent."""
        stream = data.draw(st.sampled_from(self._streams()))
        now, entry_id = self._tick(), self._next_id()
        number = self.numbers[stream.entry_id] = self.numbers.get(stream.entry_id, -1) + 1
        start_ms = 4000 * number
        cues = [
            {
                "start_ms": start_ms + 1000 * at,
                "end_ms": start_ms + 1000 * at + 900,
                "text": f"{text} {entry_id}",
            }
            for at, text in enumerate(texts)
        ]
        # Until its last cue ends, as it is read from them.
        end_ms = start_ms + 1000 * len(texts) - 100 if texts else start_ms + 4000
        part = Part(SourceId(stream.entry_id), number, start_ms, end_ms)
        told, own = stream.content.attributes, Attributes(**attributes)
        said = replace(
            told,
            subjects=tuple(dict.fromkeys((*told.subjects, *own.subjects))),
            metadata={**told.metadata, **own.metadata},
            part=part,
        )
        content = Content("segment", CUES_MEDIA_TYPE, json.dumps(cues).encode(), said)
        received = self.house.lethe.streams.append(self.tenant_id, part.stream_id, content)
        assert received.next_number == number + 1 and received.source_id is not None
        self.told.append(Told(entry_id, received.source_id, now, content))
        if drain:
            self.house.waker.drain()

    def _streams(self) -> list[Told]:
        return [told for told in self.told if told.content.kind == "stream"]

    def _next_id(self) -> str:
        entry_id = f"{self.count:08x}".rjust(32, "e")
        self.count += 1
        self.house.ids.given = [entry_id]
        return entry_id

    @precondition(lambda self: self._streams())
    @rule(data=st.data(), start=st.integers(0, 4), length=st.integers(1, 3), drain=st.booleans())
    def forget_stretch(self, data: Any, start: int, length: int, drain: bool) -> None:
        """Some seconds of a stream: the segments in which they lie, but for their cues before and after."""
        stream = data.draw(st.sampled_from(self._streams()))
        start_ms, end_ms = 3000 * start, 3000 * (start + length)

        def gone(told: Told) -> bool:
            part = told.content.attributes.part
            ours = part is not None and part.stream_id == stream.entry_id
            return ours and part.start_ms < end_ms and part.end_ms > start_ms  # type: ignore[union-attr]

        with self.house.lethe.kernel.database.read() as connection:
            known = set(list_entry_ids(connection, self.tenant_id))
        self._forget(Scope(ids=(stream.entry_id,), start_ms=start_ms, end_ms=end_ms), gone, drain)
        self._learn_rests(known)

    def _learn_rests(self, known: set[EntryId]) -> None:
        """What stays of segments is told as entries of their own, at their time and of their source."""
        kernel = self.house.lethe.kernel
        with kernel.database.read() as connection:
            fresh = sorted(set(list_entry_ids(connection, self.tenant_id)) - known)
            opener = kernel.vault.opener(self.tenant_id, fresh)
            rows = {row.id: row for row in list_rows(connection, self.tenant_id, fresh)}
            for entry_id in fresh:
                content = get_content(connection, opener, entry_id)
                assert content is not None and content.attributes.is_rest
                row = rows[entry_id]
                rest = Told(entry_id, row.source_id, row.recorded_us, content)
                # Where the one was that it is left of, so that the twin is told in the same order.
                after = [told for told in self.told if told.at_us > rest.at_us]
                self.told.insert(len(self.told) - len(after), rest)

    @precondition(lambda self: self._names())
    @rule(data=st.data(), text=TEXTS, attributes=ATTRIBUTES)
    def update_by_id(self, data: Any, text: str, attributes: dict[str, Any]) -> None:
        """PUT: the next version of a document, which keeps its name."""
        name, source_id = data.draw(st.sampled_from(sorted(self._names().items())))
        content = self._content(text, attributes, external_id=name)
        self._tell([content], drain=True, put=SourceId(source_id))

    def _names(self) -> dict[str, str]:
        documents = [told for told in self.told if told.content.kind == "document"]
        names = [(told.content.attributes.external_id, told.source_id) for told in documents]
        return {name: source_id for name, source_id in names if name is not None}

    def _forget(self, scope: Scope, gone: Any, drain: bool) -> None:
        self._tick()
        named = {told.entry_id for told in self.told if gone(told)}
        # What was said of a stream is said of each segment, which goes with it.
        matched = [
            told for told in self.told if told.entry_id in named or told.content.attributes.stream_id in named
        ]
        view = self.house.lethe.forget(self.tenant_id, scope, preview=False)
        assert view.counts["entries"] == len(matched)
        self.told = [told for told in self.told if told not in matched]
        hidden = {told.entry_id for told in matched}
        recalled = self.house.lethe.recall(self.tenant_id, "ferry harbour number log", limit=50)
        with self.house.lethe.reading(self.tenant_id):
            recalled = self.house.lethe.recheck_recall(self.tenant_id, recalled)
        assert not hidden & {hit.entry_id for hit in recalled.hits}, "fenced means gone from every reply"
        if drain:
            self.house.waker.drain()
            assert self.house.lethe.get_forget(self.tenant_id, view.id).state == "certified"

    @rule(subject=st.sampled_from(SUBJECTS), drain=st.booleans())
    def forget_subject(self, subject: str, drain: bool) -> None:
        self._forget(
            Scope(subjects=(subject,)), lambda told: subject in told.content.attributes.subjects, drain
        )

    @rule(user=st.sampled_from(USERS), drain=st.booleans())
    def forget_user(self, user: str, drain: bool) -> None:
        self._forget(Scope(user_id=user), lambda told: told.content.attributes.user_id == user, drain)

    @rule(name=st.sampled_from(NAMES), drain=st.booleans())
    def forget_external_id(self, name: str, drain: bool) -> None:
        self._forget(
            Scope(external_ids=(name,)), lambda told: told.content.attributes.external_id == name, drain
        )

    @rule(group=st.sampled_from((1, 2)), drain=st.booleans())
    def forget_filter(self, group: int, drain: bool) -> None:
        scope = Scope(filter={"metadata.group": group})
        self._forget(scope, lambda told: told.content.attributes.metadata.get("group") == group, drain)

    @precondition(lambda self: self.told)
    @rule(data=st.data(), drain=st.booleans())
    def forget_id(self, data: Any, drain: bool) -> None:
        chosen = data.draw(st.sampled_from(self.told))
        self._forget(
            Scope(ids=(chosen.source_id,)),
            lambda told: chosen.source_id in (told.source_id, told.content.attributes.stream_id),
            drain,
        )

    @precondition(lambda self: self.told)
    @rule(data=st.data(), drain=st.booleans())
    def forget_time_range(self, data: Any, drain: bool) -> None:
        """One stretch of time: may take one version of a document and leave another."""
        at = to_datetime(data.draw(st.sampled_from(self.told)).at_us)
        scope = Scope(time_from=at, time_to=at + timedelta(seconds=1))

        def gone(told: Told) -> bool:
            # What is said of a stream is of no time: its segments are.
            return told.content.kind != "stream" and at <= to_datetime(told.at_us) < at + timedelta(seconds=1)

        self._forget(scope, gone, drain)

    @rule()
    def compact(self) -> None:
        kernel = self.house.lethe.kernel
        with kernel.database.write() as connection:
            kernel.jobs.add(connection, self.tenant_id, COMPACT, [""])
        self.house.waker.drain()

    @rule()
    def catch_up(self) -> None:
        self.house.waker.drain()

    @rule()
    def restart(self) -> None:
        """Stop with work still queued, and start again."""
        self.house.restart()
        vault: Any = self.house.lethe.kernel.vault
        assert vault.name(self.tenant_id, "x", b"") == self.pair.second.lethe.kernel.vault.name(
            self.tenant_id, "x", b""
        )

    def teardown(self) -> None:
        if not hasattr(self, "tenant_id"):
            return
        try:
            self._judge()
        finally:
            self.pair.end(self.tenant_id)

    def _judge(self) -> None:
        twin = self.pair.second
        for told in self.told:
            twin.clock.now_us = told.at_us
            twin.ids.given = [told.entry_id]
            assert tell(twin, self.tenant_id, told.content) == told.source_id
            if told.content.kind not in ("stream", "segment"):
                assert told.source_id == self._expected_source(twin, told)
            twin.waker.drain()
        self.house.waker.drain()
        assert _ranked(self.house, self.tenant_id) == _ranked(twin, self.tenant_id)
        for house in (self.house, twin):
            house.lethe.indexes.rewrite(self.tenant_id)
            assert fold_topics(house.lethe.kernel, house.lethe.indexes, self.tenant_id)
        first = digest_content(self.house.lethe.stores, self.tenant_id)
        second = digest_content(twin.lethe.stores, self.tenant_id)
        assert first == second
        assert _ranked(self.house, self.tenant_id) == _ranked(twin, self.tenant_id)

    def _expected_source(self, house: House, told: Told) -> str:
        name = told.content.attributes.external_id
        return make_source_id(house.lethe.kernel, self.tenant_id, name, EntryId(told.entry_id))


def open_stream(house: House, tenant_id: TenantId, content: Content) -> str:
    view, fresh = house.lethe.streams.open(tenant_id, "text", content.attributes)
    assert fresh
    return view.id


def tell(house: House, tenant_id: TenantId, content: Content) -> str:
    """Tell a house an entry, whatever its kind; return its source's id."""
    if content.kind == "stream":
        return open_stream(house, tenant_id, content)
    if content.attributes.part is not None:
        received = house.lethe.streams.append(tenant_id, content.attributes.part.stream_id, content)
        assert received.source_id is not None
        return received.source_id
    return house.lethe.remember(tenant_id, [content])[0].source_id


def _ranked(house: House, tenant_id: TenantId) -> list[list[tuple[str, str, int, float]]]:
    queries = ("ferry in the harbour", "winter stove number 3", "ledger anchor", "N1 said tide")
    found = []
    for query in queries:
        recalled = house.lethe.recall(tenant_id, query, limit=30)
        found.append([(hit.passage_id, hit.text, hit.version, hit.score) for hit in recalled.hits])
    return found


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.timeout(1200 + HISTORIES * 4)
def test_forgetting_leaves_what_never_knowing_would(pair: Pair, shard: int) -> None:
    """digest(forget(S)) == digest(never told S), and so are the ranked lists."""
    run_state_machine_as_test(
        seed(shard)(Histories),
        settings=settings(
            max_examples=-(-HISTORIES // SHARDS),
            stateful_step_count=14,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
