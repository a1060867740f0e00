"""Video and audio files made on the spot: a tone, pictures at uneven times, subtitle tracks."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000
TONE_HZ = 440
CODECS = {
    "mp4": ("mp4", "aac"),
    "m4a": ("ipod", "aac"),
    "mov": ("mov", "pcm_s16be"),
    "mkv": ("matroska", "ac3"),
    "webm": ("webm", "libopus"),
    "ts": ("mpegts", "mp2"),
    "mp3": ("mp3", "libmp3lame"),
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "libopus"),
}
"""Extensions, each with FFmpeg's name of the container and a codec that is common in it."""
CUES = [
    (500, 1500, "The ferry leaves at nine."),
    (2000, 3250, "It returns at <i>noon</i>,"),
    (3300, 4000, "if the wind allows."),
]
UNEVEN = (0, 40, 200, 240, 700, 1100, 1500)
"""When pictures of a variable rate are shown, in milliseconds."""

Cues = Sequence[tuple[int, int, str]]


def make_media(
    kind: str,
    *,
    seconds: float = 1.0,
    silent: Sequence[tuple[float, float]] = (),
    pictures: Sequence[int] = (),
    subtitles: Sequence[tuple[str, str, Cues]] = (),
    sound: bool = True,
    title: str | None = None,
    index_first: Path | None = None,
) -> bytes:
    """Return a file. ``subtitles`` are tracks: codec, language, cues; ``silent`` has spans without packets.

    ``index_first`` is where an MP4 may lie while its index is moved to the front.
    """
    container, codec = CODECS[kind]
    out = io.BytesIO() if index_first is None else str(index_first)
    options = {} if index_first is None else {"movflags": "faststart"}
    with av.open(out, "w", format=container, options=options) as writer:
        if title is not None:
            writer.metadata["title"] = title
        video = writer.add_stream("mpeg4", rate=25) if pictures else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
        audio = writer.add_stream(codec, rate=RATE, layout="mono") if sound else None
        tracks = []
        for name, language, _ in subtitles:
            track = writer.add_mux_stream(name)
            track.time_base = Fraction(1, 1000)
            track.metadata["language"] = language
            tracks.append(track)
        packets = []
        for shown in pictures if video is not None else ():
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shown % 256, np.uint8))
            frame.pts, frame.time_base = shown, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode() if video is not None else []
        if audio is not None:
            packets += encode_tone(audio, seconds, silent)
        for number, (track, (name, _, cues)) in enumerate(zip(tracks, subtitles, strict=True)):
            packets += [make_cue(track, name, number, *cue) for cue in cues]
        packets = [packet for packet in packets if packet.dts is not None]
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            writer.mux(packet)
    return out.getvalue() if isinstance(out, io.BytesIO) else Path(out).read_bytes()


def encode_tone(
    stream: av.AudioStream, seconds: float, silent: Sequence[tuple[float, float]]
) -> list[av.Packet]:
    times = np.arange(int(seconds * RATE)) / RATE
    wave = (np.sin(2 * np.pi * TONE_HZ * times) * 8000).astype(np.int16)
    packets = []
    for start in range(0, len(wave), 960):
        if any(begin <= start / RATE < end for begin, end in silent):
            continue
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + stream.encode()


def make_cue(track: av.stream.Stream, codec: str, number: int, start: int, end: int, text: str) -> av.Packet:
    told = text.encode()
    if codec == "mov_text":
        told = len(told).to_bytes(2, "big") + told
    elif codec == "ass":
        told = f"{number},0,Default,,0,0,0,,{text}".encode()
    packet = av.Packet(told)
    packet.stream, packet.time_base = track, Fraction(1, 1000)
    packet.pts = packet.dts = start
    packet.duration = end - start
    return packet


def samples_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(np.float64)


def pitch(samples: np.ndarray, rate: int = 16_000) -> float:
    """Return the strongest frequency in Hz."""
    strength = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(strength) * rate / len(samples))
