"""Recall inside filters, and between tenants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memory.errors import InvalidInputError, NotFoundError
from memory.values import SourceId, TenantId
from service.views import Scope
from tests.service.harness import TENANT, House, text_content

OTHER = TenantId("other")


def test_a_filter_that_admits_one_of_many_finds_it(house: House) -> None:
    """However badly it ranks: the filter works inside the search, not on its first results."""
    contents = [
        text_content(f"The ferry leaves the harbour, story {n}.", metadata={"n": n}, subjects=(f"s{n}",))
        for n in range(499)
    ]
    contents.append(text_content("Quite another thing.", metadata={"n": 499}, user_id="only"))
    house.lethe.remember(TENANT, contents)
    house.waker.drain()
    assert house.lethe.stats(TENANT)["sources"] == 500
    query = "ferry leaves the harbour"
    assert "Quite another thing." not in {text for _, text, _ in house.found(query)}
    for condition in ({"metadata.n": 499}, {"user_id": "only"}, {"subjects": {"$exists": False}}):
        assert [text for _, text, _ in house.found(query, filter=condition)] == ["Quite another thing."]
    (hit,) = house.lethe.recall(TENANT, query, filter={"subjects": "s77"}).hits
    assert (hit.metadata, hit.subjects, hit.version) == ({"n": 77}, ("s77",), 1)
    assert house.found(query, filter={"metadata.n": {"$gt": 1_000}}) == []
    assert house.found(query, filter={"$and": [{"metadata.n": 1}, {"metadata.n": 2}]}) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda lethe: lethe.recall(TENANT, "  "),
        lambda lethe: lethe.recall(TENANT, "x", limit=0),
        lambda lethe: lethe.recall(TENANT, "x", limit=1_000_000),
        lambda lethe: lethe.recall(TENANT, "x", filter={"nonsense": 1}),
        lambda lethe: lethe.answer(TENANT, "x", filter={"user_id": {"$what": 1}}),
    ],
)
def test_what_makes_no_sense_is_refused(house: House, ask: Callable[[object], object]) -> None:
    with pytest.raises(InvalidInputError):
        ask(house.lethe)


def test_an_empty_house_finds_nothing_and_abstains(house: House) -> None:
    assert house.found("ferry") == []
    answered = house.lethe.answer(TENANT, "When does the ferry leave?")
    assert (answered.abstained, answered.answer, answered.citations) == (True, None, ())


def test_every_hit_is_a_verbatim_piece_of_its_source(house: House) -> None:
    body = "# Ferries\n\nThe ferry leaves at nine.\n\n## Winter\n\nIn winter the ferry leaves at ten.\n" * 3
    source = house.remember(body, media_type="text/markdown", title="Timetable")
    view = house.lethe.get_source(TENANT, SourceId(source))
    assert view.text is not None
    hits = house.lethe.recall(TENANT, "ferry in winter").hits
    assert hits
    for hit in hits:
        assert view.text[hit.span.start : hit.span.end] == hit.text
        assert (hit.source_id, hit.title) == (source, "Timetable")
    for citation in house.lethe.answer(TENANT, "When does the ferry leave in winter?").citations:
        assert view.text[citation.span.start : citation.span.end] == citation.quote


def test_tenants_know_nothing_of_each_other(house: House) -> None:
    lethe = house.lethe
    lethe.kernel.create_tenant(OTHER)
    mine = lethe.remember(TENANT, [text_content("The ferry is mine.", external_id="f", subjects=("mara",))])[
        0
    ]
    theirs = lethe.remember(
        OTHER, [text_content("The ferry is theirs.", external_id="f", subjects=("mara",))]
    )[0]
    house.waker.drain()
    before = lethe.get_source(OTHER, theirs.source_id)
    assert mine.source_id != theirs.source_id
    assert [hit.text for hit in lethe.recall(TENANT, "ferry").hits] == ["The ferry is mine."]
    assert [hit.text for hit in lethe.recall(OTHER, "ferry").hits] == ["The ferry is theirs."]
    forgotten = lethe.forget(TENANT, Scope(ids=(mine.source_id, theirs.source_id)), preview=False)
    assert forgotten.counts["entries"] == 1
    again = lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    assert again.counts["entries"] == 0
    house.waker.drain()

    for ask in (
        lambda: lethe.get_source(TENANT, theirs.source_id),
        lambda: lethe.get_job(TENANT, theirs.job.id),
        lambda: lethe.get_forget(OTHER, forgotten.id),
        lambda: lethe.get_certificate(OTHER, forgotten.id),
        lambda: lethe.remember(TENANT, [text_content("x")], source_id=theirs.source_id),
        lambda: lethe.recall(TenantId("nobody"), "ferry"),
    ):
        with pytest.raises(NotFoundError):
            ask()
    assert lethe.get_certificate(TENANT, forgotten.id)
    assert lethe.get_source(OTHER, theirs.source_id) == before
    assert [hit.text for hit in lethe.recall(OTHER, "ferry").hits] == ["The ferry is theirs."]
    assert [
        item.source_id
        for item in lethe.list_sources(OTHER, kind="document", user_id=None, cursor=None, limit=9).items
    ] == [theirs.source_id]
    assert {job.id for job in lethe.list_jobs(OTHER, cursor=None, limit=9).items}.isdisjoint(
        {job.id for job in lethe.list_jobs(TENANT, cursor=None, limit=9).items}
    )
    assert lethe.stats(OTHER)["epoch"] == 0


@pytest.mark.parametrize(
    ("text", "chat"),
    [
        ("Ann: Hello!\nBo: Hi, Ann.\nAnn: Shall we?", True),
        ("The harbour opened in 1932.\nIt is of steel.", False),
        ("Note: bring rope.\nThe ferry leaves at nine.\nThe mole is closed.", False),
    ],
)
def test_turns_kept_as_plain_text_count_as_chat(house: House, text: str, chat: bool) -> None:
    house.remember(text)
    state = house.lethe.indexes.get(TENANT).state
    assert state.row_chat[state.row_kind == 0].tolist() == [chat]


NOTICE = "The ferry to the island leaves the harbour every morning except when the wind is strong"


def test_a_hit_stands_for_its_near_duplicates(house: House) -> None:
    """The newest of equal ones is shown, the others are named."""
    sources = []
    for subject in ("old", "middle", "new"):
        house.clock.now_us += 1_000_000
        sources.append(house.remember(NOTICE, subjects=(subject,)))
    other = house.remember(f"{NOTICE} on 3 May")
    hits = house.lethe.recall(TENANT, "when does the ferry leave").hits
    assert sorted(hit.source_id for hit in hits) == sorted([sources[2], other])
    stands, alone = sorted(hits, key=lambda hit: hit.source_id != sources[2])
    entries = house.lethe.indexes.get(TENANT).state.ordinals.keys() - {hit.entry_id for hit in hits}
    assert set(stands.duplicates) == {(f"{entry_id}.0", entry_id) for entry_id in entries}
    assert alone.duplicates == ()


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_forgetting_one_of_several_brings_the_next_back(house: House, gone: int) -> None:
    """At once after the fence, before anything is erased; and none of them names what went."""
    sources = []
    for _ in range(3):
        house.clock.now_us += 1_000_000
        sources.append(house.remember(NOTICE))
    recalled = house.lethe.recall(TENANT, "ferry")
    house.lethe.forget(TENANT, Scope(ids=(sources[gone],)), preview=False)
    left = [source for at, source in enumerate(sources) if at != gone]
    (hit,) = house.lethe.recall(TENANT, "ferry").hits
    assert (hit.source_id, len(hit.duplicates)) == (left[-1], 1)
    with house.lethe.reading(TENANT):  # found before the forget, handed over after it
        late = house.lethe.recheck_recall(TENANT, recalled).hits
    forgotten = {entry for _, entry in recalled.hits[0].duplicates} | {recalled.hits[0].entry_id}
    forgotten -= {hit.entry_id, hit.duplicates[0][1]}
    assert not forgotten & {entry for late_hit in late for _, entry in late_hit.duplicates}
    assert not forgotten & {late_hit.entry_id for late_hit in late}
    house.waker.drain()
    (again,) = house.lethe.recall(TENANT, "ferry").hits
    assert (again.source_id, again.duplicates) == (hit.source_id, hit.duplicates)
