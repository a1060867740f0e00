"""Segments of one stream are sent in turn, as fast as the service reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from api.client_bodies import Upload
from api.client_errors import BusyError
from memory.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from api.client import LetheClient
    from api.replies import JobReply
    from api.stream_replies import SegmentReply, StreamReply
    from api.stream_text import Batch
    from sources.segmenting import Segment

LINES_KEY = "lethe_lines"
"""Metadata of a segment of text: how many lines of its file were read when it was complete."""
PAUSE_SECONDS = 1.0
BUSY_SECONDS = 3600.0
UNREACHABLE_SECONDS = 300.0
"""A service that takes no segment for so long, or cannot be reached, is not waited for any longer."""


@dataclass(slots=True)
class Progress:
    """How far the sending has come."""

    segments: int = 0
    reached_ms: int = 0
    begun_ms: int | None = None
    is_waiting: bool = False


Tell = Callable[[Progress], None]


class Sender:
    """Sends what comes next of a stream that is open; ``jobs`` are those that make it searchable."""

    def __init__(self, client: LetheClient, stream: StreamReply, tell: Tell) -> None:
        self.stream_id = stream["id"]
        self.progress = Progress()
        self.jobs: list[str] = []
        self._client = client
        self._number = stream["next_number"]
        self._tell = tell

    def send_cues(self, batch: Batch) -> None:
        """Send cues as the next segment."""
        times = [cue["start_ms"] for cue in batch.cues], [cue.get("end_ms", 0) for cue in batch.cues]
        self._send(
            lambda: self._client.streams.append_cues(
                self.stream_id, self._number, batch.cues, metadata={LINES_KEY: batch.lines}
            ),
            min(times[0]),
            max(*times[0], *times[1]),
        )

    def send_recording(self, segment: Segment, later_ms: int) -> None:
        """Send a recording as the next segment; its own time is so much earlier than the stream's."""
        extension = ".mp4" if segment.media_type.endswith("mp4") else ".mkv"
        file = Upload(f"{self._number}{extension}", segment.body)
        start_ms, end_ms = segment.start_ms + later_ms, segment.end_ms + later_ms
        self._send(
            lambda: self._client.streams.append_file(
                self.stream_id,
                self._number,
                file,
                start_ms=start_ms,
                end_ms=end_ms,
                media_type=segment.media_type,
            ),
            start_ms,
            end_ms,
        )

    def wait_searchable(self, timeout_seconds: float) -> list[str]:
        """Wait until all that was sent is searchable; return what went wrong, in words."""
        failures: list[str] = []
        for job_id in self.jobs:
            job = self._client.wait_job(job_id, timeout_seconds=timeout_seconds)
            if job["status"] != "done":
                failures.append(_reason(job))
        return failures

    def _send(self, append: Callable[[], SegmentReply], start_ms: int, end_ms: int) -> None:
        begun = time.monotonic()
        while True:
            try:
                reply = append()
                break
            except UnavailableError as error:
                longest, pause = UNREACHABLE_SECONDS, PAUSE_SECONDS
                if isinstance(error, BusyError):
                    longest, pause = BUSY_SECONDS, error.retry_after_seconds or PAUSE_SECONDS
                if time.monotonic() - begun >= longest:
                    raise
                self.progress.is_waiting = True
                self._tell(self.progress)
                time.sleep(pause)
        if reply["job"] is not None:
            self.jobs.append(reply["job"]["id"])
        self._number += 1
        progress = self.progress
        progress.is_waiting = False
        progress.segments += 1
        progress.reached_ms = max(progress.reached_ms, end_ms)
        if progress.begun_ms is None:
            progress.begun_ms = start_ms
        self._tell(progress)


def find_sent_lines(client: LetheClient, stream: StreamReply, timeout_seconds: float) -> int:
    """Return how many lines of its file were sent to a stream of text that is gone on with.

    Raises ``InvalidInputError`` when its last segment, which knows, is there no more.
    """
    if stream["next_number"] == 0:
        return 0
    late = time.monotonic() + timeout_seconds
    while (stream := client.streams.get(stream["id"]))["waiting"] and time.monotonic() < late:
        time.sleep(0.1)
    last = stream["next_number"] - 1
    for start_ms in (max(0, stream["end_ms"] - 1), 0):
        found = client.streams.list_passages(stream["id"], start_ms=start_ms, limit=200)
        source_id = next((one["source_id"] for one in found if one["number"] == last), None)
        if source_id is not None:
            lines = client.get_document(source_id)["metadata"].get(LINES_KEY)
            if isinstance(lines, int):
                return lines
    raise InvalidInputError(
        "its last segment, which knows how far its lines were sent, is not there; "
        "send the rest as a file of its own, with another --external-id"
    )


def describe(problems: Sequence[str]) -> dict[str, int]:
    """Return each reason with how often it was given."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem] = counts.get(problem, 0) + 1
    return counts


def default_title(name: str) -> str:
    """Return what a stream is called after the name of its file."""
    return PurePath(name).stem or name


def _reason(job: JobReply) -> str:
    problem: dict[str, Any] = dict(job.get("error", {}))
    return str(problem.get("detail") or problem.get("title") or f"its job is {job['status']}")
