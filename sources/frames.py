"""Messages between the service and a process that parses: a kind, a number, a length, the bytes.

Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

MAX_FRAME_BYTES = 512 * 1024 * 1024
"""A longer message is no message; what the service may send or extract is far below it."""

_HEAD = struct.Struct(">cIQ")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. ``kind`` is one byte; ``number`` is below 2**32."""

    kind: bytes
    payload: bytes = b""
    number: int = 0


def send(connection: socket.socket, frame: Frame, *, deadline: float | None = None) -> None:
    """Write a message; raises ``TimeoutError`` past the deadline (of the monotonic clock)."""
    head = _HEAD.pack(frame.kind, frame.number, len(frame.payload))
    for part in (head, frame.payload) if len(frame.payload) > 65_536 else (head + frame.payload,):
        _limit(connection, deadline)
        connection.sendall(part)


def receive(connection: socket.socket, *, deadline: float | None = None) -> Frame:
    """Read a message; raises ``EOFError`` when the other side is gone, ``TimeoutError`` past the deadline."""
    kind, number, length = _HEAD.unpack(_read(connection, _HEAD.size, deadline))
    if length > MAX_FRAME_BYTES:
        raise EOFError("the other side no longer keeps to the protocol")
    return Frame(kind, bytes(_read(connection, length, deadline)), number)


def _read(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        _limit(connection, deadline)
        got = connection.recv_into(view)
        if not got:
            raise EOFError("the other side is gone")
        view = view[got:]
    return buffer


def _limit(connection: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is up")
        connection.settimeout(left)
