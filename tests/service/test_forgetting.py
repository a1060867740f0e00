"""What each scope means, alone and with others, and that what is told again starts fresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from memory.clock import to_datetime
from memory.errors import CorruptionError, ForgottenError, InvalidInputError, NotFoundError, UnavailableError
from memory.tables import forgets
from memory.values import SourceId
from service.views import Scope
from tests.service.harness import TENANT, House, text_content

SECOND = 1_000_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def told(house: House) -> dict[str, str]:
    """Remember five things; return their source ids by name."""
    things: dict[str, dict[str, object]] = {
        "a": {"external_id": "x/a", "subjects": ("mara",), "user_id": "u1", "occurred_at": NOON},
        "b": {
            "external_id": "x/b",
            "subjects": ("mara", "ben"),
            "user_id": "u2",
            "metadata": {"kind": "log"},
        },
        "c": {"subjects": ("ben",), "user_id": "u1", "metadata": {"kind": "log"}},
        "d": {"occurred_at": NOON + timedelta(hours=1), "user_id": "u2"},
        "e": {},
    }
    sources: dict[str, str] = {}
    for name, attributes in things.items():
        house.clock.now_us += SECOND
        content = text_content(f"The ferry story {name}{name}.", **attributes)
        sources[name] = house.lethe.remember(TENANT, [content])[0].source_id
    house.waker.drain()
    return sources


def left(house: House) -> str:
    """Return the names of the things that recall still finds."""
    return "".join(sorted(text.removesuffix(".")[-1] for _, text, _ in house.found("ferry story")))


def forget(house: House, scope: Scope) -> dict[str, int]:
    preview = house.lethe.forget(TENANT, scope, preview=True)
    view = house.lethe.forget(TENANT, scope, preview=False)
    assert view.state == "fenced"
    assert {name: view.counts[name] for name in ("sources", "entries")} == {
        name: preview.counts[name] for name in ("sources", "entries")
    }
    fenced = left(house)
    house.waker.drain()
    assert left(house) == fenced, "the fence and the erasure disagree"
    done = house.lethe.get_forget(TENANT, view.id)
    assert (done.state, done.remaining) == ("certified", {})
    return dict(done.counts)


RECORDED = to_datetime(1_750_000_000_000_000)
SCOPES = {
    "external_ids": (Scope(external_ids=("x/a", "x/none")), "bcde"),
    "subjects": (Scope(subjects=("mara",)), "cde"),
    "two subjects": (Scope(subjects=("mara", "ben")), "de"),
    "user_id": (Scope(user_id="u1"), "bde"),
    "filter": (Scope(filter={"metadata.kind": "log"}), "ade"),
    "filter on a subject": (Scope(filter={"subjects": "ben", "user_id": {"$ne": "u1"}}), "acde"),
    "time from": (Scope(time_from=NOON), "bce"),
    "time to": (Scope(time_to=NOON), "ad"),
    "half-open": (Scope(time_from=NOON, time_to=NOON + timedelta(hours=1)), "bcde"),
    "naive times are UTC": (
        Scope(time_from=NOON.replace(tzinfo=None), time_to=NOON + timedelta(hours=1)),
        "bcde",
    ),
    "just after": (Scope(time_from=NOON + timedelta(microseconds=1)), "abce"),
    "recorded, where nothing occurred": (
        Scope(time_from=RECORDED + timedelta(seconds=3), time_to=RECORDED + timedelta(seconds=4)),
        "abde",
    ),
    "subject and user": (Scope(subjects=("mara",), user_id="u2"), "acde"),
    "filter and time": (Scope(filter={"user_id": "u2"}, time_from=NOON), "abce"),
    "all that contradict": (Scope(subjects=("mara",), external_ids=("x/b",), user_id="u1"), "abcde"),
    "nothing": (Scope(user_id="nobody"), "abcde"),
}


@pytest.mark.parametrize("name", SCOPES)
def test_a_scope_means_what_holds_every_condition(house: House, name: str) -> None:
    told(house)
    scope, expected = SCOPES[name]
    counts = forget(house, scope)
    assert left(house) == expected
    assert counts["entries"] == 5 - len(expected)


def test_ids_mean_sources_and_entries(house: House) -> None:
    sources = told(house)
    (hit,) = [hit for hit in house.lethe.recall(TENANT, "story bb").hits if "bb" in hit.text]
    forget(house, Scope(ids=(sources["a"], hit.entry_id, "unknown")))
    assert left(house) == "cde"
    forget(house, Scope(ids=(sources["c"], sources["d"]), user_id="u2"))
    assert left(house) == "ce"


def test_more_ids_than_one_query_takes(house: House) -> None:
    sources = told(house)
    forget(house, Scope(ids=(*(f"unknown{n}" for n in range(40_000)), sources["e"])))
    assert left(house) == "abcd"


@pytest.mark.parametrize("scope", [Scope(), Scope(filter={})])
def test_a_scope_without_a_condition_is_refused(house: House, scope: Scope) -> None:
    told(house)
    for preview in (True, False):
        with pytest.raises(InvalidInputError):
            house.lethe.forget(TENANT, scope, preview=preview)
    assert left(house) == "abcde"


def test_a_filter_that_is_none_is_refused_before_anything_is_fenced(house: House) -> None:
    told(house)
    with pytest.raises(InvalidInputError):
        house.lethe.forget(TENANT, Scope(filter={"metadata.kind": {"$near": 1}}), preview=False)
    assert left(house) == "abcde"


def test_a_preview_changes_nothing(house: House) -> None:
    told(house)
    before = house.digest()
    view = house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=True)
    assert (view.state, view.counts["sources"], view.counts["entries"]) == ("previewed", 2, 2)
    assert view.counts["artifacts"] >= 6
    assert house.waker.drain() == 0
    assert (house.digest(), left(house)) == (before, "abcde")


def test_one_version_is_forgotten_and_the_later_one_stays(house: House) -> None:
    house.remember("The ferry leaves at nine.", external_id="f", subjects=("mara",))
    first = to_datetime(house.clock.now_us)
    house.clock.now_us += SECOND
    source = house.remember("The ferry leaves at ten.", external_id="f", subjects=("mara",))

    view = house.lethe.forget(TENANT, Scope(time_to=first + timedelta(microseconds=1)), preview=False)
    house.waker.drain()

    assert (view.counts["entries"], house.lethe.get_forget(TENANT, view.id).state) == (1, "certified")
    newest = house.lethe.get_source(TENANT, SourceId(source))
    assert (newest.version, newest.text) == (1, "The ferry leaves at ten.")
    assert [text for _, text, _ in house.found("ferry")] == ["The ferry leaves at ten."]
    assert house.found("ferry", as_of=first) == []
    with pytest.raises(NotFoundError):
        house.lethe.get_source(TENANT, SourceId(source), as_of=first)


def test_the_newest_version_is_forgotten_and_the_one_before_holds_again(house: House) -> None:
    """From the fence on the version before is the newest again, as if the other had never been told."""
    house.remember("The ferry leaves at nine.", external_id="f")
    house.clock.now_us += SECOND
    at = to_datetime(house.clock.now_us)
    house.remember("The ferry leaves at ten.", external_id="f")
    house.lethe.forget(TENANT, Scope(time_from=at), preview=False)
    assert [text for _, text, _ in house.found("ferry")] == ["The ferry leaves at nine."]
    house.waker.drain()
    assert [text for _, text, _ in house.found("ferry")] == ["The ferry leaves at nine."]


def test_what_is_told_again_after_forgetting_starts_fresh(house: House) -> None:
    content = text_content("The ferry leaves at nine.", external_id="f", subjects=("mara",))
    house.lethe.remember(TENANT, [content])
    house.waker.drain()
    house.clock.now_us += SECOND
    forget_id = house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False).id
    (fenced,) = house.lethe.remember(TENANT, [content])
    assert (fenced.version, fenced.unchanged) == (1, False), "it may be told again as soon as it is fenced"
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, forget_id).state == "certified"
    assert [text for _, text, _ in house.found("ferry")] == ["The ferry leaves at nine."]
    assert house.lethe.get_source(TENANT, fenced.source_id).version == 1

    house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    house.waker.drain()
    (again,) = house.lethe.remember(TENANT, [content])
    house.waker.drain()
    assert (again.version, again.unchanged) == (1, False)
    assert [text for _, text, _ in house.found("ferry")] == ["The ferry leaves at nine."]


def test_what_was_forgotten_says_so(house: House) -> None:
    """Once fenced and, where the source's id says nothing, for good; what never was is not found."""
    named = house.remember("The ferry a.", external_id="f", subjects=("mara",))
    plain = house.remember("The ferry b.", subjects=("mara",))
    house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    for source in (named, plain):
        with pytest.raises(ForgottenError):
            house.lethe.get_source(TENANT, SourceId(source))
    house.waker.drain()
    with pytest.raises(ForgottenError):
        house.lethe.get_source(TENANT, SourceId(plain))
    with pytest.raises(NotFoundError):
        house.lethe.get_source(TENANT, SourceId(named))
    with pytest.raises(NotFoundError):
        house.lethe.get_source(TENANT, SourceId("never"))


def test_a_source_outlives_the_version_that_named_it(house: House) -> None:
    """A name may come back to a source whose first version was forgotten: still one line of versions."""
    source = house.remember("The ferry one.", external_id="old", subjects=("mara",))
    house.clock.now_us += SECOND
    house.lethe.remember(
        TENANT, [text_content("The ferry two.", external_id="new")], source_id=SourceId(source)
    )
    house.waker.drain()
    house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    house.waker.drain()
    (done,) = house.lethe.remember(TENANT, [text_content("The ferry three.", external_id="old")])
    house.waker.drain()
    assert (done.source_id, done.version) == (source, 2)
    assert house.lethe.get_source(TENANT, done.source_id).text == "The ferry three."


def test_work_waiting_for_what_is_forgotten_is_cancelled(house: House) -> None:
    (item,) = house.lethe.remember(TENANT, [text_content("The ferry.", subjects=("mara",))])
    view = house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    house.waker.drain()
    assert house.lethe.get_job(TENANT, item.job.id).status == "cancelled"
    assert house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert house.found("ferry") == []


class Failing:
    """A store that does not let go until it is told to."""

    def __init__(self, store: object, error: Exception) -> None:
        self.store, self.error, self.fails = store, error, True

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def erase(self, *args: object) -> int:
        if self.fails:
            raise self.error
        return self.store.erase(*args)  # type: ignore[attr-defined, no-any-return]


def test_a_failing_store_keeps_the_fence_and_a_new_start_tries_again(house: House) -> None:
    told(house)
    forgetting = house.lethe.forgetting
    forgetting.truth = [Failing(store, CorruptionError("stuck")) for store in forgetting.truth]  # type: ignore[misc]
    view = house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    house.waker.drain()
    failed = house.lethe.get_forget(TENANT, view.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert left(house) == "cde"
    with pytest.raises(NotFoundError):
        house.lethe.get_certificate(TENANT, view.id)

    house.restart()
    assert left(house) == "cde"
    house.waker.drain()

    assert house.lethe.get_forget(TENANT, view.id).state == "certified"
    assert house.lethe.get_forget(TENANT, view.id).error is None
    assert left(house) == "cde"
    house.restart()
    assert house.waker.drain() == 0, "what is certified is not done again"


def test_what_is_only_away_is_tried_again_by_itself(house: House) -> None:
    told(house)
    forgetting = house.lethe.forgetting
    stuck = Failing(forgetting.truth[0], UnavailableError("readers"))
    forgetting.truth = [stuck, *forgetting.truth[1:]]  # type: ignore[list-item]
    view = house.lethe.forget(TENANT, Scope(subjects=("mara",)), preview=False)
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, view.id).state != "certified"
    stuck.fails = False
    house.clock.now_us += 60 * SECOND
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, view.id).state == "certified"


def test_requests_overlap(house: House) -> None:
    """Three at once over the same things: each is certified for what it was the first to deny."""
    told(house)
    scopes = [Scope(subjects=("mara",)), Scope(subjects=("ben",)), Scope(user_id="u1")]
    views = [house.lethe.forget(TENANT, scope, preview=False) for scope in scopes]
    assert [view.counts["entries"] for view in views] == [2, 1, 0]
    assert [view.epoch for view in views] == [1, 2, 3]
    house.waker.drain()
    assert {house.lethe.get_forget(TENANT, view.id).state for view in views} == {"certified"}
    assert left(house) == "de"


def test_no_scope_is_stored_in_words(house: House) -> None:
    told(house)
    house.lethe.forget(TENANT, Scope(subjects=("mara",), filter={"user_id": "u1"}), preview=False)
    with house.lethe.kernel.database.read() as connection:
        (row,) = connection.execute(sa.select(forgets)).all()
    assert "mara" not in str(row)
    assert "u1" not in str(row)
