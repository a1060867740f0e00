"""What plays of a video or audio file: its pictures and sound, each with its time."""

import io
from fractions import Fraction

import av
import numpy as np

from memory.values import Content
from sources.media import RATE, Audio
from sources.parse import SourceParser, guess_media_type
from tests.sources.moving import read_number, samples_of

GROUP = 12
GROUPS = f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes=3:b-pyramid=2"
CLOSED = {"x264-params": GROUPS}
OPEN = {"x264-params": f"{GROUPS}:open-gop=1"}
"""Key frames, and pictures between them that need later ones. In open groups those of two share some."""


def content_of(body: bytes) -> Content:
    return Content("document", guess_media_type(None, body[:4096]), body)


def shown(body: bytes) -> list[tuple[int, int]]:
    """When each painted picture is shown, in ms of the file's clock as ``Reading`` has it, and its number."""
    with av.open(io.BytesIO(body)) as container:
        own = container.format.name == "mpegts"
        origin = Fraction(container.start_time, av.time_base) if own else Fraction(0)
        return [
            (
                round((frame.pts * frame.time_base - origin) * 1000),
                read_number(frame.to_ndarray(format="rgb24")),
            )
            for frame in container.decode(video=0)
        ]


def packets(body: bytes) -> list[tuple[str, float, bytes]]:
    """Each packet's kind, second and bytes."""
    with av.open(io.BytesIO(body)) as container:
        return [
            (packet.stream.type, float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux()
            if packet.size and packet.pts is not None
        ]


def hear(body: bytes) -> np.ndarray:
    heard = SourceParser().parse_media(content_of(body))
    assert isinstance(heard, Audio)
    return samples_of(heard.samples)


def loudness(samples: np.ndarray, start_ms: int, end_ms: int) -> float:
    part = samples[start_ms * RATE // 1000 : end_ms * RATE // 1000]
    return float(np.sqrt(np.mean(part**2)))
