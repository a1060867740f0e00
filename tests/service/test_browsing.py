"""Walking the hierarchy: every node is reached, cites its sentences, and hides what is denied at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memory.clock import to_datetime
from memory.errors import InvalidInputError, NotFoundError
from memory.values import SourceId, TenantId
from service.topics import fold_topics
from service.views import NodeView, Scope
from tests.service.harness import TENANT, House, text_content

OTHER = TenantId("other")
WORDS = ("river", "tower", "garden", "music", "glass", "stone", "winter", "letter", "harbour", "engine")
SECRET = "zanzibar"


def remember_many(house: House, count: int = 40) -> list[str]:
    texts = [f"The {WORDS[n % 10]} of {WORDS[n // 10]} is number {n}. It is old." for n in range(count)]
    contents = [text_content(text, subjects=(f"s{n % 3}",)) for n, text in enumerate(texts)]
    done = house.lethe.remember(TENANT, contents)
    house.waker.drain()
    return [str(one.source_id) for one in done]


def list_all(house: House, level: int | None = None, limit: int = 3) -> list[NodeView]:
    cursor, found = None, []
    while True:
        with house.lethe.reading(TENANT):
            page = house.lethe.list_topics(TENANT, level=level, cursor=cursor, limit=limit)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def open_node(house: House, node_id: str, limit: int = 500) -> NodeView:
    with house.lethe.reading(TENANT):
        return house.lethe.get_node(TENANT, node_id, limit=limit)[0]


def walk(house: House, node: NodeView) -> Iterator[NodeView]:
    yield node
    for child in node.children:
        if child.kind != "passage":
            below = open_node(house, child.id)
            assert below.parent == node.id
            yield from walk(house, below)


def test_every_source_is_reached_from_the_top(house: House) -> None:
    sources = remember_many(house)
    (root,) = list_all(house)
    nodes = list(walk(house, open_node(house, root.id)))
    assert sorted(node.id for node in nodes if node.kind == "source") == sorted(sources)
    assert (root.sources, root.passages, root.parent) == (40, 40, None)
    for node in nodes:
        assert node.summary
        for sentence in node.summary:
            text = house.lethe.get_source(TENANT, sentence.source_id).text
            assert text is not None
            assert text[sentence.start : sentence.end] == sentence.text
        assert {word.lower() for word in node.label} <= {
            word for sentence in node.summary for word in sentence.text.lower().strip(".").split()
        }
    assert open_node(house, root.id).subjects == (("s0", 14), ("s1", 13), ("s2", 13))


def test_levels_are_listed_in_pages(house: House) -> None:
    remember_many(house)
    (root,) = list_all(house)
    assert root.level is not None
    lowest = list_all(house, level=1, limit=1)
    assert len({topic.id for topic in lowest}) == len(lowest)
    assert sum(topic.sources for topic in lowest) == 40
    assert list_all(house, level=root.level + 1) == []
    with pytest.raises(InvalidInputError), house.lethe.reading(TENANT):
        house.lethe.list_topics(TENANT, cursor="nonsense", limit=3)


def test_sections_stand_between_a_source_and_its_passages(house: House) -> None:
    body = "# Ferries\n\n" + "The ferry leaves the harbour at nine on most days. " * 40
    body += "\n\n# Dogs\n\n" + "The dog guards the tower by night and by day. " * 40
    source = house.remember(body, media_type="text/markdown", title="Guide", subjects=("mara",))
    top = open_node(house, source)
    assert (top.kind, top.title, top.parent) == ("source", "Guide", None)
    assert [child.title for child in top.children] == ["Ferries", "Dogs"]
    section = open_node(house, top.children[0].id)
    assert (section.kind, section.title, section.parent) == ("section", "Ferries", source)
    assert all(child.kind == "passage" for child in section.children)
    assert len(section.children) == section.passages > 1
    assert all("ferr" in sentence.text.lower() for sentence in section.summary)
    with house.lethe.reading(TENANT):
        first, cursor = house.lethe.get_node(TENANT, section.id, limit=1)
        rest, end = house.lethe.get_node(TENANT, section.id, cursor=cursor, limit=500)
    assert (*first.children, *rest.children) == section.children
    assert end is None


def test_what_is_forgotten_vanishes_before_topics_are_folded(house: House) -> None:
    """No sentence, subject, count or time of it is shown from the moment it is fenced; G0."""
    sources = remember_many(house)
    house.clock.now_us += 10**12
    secret = house.remember(f"The {SECRET} letter of winter is here.", subjects=(SECRET,))
    house.clock.now_us += 10**12
    late = to_datetime(house.clock.now_us - 10**12)
    (root,) = list_all(house)
    assert (root.sources, root.last_at) == (41, late)
    told = [node.id for node in walk(house, open_node(house, root.id)) if SECRET in repr(node)]
    assert root.id in told
    assert secret in told

    house.lethe.forget(TENANT, Scope(ids=(secret,)), preview=False)  # fenced; its job has not run

    roots = list_all(house)
    nodes = [node for top in roots for node in walk(house, open_node(house, top.id))]
    assert SECRET not in repr((roots, nodes))
    assert not {node.id for node in nodes} & set(told)
    assert all(node.last_at < late for node in nodes)
    assert {node.id for node in nodes if node.kind == "source"} <= set(sources)
    for gone in told:
        with pytest.raises(NotFoundError):
            open_node(house, gone)

    house.waker.drain()  # erased, folded, certified
    (root,) = list_all(house)
    nodes = list(walk(house, open_node(house, root.id)))
    assert (root.sources, SECRET in repr(nodes)) == (40, False)
    assert sorted(node.id for node in nodes if node.kind == "source") == sorted(sources)


def test_the_root_of_a_store_that_forgot_is_the_root_of_one_that_never_knew(house: House) -> None:
    """Names, counts and summaries of topics are a function of what is there."""
    remember_many(house)
    before = list_all(house), list_all(house, level=1)
    extra = house.remember("A river nobody knows.")
    house.lethe.forget(TENANT, Scope(ids=(extra,)), preview=False)
    house.waker.drain()
    assert (list_all(house), list_all(house, level=1)) == before


def test_tenants_do_not_see_each_others_nodes(house: House) -> None:
    remember_many(house)
    house.lethe.kernel.create_tenant(OTHER)
    (root,) = list_all(house)
    for node in walk(house, open_node(house, root.id)):
        with pytest.raises(NotFoundError), house.lethe.reading(OTHER):
            house.lethe.get_node(OTHER, node.id)
    with house.lethe.reading(OTHER):
        assert house.lethe.list_topics(OTHER, cursor=None, limit=5).items == ()


@pytest.mark.parametrize("node_id", ["nothing", "0" * 32, "0" * 32 + ".s1", ".s1", "x.s0"])
def test_what_never_was_is_not_found(house: House, node_id: str) -> None:
    remember_many(house, 3)
    with pytest.raises(NotFoundError):
        open_node(house, node_id)


def test_a_new_version_is_shown_and_then_folded(house: House) -> None:
    source = remember_many(house, 3)[0]
    house.clock.now_us += 1_000_000
    house.lethe.remember(TENANT, [text_content("The ferry is new.")], source_id=SourceId(source))
    house.waker.drain()
    assert fold_topics(house.lethe.kernel, house.lethe.indexes, TENANT)
    (root,) = list_all(house)
    assert open_node(house, source).summary[0].text == "The ferry is new."
    assert "The ferry is new." in {sentence.text for sentence in root.summary}
