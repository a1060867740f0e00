"""Some seconds of a recording are forgotten, or what one speaker says: the rest stays, and nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import pytest

from memory.errors import InvalidInputError
from memory.journal import get_content, list_entry_ids
from memory.values import CUES_MEDIA_TYPE, Attributes, Content, Part, SourceId
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
