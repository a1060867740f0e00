"""``lethe stream`` and ``lethe streams`` as people run them, against a real service over TCP."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import structlog
from doors import serving_app
from real import real_service, tiny_encoder
from typer.testing import CliRunner

import api.cli_stream
import api.stream_sending
from api.cli import app
from api.client import BusyError, LetheClient
from api.feed import Feed
from api.stream_sending import LINES_KEY, Sender
from api.stream_text import Batch
from memory.errors import UnavailableError
from tests.sources.moving import make_media

ROOT = Path(__file__).parents[2]
WORDS = ("one", "two", "three", "four", "five", "six")
CUES = [
    (2_000 * at + 200, 2_000 * at + 1_200, f"The ferry passes buoy {word}.") for at, word in enumerate(WORDS)
]


@pytest.fixture
def service(tmp_path):
    with real_service(tmp_path / "data", tiny_encoder(tmp_path / "model")) as opened:
        yield opened


@pytest.fixture
def url(service, tmp_path, monkeypatch):
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "admin.key").write_text(service.key("read", "write", "forget", "admin"))
    monkeypatch.setenv("LETHE_DATA", str(tmp_path / "key"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LETHE_KEY", raising=False)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the service runs in this process
    with serving_app(service.app, lifespan="off") as port:
        monkeypatch.setenv("LETHE_URL", f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    structlog.reset_defaults()


@pytest.fixture
def client(url, tmp_path):
    with LetheClient(url, (tmp_path / "key" / "admin.key").read_text()) as client:
        yield client


@pytest.fixture
def lethe_cli(url):
    def run(*arguments: str, code: int = 0, **options):
        result = CliRunner().invoke(app, arguments, **options)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return run


def make_camera(kind: str = "mkv") -> bytes:
    """Return twelve seconds of pictures, with a caption every two; a key frame each half second."""
    codec = "mov_text" if kind == "mp4" else "subrip"
    pictures = range(0, 12_000, 40)
    return make_media(kind, sound=False, pictures=pictures, subtitles=[(codec, "eng", CUES)])


def heard(client, stream_id: str) -> list[tuple[int, str]]:
    """Return what a stream tells and when, its segments joined."""
    found = client.streams.list_passages(stream_id)
    assert [one["number"] for one in found] == sorted(one["number"] for one in found)
    return [(one["start_ms"], " ".join(one["text"].split())) for one in found]


def words_of(client, stream_id: str) -> str:
    return " ".join(text for _, text in heard(client, stream_id))


def wait_for(look):
    deadline = time.monotonic() + 50
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


ALL = " ".join(text for _, _, text in CUES)


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_a_recording_is_cut_sent_and_found_at_its_time(lethe_cli, client, tmp_path, kind):
    (tmp_path / f"quay.{kind}").write_bytes(make_camera(kind))

    result = lethe_cli(
        *(
            "stream",
            str(tmp_path / f"quay.{kind}"),
            "--seconds",
            "3",
            "--start",
            "2026-03-01T09:30:00Z",
            "--wait",
        )
    )

    (stream,) = client.streams.list_streams()
    assert (stream["title"], stream["external_id"], stream["kind"]) == ("quay", f"quay.{kind}", "video")
    assert stream["occurred_at"] == "2026-03-01T09:30:00Z"
    assert stream["closed_at"] is not None and stream["next_number"] == stream["segments"] >= 3
    assert f"stream {stream['id']}: {stream['segments']} segments sent, up to 00:12" in result.stdout
    assert "x" in result.stdout and "all of it is searchable" in result.stdout
    assert words_of(client, stream["id"]) == ALL
    assert {at for at, _ in heard(client, stream["id"])} <= {start for start, _, _ in CUES}
    asked = {"stream_id": stream["id"], "occurred_at": {"$gte": "2026-03-01T09:30:06Z"}}
    assert "six" in " ".join(hit["text"] for hit in client.recall("buoy six", filter=asked)["hits"])


def test_a_run_that_was_broken_off_is_gone_on_with(lethe_cli, client, tmp_path, monkeypatch):
    (tmp_path / "quay.mkv").write_bytes(make_camera())
    send, sent = Sender.send_recording, []

    def stop_after_two(self, segment, later_ms):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(segment.number)
        send(self, segment, later_ms)

    monkeypatch.setattr(Sender, "send_recording", stop_after_two)
    broken = lethe_cli("stream", str(tmp_path / "quay.mkv"), "--seconds", "2", code=130)
    (stream,) = client.streams.list_streams()
    assert (stream["closed_at"], stream["next_number"]) == (None, 2)
    assert "run the same command again to go on" in broken.stderr
    monkeypatch.setattr(Sender, "send_recording", send)

    again = lethe_cli("stream", str(tmp_path / "quay.mkv"), "--seconds", "2")

    assert "going on with segment 2" in again.stderr
    (stream,) = client.streams.list_streams()
    assert stream["closed_at"] is not None and stream["segments"] == stream["next_number"] > 3
    assert words_of(client, stream["id"]) == ALL
    late = lethe_cli("stream", str(tmp_path / "quay.mkv"), "--seconds", "2", code=1)
    assert "closed" in late.stderr and "--external-id" in late.stderr


def test_a_growing_log_is_found_line_by_line(lethe_cli, client, tmp_path, monkeypatch):
    log = tmp_path / "bridge.log"
    log.write_text("The anchor is up.\n")
    seen, feeds = [], []

    class Watched(Feed):
        def __init__(self, file, idle_seconds=0):
            super().__init__(file, idle_seconds)
            feeds.append(self)

    monkeypatch.setattr(api.cli_stream, "Feed", Watched)

    def write() -> None:
        seen.extend(wait_for(lambda: client.recall("anchor")["hits"]))  # found while the log goes on
        with log.open("a") as file:
            file.write("The pilot boards ")
            file.flush()
            time.sleep(0.2)
            file.write("at the lighthouse.\nThe lamp is lit.\n")
        wait_for(lambda: client.streams.list_streams()[0]["segments"] == 2)
        feeds[0]._idle_seconds = 0.5

    writer = threading.Thread(target=write)
    writer.start()
    result = lethe_cli("stream", str(log), "--follow", "--idle", "60")
    writer.join()

    assert [hit["text"] for hit in seen] == ["The anchor is up."]
    (stream,) = client.streams.list_streams()
    assert (stream["kind"], stream["title"], stream["segments"]) == ("text", "bridge", 2)
    assert (
        words_of(client, stream["id"])
        == "The anchor is up. The pilot boards at the lighthouse. The lamp is lit."
    )
    times = [at for at, _ in heard(client, stream["id"])]
    assert 0 <= times[0] < 5_000 and times[0] + 1_500 < times[1] < 20_000
    assert stream["occurred_at"] is not None
    assert "2 segments sent" in result.stdout


def test_lines_that_tell_their_time_are_gone_on_with_behind_the_last(lethe_cli, client, tmp_path):
    log = tmp_path / "bridge.jsonl"
    rows = [
        {"time": "2026-03-01T09:30:00Z", "text": "The anchor is up.", "speaker": "Bridge"},
        {"time": "2026-03-01T09:31:30Z", "message": "The pilot boards."},
        {"nothing": 1},
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    first = lethe_cli("stream", str(log), "--keep-open")
    with log.open("a") as file:
        file.write(json.dumps({"start_ms": 200_000, "end_ms": 201_000, "text": "The lamp is lit."}) + "\n")
    again = lethe_cli("stream", str(log), "--wait")

    assert "line 3 is no JSON object with a text or message" in first.stderr
    assert "going on behind line 3" in again.stderr
    (stream,) = client.streams.list_streams()
    assert (stream["occurred_at"], stream["segments"]) == ("2026-03-01T09:30:00Z", 2)
    assert stream["closed_at"] is not None
    assert heard(client, stream["id"]) == [
        (0, "Bridge: The anchor is up. The pilot boards."),
        (200_000, "The lamp is lit."),
    ]
    (hit,) = client.recall("lamp", filter={"start_ms": {"$gte": 200_000}})["hits"]
    assert hit["metadata"] == {LINES_KEY: 4}


def test_many_lines_become_many_segments_and_their_order_is_their_time(lethe_cli, client, tmp_path):
    log = tmp_path / "tide.log"
    log.write_text("".join(f"The tide is at {at} centimetres.\n\n" for at in range(120)))

    result = lethe_cli("stream", str(log), "--title", "Tide gauge", "--external-id", "tide")

    assert "its lines tell no time: they count as one second each" in result.stderr
    (stream,) = client.streams.list_streams()
    assert (stream["title"], stream["external_id"], stream["segments"]) == ("Tide gauge", "tide", 3)
    assert stream["end_ms"] == 238_000
    (moment,) = client.streams.list_passages(stream["id"], start_ms=238_000)[-1:]
    assert "The tide is at 119 centimetres." in moment["text"]


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T09:30:00Z The anchor is up.\n  by hand\n2026-03-01 09:30:05,250 The lamp is lit.\n",
        "1\n00:00:00,000 --> 00:00:01,000\nThe anchor is up.\n\n2\n00:00:05,250 --> 00:00:06,000\nThe lamp is lit.\n",
        "WEBVTT\n\n00:00.000 --> 00:01.000\nThe anchor is up.\n\n00:05.250 --> 00:06.000\nThe lamp is lit.",
    ],
)
def test_times_of_logs_and_captions_are_the_streams(lethe_cli, client, tmp_path, text):
    (tmp_path / "bridge.txt").write_text(text)

    lethe_cli("stream", str(tmp_path / "bridge.txt"))

    (stream,) = client.streams.list_streams()
    (moment,) = client.streams.list_passages(stream["id"])
    assert moment["start_ms"] == 0 and 5_250 <= moment["end_ms"] <= 6_000
    assert "The anchor is up." in moment["text"] and "The lamp is lit." in moment["text"]


def test_a_pipe_brings_text_and_recordings(lethe_cli, client):
    lethe_cli("stream", "-", "--title", "Bridge", input="The anchor is up.\nThe lamp is lit.\n")
    lethe_cli("stream", "-", "--external-id", "quay", "--seconds", "3", input=make_camera("mkv"))

    video, text = client.streams.list_streams()
    if video["kind"] == "text":
        video, text = text, video
    assert (text["title"], text["external_id"]) == ("Bridge", None)
    assert words_of(client, text["id"]) == "The anchor is up. The lamp is lit."
    assert (video["kind"], video["external_id"]) == ("video", "quay")
    assert words_of(client, video["id"]) == ALL


def test_a_pipe_that_broke_is_gone_on_with_at_the_time_it_is(lethe_cli, client):
    start = datetime.now(UTC).isoformat()
    command = ("stream", "-", "--external-id", "quay", "--start", start, "--keep-open")
    lethe_cli(*command, input=make_camera("mkv"))
    lethe_cli(*command, input=make_camera("mkv"))

    (stream,) = client.streams.list_streams()
    assert (stream["closed_at"], stream["next_number"]) == (None, stream["segments"])
    assert words_of(client, stream["id"]) == f"{ALL} {ALL}"
    times = [at for at, _ in heard(client, stream["id"])]
    assert times == sorted(times) and 12_000 <= times[len(times) // 2] < 60_000


def test_a_named_pipe_is_a_pipe(lethe_cli, client, tmp_path):
    os.mkfifo(tmp_path / "bridge")
    writer = threading.Thread(target=(tmp_path / "bridge").write_bytes, args=(make_camera("mkv"),))
    writer.start()
    lethe_cli("stream", str(tmp_path / "bridge"))
    writer.join()
    (stream,) = client.streams.list_streams()
    assert stream["title"] == "bridge" and words_of(client, stream["id"]) == ALL


def test_a_service_that_starts_anew_is_waited_for(monkeypatch):
    pauses = []
    monkeypatch.setattr(api.stream_sending.time, "sleep", pauses.append)
    reply = {"job": {"id": "91fe", "status": "queued"}}
    outcomes = [
        UnavailableError("nothing answers"),
        BusyError("32 wait", 7.0),
        reply,
        UnavailableError("gone"),
    ]
    numbers = []

    class Streams:
        def append_cues(self, stream_id, number, cues, metadata):
            numbers.append(number)
            outcome = outcomes.pop(0)
            if isinstance(outcome, UnavailableError):
                raise outcome
            return outcome

    told = []
    client = type("Client", (), {"streams": Streams()})()
    stream = {"id": "77aa", "next_number": 4}
    sender = Sender(client, stream, lambda progress: told.append(progress.is_waiting))
    batch = Batch([{"start_ms": 5, "text": "Aye."}], 1)

    sender.send_cues(batch)

    assert (numbers, pauses, told) == (
        [4, 4, 4],
        [api.stream_sending.PAUSE_SECONDS, 7.0],
        [True, True, False],
    )
    assert (sender.jobs, sender.progress.segments, sender.progress.reached_ms) == (["91fe"], 1, 5)
    monkeypatch.setattr(api.stream_sending, "UNREACHABLE_SECONDS", 0.0)
    with pytest.raises(UnavailableError, match="gone"):
        sender.send_cues(batch)


def test_control_c_closes_nothing_and_says_how_to_go_on(client, tmp_path):
    body = make_camera("mkv")
    growing = tmp_path / "quay.mkv"
    growing.write_bytes(body[: len(body) * 3 // 4])
    command = [sys.executable, "-c", "from api.cli import main; main()", "stream", str(growing)]

    def heed_control_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [*command, "--follow", "--idle", "60", "--seconds", "2"],
        cwd=ROOT,
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_control_c,
    ) as process:
        wait_for(lambda: any(one["segments"] for one in client.streams.list_streams()))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)

    assert process.returncode == 130, told
    assert "run the same command again to go on" in told and "Traceback" not in told
    (stream,) = client.streams.list_streams()
    assert stream["closed_at"] is None
    growing.write_bytes(body)
    result = CliRunner().invoke(app, ["stream", str(growing), "--seconds", "2"])
    assert result.exit_code == 0, result.output
    assert words_of(client, stream["id"]) == ALL


def test_what_cannot_be_streamed_is_refused_in_words(lethe_cli, tmp_path):
    (tmp_path / "empty.log").write_text("\n")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\nwords\n")
    (tmp_path / "a.bin").write_bytes(b"\x7fELF" + bytes(5_000))
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(5_000))

    assert "nothing in it" in lethe_cli("stream", str(tmp_path / "empty.log"), code=1).stderr
    assert "lethe ingest" in lethe_cli("stream", str(tmp_path / "a.pdf"), code=1).stderr
    assert "neither a recording nor text" in lethe_cli("stream", str(tmp_path / "a.bin"), code=1).stderr
    assert "damaged" in lethe_cli("stream", str(tmp_path / "a.mkv"), code=1).stderr
    piped = lethe_cli("stream", "-", code=1, input=make_media("mov", seconds=10)).stderr
    assert "index is at its end" in piped
    assert "--start" in lethe_cli("stream", "-", "--start", "soon", code=1, input="Aye.\n").stderr
    assert "No such file" in lethe_cli("stream", str(tmp_path / "gone"), code=1).stderr


def test_streams_are_listed_closed_and_forgotten(lethe_cli, client):
    assert "There are no streams" in lethe_cli("streams").stdout
    stream_id = client.streams.open("text", title="Bridge \x1b[31m")["id"]
    for number, text in enumerate(("The anchor is up.", "Adeyemi is ill.")):
        cues = [{"start_ms": 60_000 * number, "text": text}]
        client.streams.append_cues(stream_id, number, cues, wait=5)

    listed = lethe_cli("streams").stdout
    closed = lethe_cli("streams", "close", stream_id).stdout
    done = lethe_cli("streams", "forget", stream_id, "--from", "1:00", "--to", "90s", "--yes").stdout
    rest = words_of(client, stream_id)
    lethe_cli("streams", "forget", stream_id, "--yes")

    assert stream_id in listed and "open" in listed and "01:00" in listed and "\x1b" not in listed
    assert "closed: 2 segments, up to 01:00" in closed
    assert "certified" in done and rest == "The anchor is up."
    assert client.streams.list_streams() == []
    assert "expected a time" in lethe_cli("streams", "forget", stream_id, "--from", "soon", code=1).stderr


def test_a_feed_gives_what_was_looked_at_and_tells_when_it_is_quiet(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3")
    with path.open("rb", buffering=0) as file, path.open("ab") as more:
        feed = Feed(file, idle_seconds=0.6)
        assert feed.peek().startswith(b"\xef\xbb\xbfone")
        lines = feed.iter_lines(quiet_seconds=0.2)
        assert (next(lines), next(lines)) == ("one", None)
        more.write(b"\xa9\nthree")
        more.flush()
        assert next(lines) == "two é"
        assert [*lines] == [None, "three"]
    assert [*Feed(io.BytesIO(b"")).iter_lines(1)] == []


def test_segments_follow_each_other_in_the_service(lethe_cli, client, tmp_path):
    (tmp_path / "quay.mkv").write_bytes(make_camera())
    lethe_cli("stream", str(tmp_path / "quay.mkv"), "--seconds", "2")
    (stream,) = client.streams.list_streams()
    found = client.streams.list_passages(stream["id"])
    assert all(one["end_ms"] <= other["start_ms"] for one, other in pairwise(found))
