"""The process that parses: ``python -m sources.guarded MEMORY_BYTES``, its standard input a socket.

It reads questions from the socket one after another and answers each. The service is trusted, so a question
is a pickle; the answer is JSON and bare bytes, for who has read a hostile file is not.
It imports parsers and the kernel's values, and nothing that computes with them.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from memory.errors import InvalidInputError, NothingToReadError, UnsupportedMediaError
from memory.parsed import dump_parsed
from memory.values import Content, Parsed
from sources.confinement import confine, limit_processor_time
from sources.decoding import valid_text
from sources.frames import MAX_FRAME_BYTES, Frame, receive, send
from sources.media import Audio, Span
from sources.parse import SourceParser
from sources.questions import (
    AUDIO,
    BODY,
    CLIP,
    CONTENT,
    CUT,
    FAILED,
    INVALID,
    LOOK,
    MEDIA,
    NOTHING,
    OUT_OF_MEMORY,
    PARSED,
    PICTURE,
    READY,
    UNSUPPORTED,
    Answer,
    tell,
)

MAX_CHARACTERS = 64 * 1024 * 1024
MAX_PASSAGES = 200_000


def main() -> None:
    """Confine this process, then serve until the other side closes."""
    # The service decides when this ends; a signal to its whole group must not cost a document.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    confine(int(sys.argv[1]))
    # From here on there is content, and native code might print it.
    os.dup2(quiet, 2)
    _serve(connection, SourceParser())


def _serve(connection: socket.socket, parser: SourceParser) -> None:
    send(connection, Frame(READY))
    while True:
        try:
            request = receive(connection)
        except EOFError:
            return
        limit_processor_time(request.number)
        answer = _answer(parser, request)
        send(connection, Frame(answer.kind, answer.told))
        send(connection, Frame(BODY, answer.body))


def _answer(parser: SourceParser, request: Frame) -> Answer:
    try:
        content, parameters = pickle.loads(request.payload)
        return ANSWERERS[request.kind](parser, content, **parameters)
    except UnsupportedMediaError as error:
        return tell(UNSUPPORTED, {"media_type": error.media_type, "supported": error.supported})
    except InvalidInputError as error:
        where = None if error.where is None else valid_text(error.where)
        kind = NOTHING if isinstance(error, NothingToReadError) else INVALID
        return tell(kind, {"what": valid_text(error.what), "where": where})
    except MemoryError:
        return Answer(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001
        # The edge of this process: one file that a parser did not foresee must not end it.
        return tell(FAILED, {"what": _place(error)})


def _parse(parser: SourceParser, content: Content) -> Answer:
    return _parsed(parser.parse(content))


def _parse_media(parser: SourceParser, content: Content) -> Answer:
    media = parser.parse_media(content)
    if isinstance(media, Audio):
        return tell(AUDIO, {"title": media.title, "warnings": media.warnings}, media.samples)
    return _parsed(media)


def _cut(parser: SourceParser, content: Content, *, spans: list[Span]) -> Answer:
    made = parser.cut(content, spans)
    if made is None:
        return tell(CUT, {})
    return tell(CUT, {"media_type": made.media_type, "gone": made.gone}, _sendable(made.body))


def _clip(parser: SourceParser, content: Content, *, start_ms: int, end_ms: int) -> Answer:
    made = parser.clip(content, start_ms, end_ms)
    told = {"media_type": made.media_type, "start_ms": made.start_ms, "end_ms": made.end_ms}
    return tell(CLIP, told, _sendable(made.body))


def _picture(parser: SourceParser, content: Content, *, at_ms: int, max_side: int) -> Answer:
    made = parser.picture(content, at_ms, max_side=max_side)
    told = {"at_ms": made.at_ms, "width": made.width, "height": made.height}
    return tell(PICTURE, told, _sendable(made.body))


def _look(parser: SourceParser, content: Content, *, start: int) -> Answer:
    made = parser.look(content, start)
    stills = [
        (still.width, still.height, None if still.place is None else astuple(still.place))
        for still in made.stills
    ]
    told = {"stills": stills, "rest": made.rest, "title": made.title, "warnings": made.warnings}
    return tell(LOOK, told, b"".join(still.pixels for still in made.stills))


ANSWERERS: dict[bytes, Callable[..., Answer]] = {
    CONTENT: _parse,
    MEDIA: _parse_media,
    CUT: _cut,
    CLIP: _clip,
    PICTURE: _picture,
    LOOK: _look,
}
"""By the kind of question; each takes the parser, the content, and the question's parameters by name."""


def _parsed(parsed: Parsed) -> Answer:
    if len(parsed.text) > MAX_CHARACTERS or len(parsed.passages) > MAX_PASSAGES:
        raise InvalidInputError(
            f"it holds {len(parsed.text)} characters in {len(parsed.passages)} passages, more than "
            f"{MAX_CHARACTERS} or {MAX_PASSAGES}; send it in parts"
        )
    payload = dump_parsed(parsed)
    if len(payload) > MAX_FRAME_BYTES:
        raise InvalidInputError("it holds too much text; send it in parts")
    return Answer(PARSED, payload)


def _sendable(body: bytes) -> bytes:
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidInputError("what is to be taken out of it is too large; send the file in parts")
    return body


def _place(error: Exception) -> str:
    """Say what failed and where in the code, without a word of the content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    path = Path(trace.tb_frame.f_code.co_filename)
    return f"{type(error).__name__} in {path.parent.name}/{path.name}, line {trace.tb_lineno}"


if __name__ == "__main__":
    main()
