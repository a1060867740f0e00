"""Video and audio files made on the spot: a tone, pictures at uneven times, subtitle tracks."""

import io
from collections.abc import Mapping, Sequence
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


def make_film(
    kind: str,
    *,
    pictures: int = 75,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    size: tuple[int, int] = (64, 48),
    turned: tuple[int, bool, bool] | None = None,
    aspect: Fraction | None = None,
    sound: bool = True,
    captions: tuple[str, Cues] | None = None,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return a film of 25 pictures a second, none like another, with a tone; key frames as ``options`` say.

    ``turned`` is how it is to be shown: degrees, mirrored across, mirrored down. ``captions`` are of a codec.
    """
    container, audio_codec = CODECS[kind]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as writer:
        writer.metadata.update(tags or {})
        video = writer.add_stream(codec, rate=25, options={"threads": "1", **(options or {})})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        if turned is not None:
            video.set_display_rotation(turned[0], hflip=turned[1], vflip=turned[2])
        audio = writer.add_stream(audio_codec, rate=RATE, layout="mono") if sound else None
        track = writer.add_mux_stream(captions[0]) if captions is not None else None
        packets = []
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(paint(number, size), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode()
        packets += encode_tone(audio, pictures / 25, ()) if audio is not None else []
        if track is not None and captions is not None:
            track.time_base = Fraction(1, 1000)
            packets += [make_cue(track, captions[0], at, *cue) for at, cue in enumerate(captions[1])]
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            writer.mux(packet)
    return out.getvalue()


def paint(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return a picture, (height, width, 3): its number as bits from left to right, and a bright corner."""
    width, height = size
    picture = np.full((height, width, 3), 40, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            picture[height // 2 :, bit * width // 8 : (bit + 1) * width // 8] = 220
    picture[: height // 4, : width // 4] = 255
    return picture


def read_number(picture: np.ndarray) -> int:
    """Return the number of a painted picture, of any size."""
    height, width = picture.shape[:2]
    return sum(
        (picture[height * 3 // 4, bit * width // 8 + width // 16].mean() > 128) << bit for bit in range(8)
    )


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
