"""Remembering: versions, what is there already, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from memory.clock import to_datetime
from memory.errors import ConflictError, InvalidInputError, LetheError, NotFoundError, UnavailableError
from memory.jobs import MAX_ATTEMPTS, Job
from memory.kernel import list_changes
from memory.tables import entries, keys
from memory.telling import Told, unheard
from memory.values import Content, Parsed, SourceId
from service.remember import INGEST
from service.views import Scope
from tests.service.harness import TENANT, House, text_content

SECOND = 1_000_000


def texts(house: House, query: str = "ferry", **kwargs: object) -> set[str]:
    return {text for _, text, _ in house.found(query, **kwargs)}


def count_entries(house: House) -> int:
    with house.lethe.kernel.database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(entries)) or 0)


def list_keys(house: House) -> set[str]:
    with house.lethe.kernel.vault.database.read() as connection:  # type: ignore[attr-defined]
        return {
            name for name in connection.scalars(sa.select(keys.c.name)) if name[:6] in ("entry:", "subjec")
        }


def versions_of(house: House, *, external_id: str = "ferry") -> tuple[str, datetime, datetime]:
    """Remember two versions; return the source, and a time at which each held."""
    source = house.remember("The ferry leaves at nine.", external_id=external_id)
    first = to_datetime(house.clock.now_us)
    house.clock.now_us += 10 * SECOND
    assert house.remember("The ferry leaves at ten.", external_id=external_id) == source
    return source, first, to_datetime(house.clock.now_us)


def test_the_newest_version_shows_and_the_old_one_answers_as_of_its_time(house: House) -> None:
    source, first, second = versions_of(house)
    assert texts(house) == {"The ferry leaves at ten."}
    assert texts(house, as_of=first) == {"The ferry leaves at nine."}
    assert texts(house, as_of=second) == {"The ferry leaves at ten."}
    assert texts(house, as_of=datetime(2020, 1, 1, tzinfo=UTC)) == set()

    newest = house.lethe.get_source(TENANT, SourceId(source))
    assert (newest.version, newest.text, newest.external_id) == (2, "The ferry leaves at ten.", "ferry")
    older = house.lethe.get_source(TENANT, SourceId(source), as_of=first)
    assert (older.version, older.text) == (1, "The ferry leaves at nine.")
    with pytest.raises(NotFoundError):
        house.lethe.get_source(TENANT, SourceId(source), as_of=datetime(2020, 1, 1, tzinfo=UTC))

    house.restart()
    assert texts(house) == {"The ferry leaves at ten."}
    assert texts(house, as_of=first) == {"The ferry leaves at nine."}


def test_an_answer_as_of_a_time_comes_from_what_held_then(house: House) -> None:
    _, first, second = versions_of(house)
    quotes = {
        at: {c.quote for c in house.lethe.answer(TENANT, "When does the ferry leave?", as_of=at).citations}
        for at in (first, second)
    }
    assert not any("ten" in quote for quote in quotes[first])
    assert not any("nine" in quote for quote in quotes[second])


def test_the_same_content_again_changes_nothing(house: House) -> None:
    content = text_content("The ferry leaves at nine.", external_id="ferry", metadata={"b": 1, "a": 2})
    house.lethe.remember(TENANT, [content])
    house.waker.drain()
    before, keys_before = house.digest(), list_keys(house)
    house.clock.now_us += SECOND
    turned = replace(content, attributes=replace(content.attributes, metadata={"a": 2, "b": 1}))

    (again,) = house.lethe.remember(TENANT, [turned])

    assert (again.unchanged, again.version, again.job.status, again.passages) == (True, 1, "done", 1)
    assert house.waker.drain() == 0
    assert house.digest() == before
    assert list_keys(house) == keys_before


def test_without_an_external_id_equal_texts_are_two_documents(house: House) -> None:
    first = house.remember("The ferry leaves at nine.")
    second = house.remember("The ferry leaves at nine.")
    assert first != second
    assert count_entries(house) == 2


def test_changed_attributes_alone_make_a_new_version(house: House) -> None:
    house.remember("The ferry leaves at nine.", external_id="f", title="Old")
    house.clock.now_us += SECOND
    source = house.remember("The ferry leaves at nine.", external_id="f", title="New")
    view = house.lethe.get_source(TENANT, SourceId(source))
    assert (view.version, view.title) == (2, "New")


def test_versions_within_a_batch_and_a_standing_clock_keep_their_order(house: House) -> None:
    done = house.lethe.remember(
        TENANT, [text_content(f"The ferry leaves at {n}.", external_id="f") for n in ("nine", "ten", "ten")]
    )
    assert [(item.version, item.unchanged) for item in done] == [(1, False), (2, False), (2, True)]
    house.waker.drain()
    assert texts(house) == {"The ferry leaves at ten."}
    house.remember("The ferry leaves at noon.", external_id="f")
    assert texts(house) == {"The ferry leaves at noon."}
    assert count_entries(house) == 3


def test_a_put_keeps_the_external_id_and_gives_the_next_version(house: House) -> None:
    source = house.remember("The ferry leaves at nine.", external_id="f")
    house.clock.now_us += SECOND
    (done,) = house.lethe.remember(
        TENANT, [text_content("The ferry leaves at ten.")], source_id=SourceId(source)
    )
    house.waker.drain()
    assert (done.source_id, done.version) == (source, 2)
    assert house.lethe.get_source(TENANT, SourceId(source)).external_id == "f"
    (same,) = house.lethe.remember(
        TENANT, [text_content("The ferry leaves at ten.")], source_id=SourceId(source)
    )
    assert (same.version, same.unchanged) == (2, True)


def test_refused_requests_leave_neither_entries_nor_keys(house: House) -> None:
    one = house.remember("One.", external_id="one")
    house.remember("Two.", external_id="two")
    before, entries_before = list_keys(house), count_entries(house)
    about = text_content("Three.", external_id="two", subjects=("person:mara",))

    with pytest.raises(ConflictError):
        house.lethe.remember(TENANT, [about], source_id=SourceId(one))
    with pytest.raises(NotFoundError):
        house.lethe.remember(TENANT, [about], source_id=SourceId("nowhere"))
    with pytest.raises(InvalidInputError):
        house.lethe.remember(TENANT, [about, text_content("x", metadata={"n": float("nan")})])

    assert (list_keys(house), count_entries(house)) == (before, entries_before)


def test_metadata_with_great_integers_is_kept(house: House) -> None:
    source = house.remember("The ferry.", metadata={"n": 10**20})
    assert house.lethe.get_source(TENANT, SourceId(source)).metadata == {"n": 10**20}


def test_what_cannot_be_parsed_fails_with_a_clear_problem_and_leaves_nothing(house: House) -> None:
    house.remember("The ferry stays.")
    before, keys_before = house.digest(), list_keys(house)
    good, bad = house.lethe.remember(
        TENANT,
        [
            text_content("The ferry leaves."),
            Content("document", "application/pdf", b"%PDF-1.7 this is no such thing"),
        ],
    )
    house.waker.drain()

    job = house.lethe.get_job(TENANT, bad.job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert "PDF" in str(job.error["detail"])
    assert house.lethe.get_job(TENANT, good.job.id).status == "done"
    with pytest.raises(NotFoundError):
        house.lethe.get_source(TENANT, bad.source_id)
    assert texts(house) == {"The ferry stays.", "The ferry leaves."}
    assert count_entries(house) == 2
    assert len(list_keys(house)) == len(keys_before) + 1
    assert house.digest() != before


def test_an_unreadable_new_version_leaves_the_old_one(house: House) -> None:
    source = house.remember("The ferry leaves at nine.", external_id="f")
    before = house.digest()
    house.lethe.remember(
        TENANT, [Content("document", "application/pdf", b"junk")], source_id=SourceId(source)
    )
    house.waker.drain()
    assert house.digest() == before
    assert house.lethe.get_source(TENANT, SourceId(source)).version == 1


class Flawed:
    """A parser with a defect: it breaks on some texts in a way nobody foresaw."""

    def __init__(self, house: House, error: Exception) -> None:
        self.whole = house.lethe.work.parser
        self.error = error

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        if b"poison" in content.body:
            raise self.error
        return self.whole.parse(content, told)

    def close(self) -> None:
        self.whole.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("poison text in a message"), LetheError("told")])
def test_one_spoilt_entry_does_not_take_its_batch_with_it(house: House, error: Exception) -> None:
    house.lethe.work.parser = Flawed(house, error)
    bodies = ["The ferry a.", "The ferry poison.", "The ferry b.", "The ferry c."]
    done = house.lethe.remember(TENANT, [text_content(body) for body in bodies])
    house.waker.drain()
    states = [house.lethe.get_job(TENANT, item.job.id).status for item in done]
    assert states == ["done", "failed", "done", "done"]
    problem = house.lethe.get_job(TENANT, done[1].job.id).error
    assert problem is not None
    assert "poison" not in str(problem)
    assert texts(house) == {"The ferry a.", "The ferry b.", "The ferry c."}
    assert house.lethe.kernel.jobs.count_open(TENANT) == {}


def test_what_failed_for_want_of_something_is_tried_again_and_only_so_often(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> object:
        raise UnavailableError("the engine is away")

    monkeypatch.setattr("service.work.derive", encode)
    (item,) = house.lethe.remember(TENANT, [text_content("The ferry.")])
    tries = 0
    while house.lethe.get_job(TENANT, item.job.id).status == "queued":
        tries += house.waker.drain()
        house.clock.now_us += 1_000 * SECOND
    assert tries == MAX_ATTEMPTS
    assert house.lethe.get_job(TENANT, item.job.id).status == "dead"


def test_telling_again_what_failed_queues_it_once_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    content = text_content("The ferry.", external_id="f")
    with monkeypatch.context() as patched:
        patched.setattr("service.work.derive", lambda *_: 1 // 0)
        (item,) = house.lethe.remember(TENANT, [content])
        house.waker.drain()
    assert house.lethe.get_job(TENANT, item.job.id).status == "failed"
    (again,) = house.lethe.remember(TENANT, [content])
    assert (again.unchanged, again.version) == (True, 1)
    house.waker.drain()
    assert house.lethe.get_job(TENANT, again.job.id).status == "done"
    assert texts(house) == {"The ferry."}


def test_a_batch_shares_transactions(house: House) -> None:
    """One for the journal, one for all that is derived."""
    engine = house.lethe.kernel.database.engine
    commits: list[str] = []
    puts: list[str] = []
    sa.event.listen(engine, "commit", lambda _: commits.append("commit"))
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda *said: puts.append(said[2]) if said[2].startswith("INSERT INTO artifacts") else None,
    )
    contents = [text_content(f"The ferry number {n} leaves.") for n in range(50)]
    done = house.lethe.remember(TENANT, contents)
    assert len(commits) < 10, "the journal was written entry by entry"
    house.waker.run_job(done[0].job.id)  # type: ignore[misc]
    assert len(puts) == 1, "the derived was written entry by entry"
    assert {house.lethe.get_job(TENANT, item.job.id).status for item in done} == {"done"}
    with house.lethe.kernel.database.read() as connection:
        kinds = [kind for _, _, kind in list_changes(connection, TENANT, 0)]
    assert kinds == ["journaled"] * 50 + ["indexed"] * 50


def test_what_becomes_of_an_entry_does_not_depend_on_its_batch(house: House, tmp_path: object) -> None:
    bodies = [f"The ferry number {n} leaves the harbour." for n in range(5)]
    together = house.lethe.remember(TENANT, [text_content(body) for body in bodies])
    house.waker.drain()
    scores = {(text, score) for _, text, score in house.found("ferry number 3")}
    house.lethe.forget(TENANT, Scope(ids=tuple(item.source_id for item in together)), preview=False)
    house.waker.drain()
    for body in bodies:
        house.remember(body)
    assert {(text, score) for _, text, score in house.found("ferry number 3")} == scores


def test_waiting_ends_with_the_job_or_with_the_time(house: House) -> None:
    (item,) = house.lethe.remember(TENANT, [text_content("The ferry.")])
    assert house.lethe.wait_job(TENANT, item.job.id, timeout_seconds=0.05).status == "queued"
    house.waker.drain()
    view = house.lethe.wait_job(TENANT, item.job.id, timeout_seconds=30)
    assert (view.status, view.progress, view.kind) == ("done", 1.0, INGEST)


def test_jobs_are_listed_newest_first_in_pages(house: House) -> None:
    for number in range(5):
        house.clock.now_us += SECOND
        house.lethe.remember(TENANT, [text_content(f"The ferry {number}.")])
    whole = house.lethe.list_jobs(TENANT, cursor=None, limit=50)
    assert whole.next_cursor is None
    paged, cursor, more = [], None, True
    while more:
        page = house.lethe.list_jobs(TENANT, cursor=cursor, limit=2)
        paged += page.items
        cursor, more = page.next_cursor, page.next_cursor is not None
    assert paged == list(whole.items)
    assert len(paged) == 5


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!!",
        "bm8=",
        "WzFd",
        "WyJhIiwgImIiXQ==",
        "WzFlNDAwLCAiYSJd",
        "WzExMTExMTExMTExMTExMTExMTExMTExMSwgImEiXQ==",
    ],
)
def test_what_is_no_cursor_is_refused(house: House, cursor: str) -> None:
    with pytest.raises(InvalidInputError):
        house.lethe.list_jobs(TENANT, cursor=cursor, limit=2)
    with pytest.raises(InvalidInputError):
        house.lethe.list_sources(TENANT, kind="document", user_id=None, cursor=cursor, limit=2)


def test_sources_are_listed_by_kind_and_user_newest_first_in_pages(house: House) -> None:
    for number in range(5):
        house.clock.now_us += SECOND
        house.remember(f"Document {number} of the ferry.", external_id=f"d{number}")
        house.remember(f"Memory {number} of the ferry.", kind="memory", user_id=f"u{number % 2}")
    house.clock.now_us += SECOND
    house.remember("Document 1 again.", external_id="d1")

    def list_all(kind: str, user_id: str | None, limit: int) -> list[str | None]:
        found, cursor, more = [], None, True
        while more:
            page = house.lethe.list_sources(TENANT, kind=kind, user_id=user_id, cursor=cursor, limit=limit)
            assert len(page.items) <= limit
            found += [house.lethe.get_source(TENANT, item.source_id).text for item in page.items]
            cursor, more = page.next_cursor, page.next_cursor is not None
        return found

    documents = ["Document 1 again.", *(f"Document {n} of the ferry." for n in (4, 3, 2, 0))]
    for limit in (1, 2, 5, 50):
        assert list_all("document", None, limit) == documents
        assert list_all("memory", "u1", limit) == [f"Memory {n} of the ferry." for n in (3, 1)]
    assert len(list_all("memory", None, 3)) == 5


def test_a_job_that_is_cancelled_takes_its_content_back(house: House) -> None:
    (told,) = house.lethe.remember(TENANT, [text_content("The ferry.", external_id="f")])
    assert house.lethe.cancel_job(TENANT, told.job.id).status == "cancelled"
    house.waker.drain()
    assert house.found("ferry") == []
    assert house.digest() == house.digest() and house.lethe.stats(TENANT)["entries"] == 0
    assert house.lethe.kernel.vault.list_entry_ids(TENANT) == []
    with pytest.raises(ConflictError, match="send it again"):
        house.lethe.retry_job(TENANT, told.job.id)
    with pytest.raises(ConflictError, match="nothing to cancel"):
        house.lethe.cancel_job(TENANT, told.job.id)


def test_a_forget_cannot_be_cancelled(house: House) -> None:
    house.remember("Mara takes the ferry.", subjects=("person:mara",))
    house.lethe.forget(TENANT, Scope(subjects=("person:mara",)), preview=False)
    (job,) = [j for j in house.lethe.list_jobs(TENANT, cursor=None, limit=9).items if j.kind == "forget"]
    with pytest.raises(ConflictError, match="hidden already"):
        house.lethe.cancel_job(TENANT, job.id)


def test_a_dead_job_is_done_once_more_when_asked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead: what it needs was away for too long. The content stays, and so does the reason."""
    (told,) = house.lethe.remember(TENANT, [text_content("The ferry.")])
    with monkeypatch.context() as away:

        def refuse(*_: object, **__: object) -> None:
            raise UnavailableError("the encoder is away")

        away.setattr("service.work.derive", refuse)
        for _ in range(MAX_ATTEMPTS):
            house.waker.drain()
            house.clock.now_us += 1_000_000_000
    dead = house.lethe.get_job(TENANT, told.job.id)
    assert dead.status == "dead" and dead.error is not None and dead.error["detail"] == "the encoder is away"
    assert house.waker.drain() == 0
    assert house.lethe.retry_job(TENANT, told.job.id).status == "queued"
    house.waker.drain()
    assert house.lethe.get_job(TENANT, told.job.id).status == "done"
    assert len(house.found("ferry")) == 1


class Slow:
    """A parser that tells how far it is, many times."""

    def __init__(self, house: House, shares: Sequence[float], look: Callable[[], object]) -> None:
        self.whole, self.shares, self.look = house.lethe.work.parser, shares, look

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        for share in self.shares:
            told(share)
            self.look()
        return self.whole.parse(content)

    def close(self) -> None:
        self.whole.close()


def test_progress_moves_while_a_content_is_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.work.TELL_SECONDS", 0.0)
    seen: list[float] = []
    ids: list[str] = []

    def look() -> None:
        seen.append(house.lethe.get_job(TENANT, ids[0]).progress)

    house.lethe.work.parser = Slow(house, (0.0, 0.5, 1.0), look)
    ids += [item.job.id for item in house.lethe.remember(TENANT, [text_content("The ferry leaves.")])]
    house.waker.drain()
    assert seen == pytest.approx([0, 0.45, 0.9])
    assert house.lethe.get_job(TENANT, ids[0]).progress == 1.0


def test_progress_is_written_once_in_a_while_and_its_loss_costs_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = house.lethe.kernel.jobs
    written: list[float] = []
    extend = jobs.extend

    def fail(claimed: Sequence[Job], progress: float | None = None) -> None:
        written.append(progress or 0.0)
        if progress is not None and progress < 0.9:
            raise UnavailableError("the database starts anew")
        extend(claimed, progress)

    monkeypatch.setattr(jobs, "extend", fail)
    house.lethe.work.parser = Slow(house, [at / 1_000 for at in range(1_000)], lambda: None)
    assert house.remember("The ferry leaves.")
    assert written == [0.9]
    monkeypatch.setattr("service.work.TELL_SECONDS", 0.0)
    assert house.remember("The ferry arrives.")
    assert len(written) == 1_002 and house.found("ferry")
