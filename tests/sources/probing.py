"""A process that parses, with a format more: ``application/x-probe`` does what hostile content would have done.

Run as ``python -m tests.sources.probing MEMORY_BYTES`` in the place of ``sources.guarded``.
"""

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sources.guarded as guarded
from memory.errors import InvalidInputError
from memory.values import Content
from sources import parse
from sources.outline import Block, Extracted, Heading, Turn
from sources.parse import SourceParser
from sources.questions import Answer, tell

LIBC = ctypes.CDLL(None, use_errno=True)
MAX_CHARACTERS = 100_000
KEPT: list[bytearray] = []
ECHO = b"?"
"""A question whose answer is of the kind, and tells, what it was asked to; its bytes are the content's, twice."""


def spin(_: Any) -> str:
    while True:
        pass


def backtrack(_: Any) -> str:
    """Hold the interpreter's lock for ever, as a careless pattern does."""
    return str(re.fullmatch("(a|aa)+b", "a" * 200))


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def allocate(mebibytes: int) -> str:
    return str(len(bytearray(b"x" * (mebibytes * 1024 * 1024))))


def keep(mebibytes: int) -> str:
    KEPT.append(bytearray(b"x" * (mebibytes * 1024 * 1024)))
    return "kept"


def crash(_: Any) -> str:
    return ctypes.string_at(0).decode()


def leave(status: int) -> str:
    os._exit(status)


def recurse(_: Any) -> str:
    return recurse(_)


def fail(secret: str) -> str:
    raise KeyError(secret)


def write_much(size: int) -> str:
    return "long " * (size // 5)


def lie(answer: str) -> str:
    guarded.dump_parsed = lambda _: answer.encode()  # type: ignore[assignment]
    return "a lie"


def report_modules(_: Any) -> str:
    return " ".join(sorted({name.partition(".")[0] for name in sys.modules}))


def report_environment(_: Any) -> str:
    return json.dumps(dict(os.environ))


def connect_by_native_code(port: int) -> str:
    """Open a connection without Python's knowledge: only the kernel can refuse."""
    descriptor = LIBC.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    address = (2).to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    outcome = LIBC.connect(descriptor, address, len(address))
    return "connected" if outcome == 0 else os.strerror(ctypes.get_errno())


def attempt(path: str) -> str:
    """Try everything that no parser needs; say what each came to."""
    attempts: dict[str, Callable[[], object]] = {
        "socket": lambda: socket.socket(),
        "resolve": lambda: socket.getaddrinfo("localhost", 80),
        "run": lambda: subprocess.run(["/bin/true"], check=False),
        "system": lambda: os.system("true"),
        "fork": os.fork,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "kill": lambda: os.kill(os.getppid(), 0),
        "write": lambda: Path(path).write_text("x"),
        "append": lambda: os.open(path, os.O_WRONLY | os.O_APPEND),
        "create": lambda: os.open(path, os.O_CREAT | os.O_RDWR),
        "remove": lambda: Path(path).unlink(),
        "rename": lambda: Path(path).rename(path + "2"),
        "load": lambda: ctypes.CDLL("libm.so.6"),
    }
    told = {}
    for name, do in attempts.items():
        try:
            told[name] = f"done: {do()}"
        except Exception as error:  # noqa: BLE001
            told[name] = type(error).__name__
    return json.dumps(told)


DEEDS: dict[str, Callable[[Any], str]] = {
    deed.__name__: deed
    for deed in (
        spin,
        backtrack,
        sleep,
        allocate,
        keep,
        crash,
        leave,
        recurse,
        fail,
        write_much,
        lie,
        report_modules,
        report_environment,
        connect_by_native_code,
        attempt,
    )
}


def extract_probe(body: bytes, _: str | None) -> Extracted:
    name, argument = json.loads(body)
    if name == "refuse":
        raise InvalidInputError(argument, where="a place")
    if name == "surrogates":
        turn = Turn("\ud800", "\udc00")
        return Extracted(
            "a\ud800b\x00c", (Block(0, 5, turn=turn),), (Heading(0, 1, "\udfff"),), "\x00t", ("\ud801",)
        )
    text = DEEDS[name](argument)
    return Extracted(text, (Block(0, len(text)),))


def echo(_: SourceParser, content: Content, *, kind: str, told: Any) -> Answer:
    return tell(kind.encode(), told, content.body * 2)


if __name__ == "__main__":
    parse._FORMATS["application/x-probe"] = extract_probe
    guarded.ANSWERERS[ECHO] = echo
    guarded.MAX_CHARACTERS = MAX_CHARACTERS
    guarded.main()
