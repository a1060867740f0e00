"""The client's part for streams, reached as ``client.streams``; how requests are sent is the client's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, Unpack, cast

import orjson

from api.client_bodies import AttributeFields, Upload, json_body, plain
from api.replies import ForgetReply
from api.stream_replies import MomentReply, SegmentReply, StreamPage, StreamReply

PAGE_SIZE = 200


class CueFields(TypedDict):
    """What is said or shown in a stretch of a stream's time; without an end it is told at one moment."""

    start_ms: int
    end_ms: NotRequired[int]
    text: str
    speaker: NotRequired[str]


class SegmentFields(TypedDict, total=False):
    """What may be said about one segment, in addition to what was said of its stream."""

    subjects: Sequence[str]
    metadata: Mapping[str, Any]


class StreamsClient:
    """Opens streams, feeds them and looks into them."""

    def __init__(self, send: Callable[..., Any], iter_pages: Callable[..., Iterator[Any]]) -> None:
        self._send = send
        self._iter_pages = iter_pages

    def open(
        self, kind: Literal["video", "audio", "text"], **attributes: Unpack[AttributeFields]
    ) -> StreamReply:
        """Open a stream, or go on with the open one of the same ``external_id``: at its ``next_number``.

        ``occurred_at`` is the time of day at which the stream's own time begins. ``ConflictError`` when one
        of that name is closed, or of another kind.
        """
        body = json_body({"kind": kind, **attributes})
        return cast(StreamReply, self._send("POST", "/v1/streams", **body))

    def append_cues(
        self,
        stream_id: str,
        number: int,
        cues: Sequence[CueFields],
        *,
        wait: int | None = None,
        **said: Unpack[SegmentFields],
    ) -> SegmentReply:
        """Append what was said, in the stream's time. The same number with the same content changes nothing.

        ``BusyError`` when too many segments still wait to be read after it was tried again for a while.
        """
        body = json_body({"number": number, "cues": list(cues), **said})
        return self._append(stream_id, wait, body)

    def append_file(
        self,
        stream_id: str,
        number: int,
        file: Upload,
        *,
        start_ms: int,
        end_ms: int,
        media_type: str | None = None,
        wait: int | None = None,
        **said: Unpack[SegmentFields],
    ) -> SegmentReply:
        """Append a recording whose own clock begins at ``start_ms`` of the stream's time.

        ``sources.segmenting.iter_segments`` cuts a long one. Errors are those of ``append_cues``.
        """
        fields = {"number": str(number), "start_ms": str(start_ms), "end_ms": str(end_ms)}
        fields |= {name: orjson.dumps(plain(value)).decode() for name, value in said.items()}
        sent = (file.name, file.body, media_type or "application/octet-stream")
        return self._append(stream_id, wait, {"files": {"file": sent}, "data": fields})

    def close(self, stream_id: str) -> StreamReply:
        """Take no more segments; what was received is made searchable still."""
        return cast(StreamReply, self._send("POST", f"/v1/streams/{stream_id}/close", idempotent=True))

    def get(self, stream_id: str) -> StreamReply:
        """Return a stream and how far it has come."""
        return cast(StreamReply, self._send("GET", f"/v1/streams/{stream_id}", idempotent=True))

    def iter_streams(self, *, page_size: int = PAGE_SIZE) -> Iterator[StreamReply]:
        """Yield every stream, newest first, fetching pages as needed."""
        for page in self._iter_pages("/v1/streams", page_size):
            yield from cast(StreamPage, page)["items"]

    def list_streams(self) -> list[StreamReply]:
        """Return every stream, newest first."""
        return list(self.iter_streams())

    def list_passages(
        self, stream_id: str, *, start_ms: int = 0, end_ms: int | None = None, limit: int = 100
    ) -> list[MomentReply]:
        """Return what is said and shown in a stretch of the stream's time, in order; ``end_ms`` excluded."""
        asked = {"start_ms": str(start_ms), "limit": str(limit)}
        if end_ms is not None:
            asked["end_ms"] = str(end_ms)
        path = f"/v1/streams/{stream_id}/passages"
        return cast(list[MomentReply], self._send("GET", path, idempotent=True, params=asked))

    def forget(self, stream_id: str, *, wait: int | None = None) -> ForgetReply:
        """Forget a stream with all its segments."""
        return cast(ForgetReply, self._send("DELETE", f"/v1/streams/{stream_id}", wait=wait))

    def _append(self, stream_id: str, wait: int | None, body: Mapping[str, Any]) -> SegmentReply:
        # Sending a number again changes nothing, so that it may be sent again when the reply was lost.
        path = f"/v1/streams/{stream_id}/segments"
        return cast(SegmentReply, self._send("POST", path, wait=wait, idempotent=True, **body))
