"""What the fault tests remember and forget: one document of every kind, each with words of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding.encoder import TextEncoder
from memory.digest import digest_content
from memory.ledger import Recipe, iter_payloads
from memory.parsed import load_parsed
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content, EntryId, PassageId, SourceId, TenantId
from service.index import Indexes
from service.ingest import name_artifacts
from service.payloads import load_vectors
from service.topics import fold_topics
from service.views import Scope
from tests.service.harness import House

TENANT = TenantId("t")
KEY = bytes(range(32))
EXAMPLES = Path(__file__).parents[2] / "examples" / "harbour"
STEP_US = 1_000_000
SECRET = "zquorvex"
"""A word that stands in everything that is forgotten, and nowhere else."""

READ = Recipe("kv", 1, {"model": "of the tests"})

QUESTION = f"Who carries the {SECRET} lantern to the tower?"


@dataclass
class Told:
    """One entry as it was told, so that a twin can be told the same."""

    entry_id: EntryId
    at_us: int
    content: Content
    source_id: SourceId


@dataclass
class World:
    """A house and what it was told, in order."""

    house: House
    told: list[Told] = field(default_factory=list)

    @property
    def indexes(self) -> Indexes:
        return self.house.lethe.indexes

    def tell(self, content: Content, *, entry_id: str | None = None, drain: bool = True) -> Told:
        """Remember one content under an entry id of its own."""
        self.house.clock.now_us += STEP_US
        made = EntryId(entry_id or f"{len(self.told):08x}".rjust(32, "e"))
        self.house.ids.given = [made]
        done = self.house.lethe.remember(TENANT, [content])[0]
        told = Told(made, self.house.clock.now_us, content, done.source_id)
        self.told.append(told)
        if drain:
            self.house.waker.drain()
        return told

    def forget(self, scope: Scope, *, drain: bool = True) -> str:
        """Fence a scope, and with ``drain`` see it certified; return the request's id."""
        self.house.clock.now_us += STEP_US
        view = self.house.lethe.forget(TENANT, scope, preview=False)
        if drain:
            self.house.waker.drain()
            state = self.house.lethe.get_forget(TENANT, view.id)
            assert state.state == "certified", state
        return view.id

    def read(self, told: Sequence[Told]) -> None:
        """Keep something of each entry's first passage on the shelf, as a reader does: here its very words."""
        shelf = self.house.lethe.shelves.of(TENANT)
        for one in told:
            shelf.keep(READ, PassageId(f"{one.entry_id}.0"), "\n".join(self.texts_of([one])).encode())

    def find_read(self, told: Sequence[Told]) -> set[EntryId]:
        """Return of which entries the shelf gives out what was kept, compared word for word."""
        passages = {PassageId(f"{one.entry_id}.0"): one for one in told}
        found = self.house.lethe.shelves.of(TENANT).find(READ, list(passages), unpack)
        for passage, payload in found.items():
            assert payload.decode() == "\n".join(self.texts_of([passages[passage]]))
        return {passages[passage].entry_id for passage in found}

    def texts_of(self, told: Sequence[Told]) -> list[str]:
        """Return the bodies that are text, and all that was extracted."""
        texts = [one.content.body.decode() for one in told if one.content.media_type.startswith("text/")]
        kernel = self.house.lethe.kernel
        names = [name_artifacts(kernel, self.indexes.recipes, TENANT, one.entry_id).parse for one in told]
        with kernel.database.read() as connection:
            payloads = iter_payloads(connection, kernel.vault, TENANT, names)
            return texts + [load_parsed(payload).text for _, payload in payloads]

    def vectors_of(self, told: Sequence[Told]) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of entries."""
        kernel = self.house.lethe.kernel
        names = [name_artifacts(kernel, self.indexes.recipes, TENANT, one.entry_id).vectors for one in told]
        dimension = self.indexes.encoder.space.dimension
        with kernel.database.read() as connection:
            payloads = iter_payloads(connection, kernel.vault, TENANT, names)
            return [load_vectors(payload, dimension) for _, payload in payloads]

    def digest(self) -> dict[str, str]:
        """Return the digest of the content plane as it is."""
        return digest_content(self.house.lethe.stores, TENANT)

    def compact(self) -> None:
        """Finish all work, write the index anew and fold the topics."""
        self.house.waker.drain()
        self.indexes.rewrite(TENANT)
        assert fold_topics(self.house.lethe.kernel, self.indexes, TENANT)

    def pass_time(self) -> None:
        """Let every pause between two attempts pass, and do what is due."""
        self.house.clock.now_us += 200 * STEP_US
        self.house.waker.drain()

    def ranked(self) -> list[tuple[str, str, float]]:
        """Return what recall finds for a few questions, with its scores."""
        found = []
        for query in (QUESTION, "when does the ferry leave the harbour", "the keeper of the garden tower"):
            recalled = self.house.lethe.recall(TENANT, query, limit=30)
            found += [(hit.passage_id, hit.text, hit.score) for hit in recalled.hits]
        return found

    def close(self) -> None:
        self.house.close()


def unpack(payload: bytes) -> bytes:
    """Do what a reader does with a payload: here nothing; tests stop at it."""
    return payload


def open_world(folder: Path, encoder: TextEncoder, **settings: object) -> World:
    """Open a house whose tenant has the key that all worlds share, so that names are comparable."""
    house = House(folder, encoder, **settings)  # type: ignore[arg-type]
    vault: Any = house.lethe.kernel.vault
    house.lethe.kernel.create_tenant(TENANT)
    vault.adopt_tenant_key(TENANT, KEY)
    return World(house)


def twin_of(world: World, survivors: Sequence[Told], folder: Path) -> World:
    """Open a world that was never told anything but the survivors."""
    twin = open_world(folder, world.house.encoder)  # type: ignore[arg-type]
    for told in survivors:
        twin.house.clock.now_us = told.at_us - STEP_US
        again = twin.tell(told.content, entry_id=told.entry_id)
        assert again.source_id == told.source_id
    return twin


def assert_like_twin(world: World, survivors: Sequence[Told], folder: Path) -> None:
    """Assert that contents and rankings are those of a world that never knew the rest, and was compacted."""
    twin = twin_of(world, survivors, folder)
    twin.compact()
    try:
        assert world.digest() == twin.digest()
        assert world.ranked() == twin.ranked()
    finally:
        twin.close()


def document(text: str, media_type: str = "text/plain", **attributes: object) -> Content:
    """Return a document of text."""
    return Content("document", media_type, text.encode(), Attributes(**attributes))  # type: ignore[arg-type]


def secret(number: int, **attributes: object) -> Content:
    """Return a small text of which nothing may remain."""
    return document(
        f"Note {number}: Alice carries the {SECRET} lantern to the tower at {number} past nine. "
        f"Bob keeps the {SECRET} ledger number {number} under the garden stone.",
        **{"subjects": ("person:alice",), **attributes},
    )


def plain(number: int, **attributes: object) -> Content:
    """Return a small text that stays."""
    return document(
        f"Log {number}: the ferry leaves the harbour at {number} in the morning. Tickets cost {number} crowns.",
        **attributes,
    )


def chat(number: int, word: str, **attributes: object) -> Content:
    """Return a short chat with a word of its own."""
    messages = [
        {"role": "user", "name": "Carol", "id": f"m{number}a", "content": f"Did you feed the {word} heron, number {number}?"},
        {"role": "assistant", "id": f"m{number}b", "content": f"Yes, the {word} heron number {number} ate by the glass wall."},
        {"role": "user", "name": "Carol", "id": f"m{number}c", "content": f"Then lock the {word} gate number {number} tonight."},
    ]  # fmt: skip
    return Content("memory", MESSAGES_MEDIA_TYPE, json.dumps(messages).encode(), Attributes(**attributes))  # type: ignore[arg-type]


def markdown(number: int, word: str) -> str:
    """Return a page with headings, a list and a table."""
    parts = [
        f"## Part {part}\n\nThe {word} engine {number} hums in room {part}. {'It never stops humming. ' * 6}\n\n"
        f"- the {word} bolt {number}.{part} is loose\n- the {word} valve {number}.{part} is shut\n\n"
        f"| tool | place |\n| --- | --- |\n| {word} wrench {part} | shelf {number} |\n"
        for part in range(3)
    ]
    return f"# Engine {number}\n\n" + "\n".join(parts)


def html(number: int, word: str) -> str:
    """Return a web page with boilerplate around an article."""
    return (
        f"<html><head><title>Page {number}</title></head><body><nav><a href='/'>Home</a></nav><article>"
        f"<h1>The {word} tide table {number}</h1><p>High water at the {word} pier comes at {number} past "
        f"noon, and the {word} bell rings twice before it does, so that nobody is cut off.</p>"
        f"<p>“Løse tråder” &amp; the café on the {word} quay open at {number}.</p></article></body></html>"
    )


@dataclass(frozen=True)
class Case:
    """A scope, and what of the whole story it takes: everything tagged ``gone``."""

    name: str
    scope: Scope
    mark: dict[str, Any]


EARLY = datetime(2001, 5, 1, tzinfo=UTC)
CASES = (
    Case("subjects", Scope(subjects=("person:alice",)), {"subjects": ("person:alice", "crew")}),
    Case("user_id", Scope(user_id="u-alice"), {"user_id": "u-alice"}),
    Case("filter", Scope(filter={"metadata.case": "gone"}), {"metadata": {"case": "gone"}}),
    Case(
        "time_range",
        Scope(time_from=EARLY, time_to=datetime(2001, 5, 2, tzinfo=UTC)),
        {"occurred_at": EARLY},
    ),
    Case("external_ids", Scope(), {}),
    Case("ids", Scope(), {}),
)


def tell_all(world: World, mark: dict[str, Any], word: str, prefix: str) -> list[Told]:
    """Remember one entry of every kind, two versions of one of them, all marked."""

    def named(name: str) -> dict[str, Any]:
        return {"external_id": f"{prefix}-{name}", **mark}

    pdf = sorted(EXAMPLES.glob("*.pdf"))[0 if word == SECRET else 1].read_bytes()
    return [
        world.tell(secret(7, **named("text")) if word == SECRET else plain(7, **named("text"))),
        world.tell(document(f"A second version: the {word} lantern moved to the north stair.", **named("text"))),
        world.tell(document(markdown(3, word), "text/markdown", **named("markdown"))),
        world.tell(document(html(4, word), "text/html", **named("html"))),
        world.tell(Content("document", "application/pdf", pdf, Attributes(**named("pdf")))),
        world.tell(chat(5, word, **named("chat"))),
    ]  # fmt: skip


def scope_for(case: Case, gone: Sequence[Told]) -> Scope:
    """Return the scope of a case, filled in with the names of what is to go."""
    if case.name == "external_ids":
        names = {one.content.attributes.external_id for one in gone}
        return Scope(external_ids=tuple(sorted(name for name in names if name)))
    if case.name == "ids":
        return Scope(ids=tuple(sorted({one.source_id for one in gone})))
    return case.scope
