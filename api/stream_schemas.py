"""What is taken of streams: the shapes of the requests that open them and bring their segments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import orjson
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from api.schemas import AttributesRequest, Metadata, Milliseconds, Name, StrictModel, Text, whole
from memory.values import CUES_MEDIA_TYPE, Attributes, Content, Part, SourceId

MAX_CUES = 10_000


class StreamRequest(AttributesRequest):
    """A stream to be opened; `occurred_at` is the time of day at which its own time begins."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "video",
                    "title": "Quay camera 2",
                    "external_id": "quay-2/2026-03-01",
                    "subjects": ["adeyemi"],
                    "metadata": {"quay": 2},
                    "occurred_at": "2026-03-01T09:30:00Z",
                }
            ]
        }
    )

    kind: Literal["video", "audio", "text"]


class CueRequest(StrictModel):
    """What is said or shown in a stretch of a stream's time; without an end it is told at one moment."""

    start_ms: Milliseconds
    end_ms: Milliseconds | None = None
    text: Text
    speaker: Name | None = None

    @model_validator(mode="after")
    def _forward(self) -> CueRequest:
        if self.end_ms is not None and self.end_ms < self.start_ms:
            raise ValueError("'end_ms' is before 'start_ms'")
        return self

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as a body of cues has it."""
        end_ms = self.start_ms if self.end_ms is None else self.end_ms
        return {"start_ms": self.start_ms, "end_ms": end_ms, "text": self.text, "speaker": self.speaker}


class PartRequest(StrictModel):
    """What is said of one segment beside its content, in addition to what was said of the stream."""

    number: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(whole)]
    subjects: Annotated[tuple[Name, ...], Field(max_length=200, strict=False)] = ()
    metadata: Metadata = Field(default_factory=dict)

    def attributes(
        self, stream_id: SourceId, start_ms: int, end_ms: int, speakers: Collection[str] = ()
    ) -> Attributes:
        """Return the attributes as the kernel knows them."""
        part = Part(stream_id, self.number, start_ms, end_ms, tuple(sorted(speakers)))
        return Attributes(subjects=self.subjects, metadata=self.metadata, part=part)


class RecordedPart(PartRequest):
    """The fields beside the file of a recorded segment: its number, and when it is seen or heard."""

    start_ms: Milliseconds
    end_ms: Milliseconds


class SegmentRequest(PartRequest):
    """A segment of a transcript: its number and its cues, whose times are the stream's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": 0,
                    "cues": [
                        {"start_ms": 0, "end_ms": 2400, "text": "The ferry is late.", "speaker": "Bridge"}
                    ],
                }
            ]
        }
    )

    cues: Annotated[list[CueRequest], Field(min_length=1, max_length=MAX_CUES)]

    def content(self, stream_id: SourceId) -> Content:
        """Return what is to be remembered."""
        cues = [cue.to_json() for cue in self.cues]
        start_ms = min(cue.start_ms for cue in self.cues)
        end_ms = max(cue.end_ms or cue.start_ms for cue in self.cues)
        speakers = {cue.speaker for cue in self.cues if cue.speaker is not None}
        attributes = self.attributes(stream_id, start_ms, end_ms, speakers)
        return Content("segment", CUES_MEDIA_TYPE, orjson.dumps(cues), attributes)
