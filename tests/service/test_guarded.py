"""Bad files through the whole service: a failed job that says why, nothing kept by halves, the next one remembered."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from memory.errors import NotFoundError, UnavailableError
from memory.values import Content, SourceId
from service.lethe import Lethe
from service.media import MediaParser
from service.settings import Settings
from service.views import Scope
from sources.guard import GuardedParser
from tests.service.harness import TENANT, House, iter_files
from tests.sources.moving import CUES, make_film

BAD: dict[str, tuple[Content, str]] = {
    "damaged PDF": (Content("document", "application/pdf", b"%PDF-1.7\nnothing"), "damaged"),
    "no text": (Content("document", "text/plain", b" \n"), "no text"),
    "a binary file": (Content("document", "text/plain", b"\x7fELF" + bytes(99)), "binary"),
    "nested deeply": (Content("document", "application/json", b"[" * 9_999), "nested deeper"),
    "unknown type": (Content("document", "image/x-xcf", b"\x89PNG"), "image/x-xcf"),
    "an endless paragraph of nothing": (Content("document", "text/html", b"<p>" + b"<i>" * 9), "no text"),
}


@pytest.fixture
def guarded(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    house = House(tmp_path / "data", encoder, guarded=True, parse_seconds=7, parse_processes=1)
    yield house
    house.close()


def get_parser(lethe: Lethe) -> GuardedParser:
    parser = lethe.work.parser
    assert isinstance(parser, MediaParser)
    assert isinstance(parser.parser, GuardedParser)
    return parser.parser


def test_bad_files_fail_with_a_reason_and_leave_nothing(guarded: House) -> None:
    kept = guarded.remember("The ferry leaves at nine.")
    before = guarded.digest()

    for name, (content, reason) in BAD.items():
        (done,) = guarded.lethe.remember(TENANT, [content])
        guarded.waker.drain()
        job = guarded.lethe.get_job(TENANT, done.job.id)
        assert job.status == "failed", name
        assert job.error is not None and reason in str(job.error["detail"]), name
        with pytest.raises(NotFoundError):
            guarded.lethe.get_source(TENANT, done.source_id)
        assert guarded.digest() == before, name

    assert guarded.found("When does the ferry leave?")[0][0] == kept
    assert guarded.remember("The ferry returns at noon.") != kept


def test_bad_files_in_one_batch_take_no_good_one_with_them(guarded: House) -> None:
    good = [Content("document", "text/plain", f"Ferry number {n} leaves.".encode()) for n in range(3)]
    bad = [content for content, _ in BAD.values()]
    mixed = [content for pair in zip(bad, good, strict=False) for content in pair]

    done = guarded.lethe.remember(TENANT, mixed)
    guarded.waker.drain()

    states = [guarded.lethe.get_job(TENANT, each.job.id).status for each in done]
    assert states == ["failed", "done"] * 3


def test_guarded_or_not_the_content_is_the_same(tmp_path: Path, encoder: TextEncoder) -> None:
    folder = Path(__file__).parents[2] / "examples" / "harbour"
    contents = [
        Content("document", "text/markdown", path.read_bytes(), filename=path.name)
        for path in iter_files(folder)
        if path.suffix == ".md"
    ]
    assert contents
    indexed = []
    for name in (False, True):
        house = House(tmp_path / str(name), encoder, guarded=name)
        house.lethe.remember(TENANT, contents)
        house.waker.drain()
        indexed.append(house.digest()["index"])  # named and sealed under no key of the house
        house.close()
    assert indexed[0] == indexed[1]


def test_that_no_process_can_be_had_is_tried_again(guarded: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is no worse for it: its job waits, and nothing of it is taken back."""

    def start(_: object) -> object:
        raise UnavailableError("no process to read documents in can be started")

    with monkeypatch.context() as patched:
        patched.setattr(GuardedParser, "_start", start)
        (done,) = guarded.lethe.remember(TENANT, [Content("document", "text/plain", b"The ferry leaves.")])
        guarded.waker.drain()
        assert guarded.lethe.get_job(TENANT, done.job.id).status == "queued"
    guarded.clock.now_us += 1_000_000_000
    guarded.waker.drain()
    assert guarded.lethe.get_source(TENANT, SourceId(done.source_id)).text == "The ferry leaves."


def test_settings_reach_the_guard_and_stopping_closes_it(guarded: House) -> None:
    parser = get_parser(guarded.lethe)
    assert (parser.seconds, parser.memory_bytes) == (7, Settings().parse_memory_bytes)
    guarded.remember("The ferry leaves.")
    (process_id,) = parser.list_process_ids()

    guarded.restart()

    with pytest.raises(ProcessLookupError):
        os.kill(process_id, signal.SIG_DFL)
    guarded.remember("The ferry returns.")
    assert len(get_parser(guarded.lethe).list_process_ids()) == 1


def test_pictures_and_clips_are_taken_by_a_process_of_their_own(guarded: House) -> None:
    body = make_film("mp4", pictures=5, captions=("mov_text", CUES))
    (done,) = guarded.lethe.remember(TENANT, [Content("document", "video/mp4", body)])
    guarded.waker.drain()
    cutter = guarded.lethe.excerpts.cutter
    assert isinstance(cutter, GuardedParser)
    assert cutter.list_process_ids() == [], "begun when it is needed"

    frame = guarded.lethe.get_frame(TENANT, done.source_id, 100)
    clip = guarded.lethe.get_clip(TENANT, done.source_id, 0, 200)

    assert (frame.start_ms, frame.media_type, clip.start_ms, clip.media_type) == (
        80,
        "image/jpeg",
        0,
        "video/mp4",
    )
    assert len(cutter.list_process_ids()) == 1
    forgetting = guarded.lethe.forgetting.cutter
    assert isinstance(forgetting, GuardedParser) and forgetting is not cutter
    assert forgetting.list_process_ids() == [], "who looks holds up no forget"
    view = guarded.lethe.forget(TENANT, Scope(ids=(done.source_id,), start_ms=0, end_ms=10), preview=False)
    guarded.waker.drain()
    assert guarded.lethe.get_forget(TENANT, view.id).state == "certified"
    assert len(forgetting.list_process_ids()) == 1
    guarded.restart()
    assert forgetting.list_process_ids() == []
    assert cutter.list_process_ids() == [], "stopping closes it"
