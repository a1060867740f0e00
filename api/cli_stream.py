"""``lethe stream``: feed a recording, a log or captions while they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, cast

import typer
from rich.text import Text

from api.feed import Feed
from api.terminal import SERVICE_URL, Data, Key, Url, clock_time, connect, errors, output, plain
from memory.errors import ConflictError, InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from api.client import AttributeFields, LetheClient
    from api.stream_replies import StreamReply
    from api.stream_sending import Progress, Sender
    from api.stream_text import Form

INTERRUPTED = 130
WAIT_SECONDS = 3600
PIPE = "-"

Kind = Literal["video", "audio", "text"]


class _Asked:
    """What a run was asked for, and where it reads from."""

    def __init__(self, name: str, file: BinaryIO, *, follow: bool, idle: float, kind: str | None) -> None:
        self.name = name
        self.is_pipe = name == PIPE or not file.seekable()
        self.is_live = follow or self.is_pipe
        self.feed = Feed(file, idle if follow else 0)
        self.head = self.feed.peek()
        self.media_type = _media_type(name, self.head)
        if not self.head.strip():
            raise InvalidInputError("there is nothing in it", where=name)
        self.is_text = kind == "text" or (kind is None and self.media_type is None)
        self.kind = kind
        self._file = file

    def recording(self) -> BinaryIO:
        """Return the file to cut: as it is where it is complete, so that an index at its end is found."""
        if self.is_live:
            return cast(BinaryIO, self.feed)
        self._file.seek(0)
        return self._file


def stream(
    file: Annotated[str, typer.Argument(help="a recording, a log, JSON lines or captions; - reads a pipe")],
    title: Annotated[str | None, typer.Option(help="what it is called; else the file's name")] = None,
    external_id: Annotated[
        str | None, typer.Option(help="your own id of it; else the file's name. An open one is gone on with")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="video, audio or text; else guessed")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="the file grows: wait for more")] = False,
    idle: Annotated[
        float, typer.Option(min=0.1, help="with --follow: seconds without anything new that end it")
    ] = 10.0,
    start: Annotated[
        str | None, typer.Option(help="when it begins: 2026-03-01T09:30:00Z, or 09:30 for today")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=600, help="least length of a recording's segments")
    ] = 10.0,
    keep_open: Annotated[
        bool,
        typer.Option("--keep-open", help="do not close it at the end: more of this log or pipe is to come"),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait until all of it is searchable")] = False,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Feed a stream: what has arrived can be asked about while the rest is still to come.

    A recording is cut into segments where nobody speaks.
    Lines of a log or of JSON ({"text", "time", "speaker"}) and captions become cues.

    A run that was broken off is gone on with: run it again.
    """
    if kind not in (None, "video", "audio", "text"):
        raise InvalidInputError("expected video, audio or text", where="--kind")
    begins = None if start is None else _read_time(start)
    said = cast("AttributeFields", {})
    name = external_id or (None if file == PIPE else Path(file).name)
    if name is not None:
        said["external_id"] = name
    if title is not None or name is not None:
        from api.stream_sending import default_title

        said["title"] = title or default_title(name or "")
    with _opened(file) as opened, connect(url, key, data) as client, _Telling() as tell:
        asked = _Asked(file, opened, follow=follow, idle=idle, kind=kind)
        if keep_open and not (asked.is_text or asked.is_pipe):
            raise InvalidInputError("--keep-open is for text and pipes; a recording ends with its file")
        try:
            if asked.is_text:
                sender = _send_text(client, asked, said, begins, tell)
            else:
                sender = _send_recording(client, asked, said, begins, seconds, tell)
        except KeyboardInterrupt:
            errors().print(f"stopped; {_how_to_go_on(name)}", soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        except UnavailableError:
            errors().print(f"broken off; {_how_to_go_on(name)}", soft_wrap=True)
            raise
        if not keep_open:
            client.streams.close(sender.stream_id)
        tell.finish(sender)
        if wait:
            _wait(sender)


def _send_recording(
    client: LetheClient,
    asked: _Asked,
    said: AttributeFields,
    begins: datetime | None,
    seconds: float,
    tell: _Telling,
) -> Sender:
    from api.stream_sending import Sender
    from sources.segmenting import iter_segments

    sender: Sender | None = None
    skipped, later_ms = 0, 0
    longest = max(30.0, 3 * seconds)
    try:
        for segment in iter_segments(asked.recording(), seconds=seconds, longest=longest, told=tell.warn):
            if sender is None:
                kind = cast(Kind, asked.kind or segment.media_type.split("/")[0])
                view = _open(client, kind, said, begins)
                sender = Sender(client, view, tell.tell)
                if view["next_number"] and asked.is_pipe:
                    later_ms = _now_ms(view)
                elif view["next_number"]:
                    skipped = view["next_number"]
                    tell.warn(f"going on with segment {skipped} of a stream that is open")
            if segment.number >= skipped:
                sender.send_recording(segment, later_ms)
    except InvalidInputError as error:
        if asked.is_live and asked.head[4:8] == b"ftyp" and sender is None:
            raise InvalidInputError(
                "an MP4 whose index is at its end cannot be read from a pipe or while it grows; "
                "name the complete file, or record it in fragments, as MPEG-TS or MKV"
            ) from error
        raise
    assert sender is not None
    return sender


def _send_text(
    client: LetheClient,
    asked: _Asked,
    said: AttributeFields,
    begins: datetime | None,
    tell: _Telling,
) -> Sender:
    from api.stream_sending import Sender, find_sent_lines
    from api.stream_text import QUIET_SECONDS, LineReader, find_moment, guess_form, iter_batches

    if asked.media_type is not None:
        raise InvalidInputError("this is no text", where=asked.name)
    form: Form = guess_form(asked.head)
    lines = asked.feed.iter_lines(QUIET_SECONDS)
    first = next((line for line in lines if line is not None), "")
    begins = begins or find_moment(first, form)
    if begins is None and asked.is_live and form != "captions":
        begins = datetime.now(UTC)
    view = _open(client, "text", said, begins)
    begun = None if view["occurred_at"] is None else datetime.fromisoformat(view["occurred_at"])
    reader = LineReader(form, begun, _arrivals(view) if asked.is_live else None, tell.warn)
    sender = Sender(client, view, tell.tell)
    rest: Iterator[str | None] = chain((first,), lines)
    if view["next_number"] and not asked.is_pipe:
        sent = find_sent_lines(client, view, WAIT_SECONDS)
        tell.warn(f"going on behind line {sent} with a stream that is open")
        reader.skip(sent)
        rest = _behind(rest, sent)
    for batch in iter_batches(rest, reader):
        sender.send_cues(batch)
    return sender


def _behind(lines: Iterator[str | None], count: int) -> Iterator[str | None]:
    for line in lines:
        if line is not None and count > 0:
            count -= 1
        elif count <= 0:
            yield line


def _open(client: LetheClient, kind: Kind, said: AttributeFields, begins: datetime | None) -> StreamReply:
    fields = said.copy()
    if begins is not None:
        fields["occurred_at"] = begins
    try:
        return client.streams.open(kind, **fields)
    except ConflictError as error:
        name = said.get("external_id")
        raise ConflictError(f"{error} ({name}); --external-id gives it another name") from error


def _now_ms(view: StreamReply) -> int:
    """Return what time it is on a live stream: after all that it has."""
    if view["next_number"] == 0:
        return 0
    begun = datetime.fromisoformat(view["occurred_at"] or view["created_at"])
    return max(view["end_ms"], int((datetime.now(UTC) - begun).total_seconds() * 1000))


def _arrivals(view: StreamReply) -> Callable[[], int]:
    """Return a clock that tells the time of a live stream."""
    now_ms, began = _now_ms(view), time.monotonic()
    return lambda: now_ms + int((time.monotonic() - began) * 1000)


def _wait(sender: Sender) -> None:
    from api.stream_sending import describe

    with errors().status("waiting until it is searchable"):
        failures = sender.wait_searchable(WAIT_SECONDS)
    if not failures:
        output().print("all of it is searchable")
        return
    for reason, count in describe(failures).items():
        errors().print(Text(plain(f"{count} segments could not be read: {reason}"), style="red"))
    raise typer.Exit(1)


class _Telling:
    """Shows how far a run has come, and says what there is to say."""

    def __init__(self) -> None:
        self._console = errors()
        self._status = self._console.status("opening")
        self._begun = time.monotonic()

    def __enter__(self) -> _Telling:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def tell(self, progress: Progress) -> None:
        """Show the progress on the line that is written over."""
        waiting = ", waiting for the service to read" if progress.is_waiting else ""
        self._status.update(f"{self._words(progress)}{waiting}")

    def warn(self, what: str) -> None:
        """Say something on a line of its own."""
        self._console.print(Text(plain(what), style="yellow"), soft_wrap=True)

    def finish(self, sender: Sender) -> None:
        """Say what was sent."""
        self._status.stop()
        output().print(Text(plain(f"stream {sender.stream_id}: {self._words(sender.progress)}")))

    def _words(self, progress: Progress) -> str:
        seconds = time.monotonic() - self._begun
        length_ms = progress.reached_ms - (progress.begun_ms or 0)
        speed = length_ms / 1000 / max(seconds, 0.001)
        return f"{progress.segments} segments sent, up to {clock_time(progress.reached_ms)}, {speed:.1f}x"


def _how_to_go_on(name: str | None) -> str:
    if name is None:
        return "what was sent stays; a pipe is gone on with where it has an --external-id"
    return "the stream is open still; run the same command again to go on"


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == PIPE:
        piped = sys.stdin.buffer
        yield cast(BinaryIO, getattr(piped, "raw", piped))
        return
    with Path(name).open("rb", buffering=0) as file:
        yield cast(BinaryIO, file)


def _media_type(name: str, head: bytes) -> str | None:
    """Return the media type of a recording, ``None`` for text; raises for what is neither."""
    from sources.media_types import MEDIA, guess_media_type

    guessed = guess_media_type(None if name == PIPE else name, head)
    if guessed in MEDIA:
        return guessed
    if b"\0" in head or guessed.startswith("application/pdf"):
        raise InvalidInputError(
            f"this is neither a recording nor text ({guessed}); lethe ingest remembers documents", where=name
        )
    return None


def _read_time(text: str) -> datetime:
    """Return a time of day; without a zone it is this machine's."""
    try:
        if "T" not in text and " " not in text and ":" in text:
            text = f"{datetime.now().astimezone():%Y-%m-%d}T{text}"
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise InvalidInputError(
            "expected a time such as 2026-03-01T09:30:00Z, or 09:30 for today", where="--start"
        ) from error
