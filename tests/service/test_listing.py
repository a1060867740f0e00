"""Listing what is acknowledged: pending documents beside indexed ones, filtered, in pages."""

from __future__ import annotations

import pytest

from service.generation import Generation
from service.views import Scope, SourceView
from tests.service.harness import TENANT, House, text_content

SECOND = 1_000_000


def list_all(house: House, limit: int = 2, **asked: object) -> list[SourceView]:
    found: list[SourceView] = []
    cursor, more = None, True
    while more:
        page = house.lethe.list_sources(
            TENANT,
            kind="document",
            user_id=None,
            cursor=cursor,
            limit=limit,
            **asked,  # type: ignore[arg-type]
        )
        assert len(page.items) <= limit
        found += page.items
        cursor, more = page.next_cursor, page.next_cursor is not None
    return found


def tell(house: House, text: str, **attributes: object) -> str:
    house.clock.now_us += SECOND
    return house.lethe.remember(TENANT, [text_content(text, **attributes)])[0].source_id


def test_what_is_pending_is_listed_only_when_asked_for(house: House) -> None:
    for number in range(3):
        tell(house, f"The ferry {number}.", external_id=f"d{number}")
    house.waker.drain()
    tell(house, "The ferry 1, again.", external_id="d1")
    tell(house, "The ferry 3.", external_id="d3")

    indexed, pending = list_all(house), list_all(house, pending=True)

    assert [(one.external_id, one.version) for one in indexed] == [("d2", 1), ("d1", 1), ("d0", 1)]
    assert [(one.external_id, one.version) for one in pending] == [("d3", 1), ("d1", 2), ("d2", 1), ("d0", 1)]
    assert [one.passages for one in pending] == [None, None, 1, 1]
    assert [one.job and one.job.status for one in pending] == ["queued", "queued", None, None]
    house.waker.drain()
    assert list_all(house, pending=True) == list_all(house)
    assert [one.external_id for one in list_all(house)] == ["d3", "d1", "d2", "d0"]


def test_a_filter_selects_indexed_and_pending_alike(house: House) -> None:
    for number in range(6):
        tell(house, f"The ferry {number}.", external_id=f"d{number}", metadata={"even": number % 2 == 0})
        if number == 2:
            house.waker.drain()

    for limit in (1, 2, 10):
        found = list_all(house, limit, pending=True, filter={"metadata.even": True})
        assert [one.external_id for one in found] == ["d4", "d2", "d0"]
    assert [one.external_id for one in list_all(house, filter={"metadata.even": True})] == ["d2", "d0"]


def test_what_is_forgotten_or_refused_before_it_is_indexed_is_not_listed(house: House) -> None:
    tell(house, "The ferry 1.", external_id="d1")
    tell(house, "   ", external_id="blank")
    house.lethe.forget(TENANT, Scope(external_ids=("d1",)), preview=False)
    assert [one.external_id for one in list_all(house, pending=True)] == ["blank"]

    house.waker.drain()

    assert list_all(house, pending=True) == []


def test_what_is_fenced_is_hidden_though_the_index_still_shows_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(house, "The ferry 1.", external_id="d1")
    house.waker.drain()
    monkeypatch.setattr(Generation, "hide", lambda *_: None)

    house.lethe.forget(TENANT, Scope(external_ids=("d1",)), preview=False)

    assert list_all(house) == list_all(house, pending=True) == []
