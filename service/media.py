"""Video and audio files as documents: what their captions say, else what a speech model hears in them; and
what is to be read in their pictures.

The guarded parser opens the file and brings captions, sound and pictures; only samples and pixels come near
the models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from embedding.shown_texts import Seen, merge_seen
from memory.errors import InvalidInputError, NothingToReadError
from memory.ports import ScreenText, Speech
from memory.telling import Told, unheard
from memory.values import Content, Parsed, TextLine
from sources.captions import Cue
from sources.joining import join
from sources.media import Audio
from sources.parse import NO_SPEECH_MODEL, is_image, is_media, parse_cues, parse_lines, parse_shown
from sources.stills import CHANNELS, Looked, Still

CAPTIONS, SPOKEN, ON_SCREEN = "Captions", "Spoken", "On screen"
"""Sections of a film of which something is read in its pictures, too."""
HEARING = 0.6
"""Of the work on a film, about; the rest is reading what is on the screen."""
LEAST_CONFIDENCE = 0.6
"""Of a line of an image, which is meant to be read; in films much looks like letters."""
MAX_SEEN = 20_000
"""Key frames of one film that are read: hours of processor time."""


class MediaSource(Protocol):
    """A parser that can bring a media file's sound and pictures, as ``GuardedParser`` does."""

    def parse(self, content: Content, told: Told = unheard) -> Parsed: ...

    def parse_media(self, content: Content) -> Parsed | Audio:
        """Return what captions say, or the sound where there are none."""

    def look(self, content: Content, start: int = 0) -> Looked:
        """Return what there is to see from a time on."""

    def close(self) -> None: ...


class MediaParser:
    """Does what ``parser`` does; ``speech`` hears media without captions, ``screen_text`` reads pictures."""

    def __init__(
        self, parser: MediaSource, speech: Speech | None, screen_text: ScreenText | None = None
    ) -> None:
        self.parser = parser
        self.speech = speech
        self.screen_text = screen_text

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        """Return the parsed content; of what is heard or seen every passage has its place in time.

        Raises what ``parser`` does, ``NothingToReadError`` for a file in which nobody is heard to
        speak and nothing is to be read, and ``UnavailableError`` while a model cannot be had.
        """
        if self.screen_text is not None and is_image(content.media_type):
            return self._read_image(content, self.screen_text)
        if not is_media(content.media_type):
            return self.parser.parse(content)
        share = 1.0 if self.screen_text is None else HEARING
        words = self._find_words(content, lambda done: told(share * done))
        shown: Parsed | InvalidInputError | None = None
        if self.screen_text is not None:
            shown = self._find_texts(content, self.screen_text, lambda: told(share))
        if isinstance(shown, InvalidInputError):
            if isinstance(words, InvalidInputError):
                raise shown
            unseen = f"its pictures could not be looked at: {shown}"
            return replace(words[1], warnings=(*words[1].warnings, unseen))
        if shown is None:
            if isinstance(words, InvalidInputError):
                raise words
            return words[1]
        if isinstance(words, InvalidInputError):
            return replace(shown, warnings=(words.what, *shown.warnings))
        return join((words, (ON_SCREEN, shown)))

    def close(self) -> None:
        """End what is under way; nothing is parsed afterwards."""
        for each in (self.speech, self.screen_text):
            if each is not None:
                each.close()
        self.parser.close()

    def _find_words(self, content: Content, told: Told) -> tuple[str, Parsed] | InvalidInputError:
        """Return captions, or what is heard, with what they are called; or why there is neither."""
        try:
            media = self.parser.parse_media(content)
        except NothingToReadError as error:
            return error
        if isinstance(media, Parsed):
            return CAPTIONS, media
        if self.speech is None:
            return NothingToReadError(NO_SPEECH_MODEL)
        transcript = self.speech.transcribe(np.frombuffer(media.samples, "<i2"), told=told)
        if not transcript.utterances:
            seconds = media.duration_ms // 1000
            return NothingToReadError(f"in its {seconds} s nobody is heard to speak, and it has no captions")
        cues = [Cue(said.start_ms, said.end_ms, said.text) for said in transcript.utterances]
        heard = f"its words were heard by {self.speech.name}, which may mishear"
        warnings = (*media.warnings, heard, *transcript.warnings)
        return SPOKEN, parse_cues(content, cues, warnings, title=media.title)

    def _read_image(self, content: Content, screen_text: ScreenText) -> Parsed:
        looked = self.parser.look(content)
        lines = [line for still in looked.stills for line in read_still(screen_text, still)]
        lines = [line for line in lines if line.confidence >= LEAST_CONFIDENCE]
        if not lines:
            raise NothingToReadError("no text is to be seen in this image")
        read = f"what it says was read by {screen_text.name}, which may misread"
        return parse_lines(content, lines, (*looked.warnings, read))

    def _find_texts(
        self, content: Content, screen_text: ScreenText, told: Callable[[], None]
    ) -> Parsed | InvalidInputError | None:
        """Return what is to be read in a file's pictures, ``None`` where nothing is.

        When they cannot be looked at, it is why; or what was read until then, with a warning. How many
        there are is not known before, so that ``told`` hears only that it goes on.
        """
        frames: list[Seen] = []
        warnings: dict[str, None] = {}
        title: str | None = None
        refused: InvalidInputError | None = None
        start: int | None = 0
        while start is not None:
            try:
                looked = self.parser.look(content, start)
            except InvalidInputError as error:
                refused = error
                warnings[f"its pictures were looked at up to second {start // 1000}: {error}"] = None
                break
            for still in looked.stills:
                told()
                if still.place is not None:
                    frames.append((still.place, read_still(screen_text, still)))
            warnings |= dict.fromkeys(looked.warnings)
            title = title or looked.title
            if len(frames) >= MAX_SEEN and looked.rest is not None:
                warnings[
                    f"its pictures were looked at up to second {looked.rest // 1000}; send it in parts"
                ] = None
                break
            start = looked.rest if looked.rest is not None and looked.rest > start else None
        shown = merge_seen(frames)
        if not shown:
            return refused
        warnings[f"what its pictures say was read by {screen_text.name}, which may misread"] = None
        return parse_shown(content, shown, tuple(warnings), title=title)


def read_still(screen_text: ScreenText, still: Still) -> tuple[TextLine, ...]:
    """Return the lines of text in a still."""
    pixels = np.frombuffer(still.pixels, np.uint8)
    return screen_text.read(pixels.reshape(still.height, still.width, CHANNELS))
