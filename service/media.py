"""Video and audio files as documents: what their captions say, else what a speech model hears in them.

The guarded parser opens the file and brings captions or sound; only samples come near the model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from memory.errors import NothingToReadError
from memory.ports import Speech
from memory.telling import Told, unheard
from memory.values import Content, Parsed
from sources.captions import Cue
from sources.media import Audio
from sources.parse import is_media, parse_cues


class MediaSource(Protocol):
    """A parser that can bring a media file's sound, as ``GuardedParser`` does."""

    def parse(self, content: Content, told: Told = unheard) -> Parsed: ...

    def parse_media(self, content: Content) -> Parsed | Audio:
        """Return what captions say, or the sound where there are none."""

    def close(self) -> None: ...


class MediaParser:
    """Does what ``parser`` does, and has ``speech`` hear media files without captions."""

    def __init__(self, parser: MediaSource, speech: Speech) -> None:
        self.parser = parser
        self.speech = speech

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        """Return the parsed content; of heard speech every passage has its place in time.

        Raises what ``parser`` does, ``NothingToReadError`` for a file in which nobody is heard to
        speak, and ``UnavailableError`` while the model cannot be had.
        """
        if not is_media(content.media_type):
            return self.parser.parse(content)
        media = self.parser.parse_media(content)
        if isinstance(media, Parsed):
            return media
        transcript = self.speech.transcribe(np.frombuffer(media.samples, "<i2"), told=told)
        if not transcript.utterances:
            seconds = media.duration_ms // 1000
            raise NothingToReadError(
                f"in its {seconds} s nobody is heard to speak, and it has no captions; there is no text in it"
            )
        cues = [Cue(said.start_ms, said.end_ms, said.text) for said in transcript.utterances]
        heard = f"its words were heard by {self.speech.name}, which may mishear"
        warnings = (*media.warnings, heard, *transcript.warnings)
        return parse_cues(content, cues, warnings, title=media.title)

    def close(self) -> None:
        """End what is under way; nothing is parsed afterwards."""
        self.speech.close()
        self.parser.close()
