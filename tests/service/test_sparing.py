"""Some seconds of a recording are forgotten, or what one speaker says: the rest stays, and nothing else."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import pytest

from memory.errors import ConflictError, InvalidInputError
from memory.journal import get_content, list_entry_ids
from memory.values import CUES_MEDIA_TYPE, Attributes, Content, Part, SourceId
from service import forgetting
from service.topics import fold_topics
from service.views import Scope
from tests.faults.scanner import find_words
from tests.service.harness import TENANT, House
from tests.sources.moving import CUES, make_media

SRT = b"""1
00:00:01,000 --> 00:00:03,000
The ferry leaves at nine.

2
00:00:20,000 --> 00:00:23,000
Zquorvex keeps the lantern.

3
00:00:40,000 --> 00:00:43,000
It returns at noon.
"""


def forget(house, scope):
    house.clock.now_us += 1_000_000
    view = house.lethe.forget(TENANT, scope, preview=False)
    house.waker.drain()
    done = house.lethe.get_forget(TENANT, view.id)
    assert done.state == "certified", done
    return done


def remember(house, content):
    (done,) = house.lethe.remember(TENANT, [content])
    house.waker.drain()
    return done.source_id


def bodies(house):
    kernel = house.lethe.kernel
    with kernel.database.read() as connection:
        ids = list_entry_ids(connection, TENANT)
        opener = kernel.vault.opener(TENANT, ids)
        found = [get_content(connection, opener, entry_id) for entry_id in ids]
    return [content for content in found if content is not None]


def texts(house, query="lantern ferry noon"):
    return " ".join(text for _, text, _ in house.found(query))


def test_seconds_of_captions_go_and_the_rest_stays(house):
    source_id = remember(house, Content("document", "application/x-subrip", SRT, Attributes(title="Quay")))

    done = forget(house, Scope(ids=(source_id,), start_ms=19_000, end_ms=21_000))

    assert dict(done.counts)["kept_in_part"] == 1
    left = texts(house)
    assert "leaves at nine" in left and "returns at noon" in left and "Zquorvex" not in left
    assert find_words(house.data, ["Zquorvex"]) == []
    (content,) = bodies(house)
    assert (content.media_type, content.attributes.title) == (CUES_MEDIA_TYPE, "Quay")
    assert [cue["start_ms"] for cue in json.loads(content.body)] == [1000, 40000]
    view = house.lethe.get_source(TENANT, source_id)
    assert (view.version, "Zquorvex" in (view.text or "")) == (1, False)


def test_seconds_of_a_film_go_from_its_file_and_the_rest_plays(house):
    shown = range(0, 5000, 200)
    body = make_media("mp4", seconds=5.0, pictures=shown, subtitles=[("mov_text", "eng", CUES)])
    source_id = remember(house, Content("document", "video/mp4", body))
    assert "at nine" in texts(house)

    forget(house, Scope(ids=(source_id,), start_ms=0, end_ms=1800))

    assert "at nine" not in texts(house) and "returns at noon" in texts(house)
    (content,) = bodies(house)
    with av.open(io.BytesIO(content.body)) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
        assert min(times) >= 1.8
    with av.open(io.BytesIO(content.body)) as file:
        heard = [float(frame.time) for frame in file.decode(audio=0)]
        assert min(heard) >= 1.75 and max(heard) > 4.5


def test_all_of_it_leaves_nothing(house):
    source_id = remember(house, Content("document", "application/x-subrip", SRT))
    done = forget(house, Scope(ids=(source_id,), start_ms=0))
    assert dict(done.counts)["kept_in_part"] == 0
    assert bodies(house) == []


def test_a_range_of_what_has_no_times_is_refused(house):
    source_id = house.remember("The ferry leaves at nine.")
    with pytest.raises(InvalidInputError, match="no recording"):
        house.lethe.forget(TENANT, Scope(ids=(source_id,), start_ms=0, end_ms=5), preview=True)
    with pytest.raises(InvalidInputError, match="by id"):
        house.lethe.forget(TENANT, Scope(start_ms=0, end_ms=5), preview=False)
    assert len(house.found("ferry")) == 1


def open_log(house):
    view, _ = house.lethe.streams.open(TENANT, "text", Attributes(title="Log"))
    return view.id


def append(house, stream_id, number, cues):
    told = [{"start_ms": at, "end_ms": at + 900, "text": text, "speaker": who} for at, text, who in cues]
    speakers = tuple(sorted({who for *_, who in cues if who}))
    part = Part(SourceId(stream_id), number, told[0]["start_ms"], told[-1]["end_ms"], speakers)
    body = json.dumps(told).encode()
    content = Content("segment", CUES_MEDIA_TYPE, body, Attributes(part=part))
    received = house.lethe.streams.append(TENANT, SourceId(stream_id), content)
    house.waker.drain()
    return received


def test_what_one_speaker_says_goes(house):
    stream_id = open_log(house)
    append(house, stream_id, 0, [(0, "The ferry leaves.", "Bo"), (1000, "Zquorvex is ill.", "Ada")])
    append(house, stream_id, 1, [(2000, "Zquorvex is well.", "Ada")])
    append(house, stream_id, 2, [(3000, "It is noon.", None)])

    before = house.lethe.forget(TENANT, Scope(ids=(stream_id,), speakers=("Ada",)), preview=True)
    done = forget(house, Scope(ids=(stream_id,), speakers=("Ada",)))

    assert (before.counts["entries"], before.counts["kept_in_part"]) == (2, 1)
    assert (done.counts["entries"], done.counts["kept_in_part"]) == (2, 1)
    moments = house.lethe.streams.list_moments(TENANT, SourceId(stream_id), 0, 10_000, limit=9)
    assert [(one.number, one.text) for one in moments] == [(0, "Bo: The ferry leaves."), (2, "It is noon.")]
    assert find_words(house.data, ["Zquorvex"]) == []


def test_a_segment_that_reaches_into_the_range_is_cut_and_keeps_its_number(house):
    stream_id = open_log(house)
    append(house, stream_id, 0, [(0, "The ferry leaves.", None), (1000, "Zquorvex is ill.", None)])

    forget(house, Scope(ids=(stream_id,), start_ms=1500, end_ms=1600))

    moments = house.lethe.streams.list_moments(TENANT, SourceId(stream_id), 0, 10_000, limit=9)
    assert [(one.number, one.text) for one in moments] == [(0, "The ferry leaves.")]
    assert house.lethe.streams.get(TENANT, SourceId(stream_id)).segments == 1


def test_what_stays_is_what_a_house_holds_that_was_told_no_more(tmp_path, encoder):
    first, twin = House(tmp_path / "first", encoder), House(tmp_path / "twin", encoder)
    try:
        for house in (first, twin):
            house.lethe.kernel.vault.adopt_tenant_key(TENANT, bytes(range(32)))
        said = Attributes(external_id="q", subjects=("bo",))
        source_id = remember(first, Content("document", "application/x-subrip", SRT, said))
        at_us = first.clock.now_us
        forget(first, Scope(ids=(source_id,), start_ms=19_000, end_ms=21_000))
        with first.lethe.kernel.database.read() as connection:
            (entry_id,) = list_entry_ids(connection, TENANT)
        (content,) = bodies(first)

        twin.clock.now_us, twin.ids.given = at_us, [entry_id]
        assert remember(twin, content) == source_id

        for house in (first, twin):
            house.lethe.indexes.rewrite(TENANT)
            assert fold_topics(house.lethe.kernel, house.lethe.indexes, TENANT)
        assert first.digest() == twin.digest()
        assert first.found("ferry") == twin.found("ferry")
    finally:
        first.close()
        twin.close()


def test_the_manifesto_without_twenty_to_forty_seconds(house):
    """Nothing of those seconds is in the file that is left; before and after it plays, at its old times."""
    video = Path(__file__).parents[2].parent / "shared" / "data" / "video" / "manifesto.mp4"
    if not video.exists():
        pytest.skip("shared/data/video is absent")
    view, _ = house.lethe.streams.open(TENANT, "video", Attributes())
    part = Part(SourceId(view.id), 0, 0, 88_000)
    house.lethe.streams.append(
        TENANT, SourceId(view.id), Content("segment", "video/mp4", video.read_bytes(), Attributes(part=part))
    )

    house.lethe.forget(TENANT, Scope(ids=(view.id,), start_ms=20_000, end_ms=40_000), preview=False)

    (content,) = (each for each in bodies(house) if each.kind == "segment" and len(each.body) < 700_000)
    with av.open(io.BytesIO(content.body)) as file:
        heard = [float(frame.time) for frame in file.decode(audio=0)]
    assert not [at for at in heard if 20 <= at < 40]
    assert min(heard) < 1 and max(heard) > 86
    with av.open(io.BytesIO(content.body)) as file:
        shown = [float(frame.time) for frame in file.decode(video=0)]
    assert not [at for at in shown if 20 <= at < 40]
    assert min(shown) < 1 and max(shown) > 80


def append_file(house, stream_id, number, body, media_type, start_ms, end_ms):
    part = Part(SourceId(stream_id), number, start_ms, end_ms)
    content = Content("segment", media_type, body, Attributes(part=part))
    received = house.lethe.streams.append(TENANT, SourceId(stream_id), content)
    house.waker.drain()
    return received


def told_at(house, stream_id):
    found = house.lethe.streams.list_moments(TENANT, SourceId(stream_id), 0, 10_000_000, limit=99)
    return [(one.start_ms, one.text) for one in found]


def test_captions_sent_as_a_file_keep_the_streams_clock_when_they_are_cut_twice(house):
    stream_id = open_log(house)
    append_file(house, stream_id, 0, SRT, "application/x-subrip", 600_000, 601_000)

    forget(house, Scope(ids=(stream_id,), start_ms=619_000, end_ms=621_000))
    assert told_at(house, stream_id) == [(601_000, "The ferry leaves at nine.\n\nIt returns at noon.")]
    forget(house, Scope(ids=(stream_id,), start_ms=639_000, end_ms=645_000))

    assert told_at(house, stream_id) == [(601_000, "The ferry leaves at nine.")]


def test_who_speaks_and_until_when_is_read_from_captions_not_believed(house):
    stream_id = open_log(house)
    body = b"WEBVTT\n\n00:01.000 --> 00:02.000\n<v Bob>Aye.\n\n00:40.000 --> 00:41.000\n<v Ada>Zquorvex.\n"
    append_file(house, stream_id, 0, body, "text/vtt", 0, 5_000)

    late = house.lethe.forget(TENANT, Scope(ids=(stream_id,), start_ms=39_000), preview=True)
    done = forget(house, Scope(ids=(stream_id,), speakers=("Ada",)))

    assert late.counts["entries"] == 1
    assert (done.counts["entries"], done.counts["kept_in_part"]) == (1, 1)
    assert find_words(house.data, ["Zquorvex"]) == []


def test_a_recording_that_says_more_than_its_segment_lasts_is_refused(house):
    stream_id = open_log(house)
    body = make_media("mp4", seconds=5.0, subtitles=[("mov_text", "eng", CUES)])

    received = append_file(house, stream_id, 0, body, "video/mp4", 0, 1_000)

    job = house.lethe.get_job(TENANT, received.job.id)
    assert job.status == "failed" and "said to end at 1000 ms" in str(job.error)


def test_a_film_of_which_all_words_are_forgotten_is_kept(house):
    shown = range(0, 5000, 200)
    body = make_media("mp4", seconds=5.0, pictures=shown, subtitles=[("mov_text", "eng", CUES)])
    source_id = remember(house, Content("document", "video/mp4", body))

    done = forget(house, Scope(ids=(source_id,), start_ms=400, end_ms=4_100))

    assert done.counts["kept_in_part"] == 1
    (content,) = bodies(house)
    assert content.attributes.is_rest
    assert house.lethe.get_source(TENANT, source_id).passages == 0


def test_a_segment_that_cannot_be_cut_goes_whole_and_holds_up_nothing(house):
    stream_id = open_log(house)
    part = Part(SourceId(stream_id), 0, 0, 9_000)
    broken = Content("segment", "video/mp4", b"\0" * 999, Attributes(part=part))
    house.lethe.streams.append(TENANT, SourceId(stream_id), broken)

    done = forget(house, Scope(ids=(stream_id,), start_ms=1_000, end_ms=2_000))

    assert (done.counts["entries"], done.counts["kept_in_part"]) == (1, 0)


def test_what_another_request_left_is_cut_again_and_not_taken_whole(house, monkeypatch):
    """The second request was prepared before the first one's fence."""
    source_id = remember(house, Content("document", "application/x-subrip", SRT))
    spare = forgetting.spare

    def late(*arguments):
        left = spare(*arguments)
        monkeypatch.setattr(forgetting, "spare", spare)
        house.lethe.forget(TENANT, Scope(ids=(source_id,), start_ms=0, end_ms=4_000), preview=False)
        return left

    monkeypatch.setattr(forgetting, "spare", late)
    forget(house, Scope(ids=(source_id,), start_ms=39_000, end_ms=44_000))

    (content,) = bodies(house)
    assert [cue["text"] for cue in json.loads(content.body)] == ["Zquorvex keeps the lantern."]


def test_a_cut_segment_that_is_sent_once_more_changes_nothing(house):
    stream_id = open_log(house)
    cues = [(0, "The ferry leaves.", None), (1000, "Zquorvex is ill.", None)]
    append(house, stream_id, 0, cues)
    forget(house, Scope(ids=(stream_id,), start_ms=1000, end_ms=1100))

    assert append(house, stream_id, 0, cues).unchanged
    assert told_at(house, stream_id) == [(0, "The ferry leaves.")]


def test_a_range_of_the_clock_takes_the_segments_in_it_and_not_the_stream(house):
    begins = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    view, _ = house.lethe.streams.open(TENANT, "text", Attributes(title="Log", occurred_at=begins))
    for number in range(3):
        at = 60_000 * number
        append(house, view.id, number, [(at, f"Minute {number}.", None), (at + 50_000, "Aye.", None)])

    since = begins + timedelta(seconds=70)
    forget(house, Scope(time_from=since, time_to=since + timedelta(seconds=5)))

    assert [at for at, _ in told_at(house, view.id)] == [0, 120_000]


def test_a_segment_has_no_next_version_and_a_streams_listing_is_not_cancelled(house):
    stream_id = open_log(house)
    received = append(house, stream_id, 0, [(0, "Aye.", None)])
    for source_id in (stream_id, received.source_id):
        with pytest.raises(ConflictError, match="no next version"):
            house.lethe.remember(TENANT, [Content("document", "text/plain", b"No.")], source_id=source_id)
    fresh, _ = house.lethe.streams.open(TENANT, "text", Attributes())
    jobs = house.lethe.list_jobs(TENANT, cursor=None, limit=9).items
    (job,) = (job for job in jobs if job.status == "queued")
    with pytest.raises(ConflictError, match="forget the stream"):
        house.lethe.cancel_job(TENANT, job.id)
    assert house.lethe.streams.get(TENANT, fresh.id).segments == 0
