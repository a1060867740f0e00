"""The process that parses: ``python -m sources.guarded MEMORY_BYTES``, its standard input a socket.

It reads contents from the socket one after another and answers with what the parser made of each. The
service is trusted, so a request is a pickle; the answer is JSON, for who has read a hostile file is not, and
sound is its bare samples, in a message of their own.
It imports parsers and the kernel's values, and nothing that computes with them.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
from pathlib import Path

from memory.errors import InvalidInputError, UnsupportedMediaError
from memory.parsed import dump_parsed
from memory.values import Parsed
from sources.confinement import confine, limit_processor_time
from sources.decoding import valid_text
from sources.frames import MAX_FRAME_BYTES, Frame, receive, send
from sources.media import Audio
from sources.parse import SourceParser

READY, CONTENT, MEDIA = b"r", b"c", b"v"
PARSED, INVALID, UNSUPPORTED, OUT_OF_MEMORY, FAILED = b"p", b"i", b"u", b"m", b"f"
AUDIO, SAMPLES = b"a", b"s"
"""The first tells of the sound that follows in the second."""

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
        for answer in _read(parser, request):
            send(connection, answer)


def _read(parser: SourceParser, request: Frame) -> tuple[Frame, ...]:
    try:
        content = pickle.loads(request.payload)
        if request.kind == MEDIA:
            media = parser.parse_media(content)
            return _audio(media) if isinstance(media, Audio) else (_parsed(media),)
        return (_parsed(parser.parse(content)),)
    except UnsupportedMediaError as error:
        told = {"media_type": error.media_type, "supported": error.supported}
        return (Frame(UNSUPPORTED, json.dumps(told).encode()),)
    except InvalidInputError as error:
        where = None if error.where is None else valid_text(error.where)
        return (Frame(INVALID, json.dumps({"what": valid_text(error.what), "where": where}).encode()),)
    except MemoryError:
        return (Frame(OUT_OF_MEMORY),)
    except Exception as error:  # noqa: BLE001
        # The edge of this process: one file that a parser did not foresee must not end it.
        return (Frame(FAILED, json.dumps({"what": _place(error)}).encode()),)


def _parsed(parsed: Parsed) -> Frame:
    if len(parsed.text) > MAX_CHARACTERS or len(parsed.passages) > MAX_PASSAGES:
        raise InvalidInputError(
            f"it holds {len(parsed.text)} characters in {len(parsed.passages)} passages, more than "
            f"{MAX_CHARACTERS} or {MAX_PASSAGES}; send it in parts"
        )
    payload = dump_parsed(parsed)
    if len(payload) > MAX_FRAME_BYTES:
        raise InvalidInputError("it holds too much text; send it in parts")
    return Frame(PARSED, payload)


def _audio(audio: Audio) -> tuple[Frame, Frame]:
    told = {"title": audio.title, "warnings": audio.warnings}
    return Frame(AUDIO, json.dumps(told).encode()), Frame(SAMPLES, audio.samples)


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
