"""Streams end to end: ``python -m bench.streams`` writes bench/results/streams.json.

film      a made film of two hours is cut and sent to a ``lethe serve`` as fast as it is taken: speed against
          real time, segment sent to segment found, memory of hour two over hour one, and whether each card is
          found by its text at its time
stages    processor time of each stage over minutes of the same film, and key frames beside a picture a second
wer       what is heard in manifesto.mp4 against its subtitles
fairness  four streams of one tenant at once, one of which sends four times as much: when each is done

Seconds are the clock's; other work on the machine makes them longer. ``load_average_1m`` tells of it.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from rich.progress import Progress

from api.client import BusyError, LetheClient, Upload
from bench.figures import Figures, describe_machine, describe_run, percentile, spread
from bench.processes import cpu_seconds, find_trees, memory_mib
from bench.serving import Service
from bench.squad13 import DATA
from bench.stream_film import SHOWN, Card, can_speak, make_film
from bench.transcribed import list_words, word_error_rate
from embedding.models import ModelStore
from embedding.screen_text import RapidScreenText
from embedding.voice import hear_voice
from memory.ports import Pixels, Speech
from memory.values import Content, Transcript
from service.models import make_speech
from service.settings import Settings
from sources.key_frames import look
from sources.parse import SourceParser
from sources.segmenting import iter_segments
from sources.stills import Still
from sources.tracks import read_sound

RESULTS = Path(__file__).parent / "results" / "streams.json"
VIDEOS = DATA.parent / "video"
SAMPLE_SECONDS = 2.0
NEAR_MS = 1_000
"""A card is found at its time when the best hit lies within this of when it is shown, at both ends."""
STAGE_SECONDS = 300
LATE_SECONDS = 600
FEW = 6
"""Segments of a stream that does not send much."""
FEEDERS = 2
"""So many segments of a stream are sent at once, each waiting until it is searchable."""


def main() -> None:
    """Measure what is asked for, and write it beside what was measured before."""
    options = _parse()
    wanted = options.sections.split(",")
    sections: dict[str, Callable[[], Figures]] = {
        "film": lambda: measure_film(options.hours, options.speech, options.threads),
        "stages": lambda: measure_stages(options.speech),
        "wer": lambda: measure_words(options.speech),
        "fairness": lambda: measure_fairness(options.threads),
    }
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name in wanted:
        results[name] = sections[name]() | {"run": describe_run()}
        results["machine"] = describe_machine()
        results["summary"] = summarise(results)
        options.results.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        print(json.dumps({name: results[name]}, indent=2))


def summarise(results: dict[str, Any]) -> Figures:
    """Return the figures that are followed from one change to the next."""
    film, stages, words = results.get("film", {}), results.get("stages", {}), results.get("wer", {})
    return {
        "caption_recall1": film.get("caption_recall1"),
        "real_time_factor": film.get("real_time_factor"),
        "rss_growth_ratio": film.get("rss_growth_ratio"),
        "segment_to_searchable_p95_s": film.get("segment_to_searchable_s", {}).get("p95"),
        "frames_per_hour": stages.get("key_frames", {}).get("frames_per_hour"),
        "wer": words.get("wer"),
    }


def measure_film(hours: float, speech: str, threads: int) -> Figures:
    """Send a made film to a service, and ask it for every card."""
    with TemporaryDirectory(prefix="lethe-film-") as folder:
        path, seconds = Path(folder) / "film.mkv", round(3600 * hours)
        began = time.perf_counter()
        cards = make_film(path, seconds)
        made_in = time.perf_counter() - began
        settings = {"LETHE_SPEECH": speech}
        with Service(threads=threads, settings=settings) as service, Progress() as progress:
            memory = _Memory(service.pid)
            began, cpu = time.perf_counter(), _cpu(service.pid)
            stream_id = service.client.streams.open("video", title="A made film")["id"]
            waits = _feed(service, stream_id, path, memory, progress, seconds)
            service.wait_for()
            took, cpu = time.perf_counter() - began, _cpu(service.pid) - cpu
            memory.stop()
            found = [_find(service.client, stream_id, card) for card in cards]
            near = [one for one in found if one is not None and one.is_near]
            size = service.disk_mib()
    return {
        "hours": hours,
        "cards": len(cards),
        "speech": speech if can_speak() else "no voice on this machine: the film is silent",
        "film_made_in_s": round(made_in, 1),
        "real_time_factor": round(took / seconds, 4),
        "times_real_time": round(seconds / took, 1),
        "cpu_seconds_per_hour": round(cpu / hours, 1),
        "segments": len(waits),
        "segment_to_searchable_s": {
            "p50": round(percentile(waits, 0.5), 2),
            "p95": round(percentile(waits, 0.95), 2),
            "max": round(max(waits), 2),
        },
        "rss_mib": memory.peaks(),
        "rss_growth_ratio": memory.growth(seconds),
        "caption_recall1": round(len(near) / len(cards), 4),
        "caption_begins_late_by_ms": spread([one.late_ms for one in near] or [0], digits=0),
        "data_folder_mib": size,
    }


class _Memory:
    """Resident memory of the service's process tree, with the stream's time at which it was read."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self.stream_seconds = 0.0
        self.samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            trees = find_trees({"service": self._pid})
            self.samples.append((self.stream_seconds, memory_mib(trees["service"], shared=True)))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def peaks(self) -> Figures:
        """Return the first and the highest reading."""
        values = [value for _, value in self.samples]
        return {"first": round(values[0]), "peak": round(max(values))}

    def growth(self, seconds: int) -> float:
        """Return the peak of the second half of the film over that of the first."""
        early = [value for at, value in self.samples if at <= seconds / 2]
        late = [value for at, value in self.samples if at > seconds / 2]
        return round(max(late) / max(early), 3)


def _cpu(pid: int) -> float:
    return cpu_seconds(find_trees({"service": pid})["service"])


def _feed(
    service: Service, stream_id: str, path: Path, memory: _Memory, progress: Progress, seconds: int
) -> list[float]:
    """Cut and send a film; return of each segment the seconds from sending to being searchable."""
    waits: list[float] = []
    task = progress.add_task("film", total=seconds)
    room = threading.BoundedSemaphore(2 * FEEDERS)

    def send(number: int, start_ms: int, end_ms: int, body: bytes) -> None:
        began = time.perf_counter()
        try:
            service.client.streams.append_file(
                stream_id,
                number,
                Upload(f"{number}.mkv", body),
                start_ms=start_ms,
                end_ms=end_ms,
                wait=LATE_SECONDS // 2,
            )
        finally:
            room.release()
        waits.append(time.perf_counter() - began)
        memory.stream_seconds = max(memory.stream_seconds, end_ms / 1000)
        progress.update(task, completed=memory.stream_seconds)

    with path.open("rb") as film, ThreadPoolExecutor(FEEDERS) as pool:
        sent = []
        for segment in iter_segments(film):
            room.acquire()
            sent.append(pool.submit(send, segment.number, segment.start_ms, segment.end_ms, segment.body))
        for one in sent:
            one.result()
    service.client.streams.close(stream_id)
    return waits


@dataclass(frozen=True, slots=True)
class Found:
    """Where the best hit for a card lies: within when it is shown, and how long after it came up.

    A card that is up when a segment begins is read in both segments, and either may be the better hit.
    """

    is_near: bool
    late_ms: int


def _find(client: LetheClient, stream_id: str, card: Card) -> Found | None:
    """Return where the best hit for a card's text lies, ``None`` where there is none with a time."""
    hits = client.recall(card.text, limit=1, filter={"stream_id": stream_id})["hits"]
    place = hits[0]["span"].get("place") if hits else None
    if place is None:
        return None
    ends = card.start_ms + 1000 * SHOWN
    is_near = place["first"] >= card.start_ms - NEAR_MS and place["last"] <= ends + NEAR_MS
    return Found(is_near, place["first"] - card.start_ms)


def measure_stages(speech: str) -> Figures:
    """Return processor time of each stage, and what is found in key frames beside a picture a second."""
    with TemporaryDirectory(prefix="lethe-film-") as folder:
        path = Path(folder) / "film.mkv"
        cards = make_film(path, STAGE_SECONDS)
        body = path.read_bytes()
    figures: Figures = {"film_seconds": STAGE_SECONDS, "cards": len(cards)}
    looked, figures["looking"] = _timed(lambda: look(body))
    reader = RapidScreenText()
    pictures = [_picture(still) for still in looked.stills]
    reader.read(pictures[0])  # loads its weights
    keyed, figures["reading_pictures"] = _timed(lambda: [reader.read(one) for one in pictures])
    audio, figures["decoding_sound"] = _timed(lambda: read_sound(body))
    samples = np.frombuffer(audio.samples, "<i2")
    _, figures["finding_speech"] = _timed(lambda: hear_voice(samples))
    hearing = _open_speech(speech)
    hearing.transcribe(samples)  # loads its weights
    _, figures["finding_and_hearing_speech"] = _timed(lambda: hearing.transcribe(samples))
    times = [0 if one.place is None else one.place.first for one in looked.stills]
    figures["key_frames"] = _found_in(cards, times, keyed)
    figures["a_picture_a_second"] = _sample(body, cards, reader)
    return figures


def _sample(body: bytes, cards: Sequence[Card], reader: RapidScreenText) -> Figures:
    """Return what is read when a picture a second is, whatever it shows."""
    began = time.process_time()
    times = range(0, 1000 * STAGE_SECONDS, 1000)
    with av.open(BytesIO(body)) as film:
        pictures = [
            frame.to_ndarray(format="rgb24")
            for frame in film.decode(video=0)
            if frame.time is not None and float(frame.time).is_integer()
        ]
    read = [reader.read(picture) for picture in pictures]
    used = time.process_time() - began
    return _found_in(cards, times, read) | {"cpu_seconds": round(used, 1)}


def _picture(still: Still) -> Pixels:
    return np.frombuffer(still.pixels, np.uint8).reshape(still.height, still.width, 3)


def _open_speech(name: str) -> Speech:
    settings = Settings(speech=name, torch_threads=1)
    speech = make_speech(settings, ModelStore(settings.models_cache))
    assert speech is not None
    return speech


def measure_words(name: str) -> Figures:
    """Return the share of words heard wrong in a film whose words are known."""
    body, captions = (VIDEOS / "manifesto.mp4").read_bytes(), (VIDEOS / "manifesto.srt").read_bytes()
    told = list_words(SourceParser().parse(Content("document", "application/x-subrip", captions)).text)
    figures: Figures = {"words": len(told), "speech": name}
    speech = _open_speech(name)
    samples = np.frombuffer(read_sound(body).samples, "<i2")
    whole = speech.transcribe(samples)
    figures["wer"] = round(word_error_rate(told, list_words(_text(whole))), 4)
    heard = []
    for segment in iter_segments(BytesIO(body)):
        part = np.frombuffer(read_sound(segment.body).samples, "<i2")
        heard += list_words(_text(speech.transcribe(part)))
    figures["wer_in_segments"] = round(word_error_rate(told, heard), 4)
    return figures


def _text(transcript: Transcript) -> str:
    return " ".join(said.text for said in transcript.utterances)


def measure_fairness(threads: int) -> Figures:
    """Return how long segments of three streams wait beside one that sends four times as many."""
    with TemporaryDirectory(prefix="lethe-film-") as folder:
        path = Path(folder) / "film.mkv"
        make_film(path, 10 * FEW, speaks=False)
        with path.open("rb") as film:
            parts = list(iter_segments(film))[:FEW]
    with Service(threads=threads, settings={"LETHE_SPEECH": "none"}) as service:

        def play(count: int) -> list[float]:
            stream_id = service.client.streams.open("video")["id"]
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(lambda at: send(stream_id, at), range(count)))

        def send(stream_id: str, at: int) -> float:
            part, began = parts[at % len(parts)], time.perf_counter()
            upload = Upload(f"{at}.mkv", part.body)
            start_ms, length = 10_000 * at, part.end_ms - part.start_ms
            while True:
                # Who sends more than may wait goes on asking, as `lethe stream` does.
                with suppress(BusyError):
                    service.client.streams.append_file(
                        stream_id,
                        at,
                        upload,
                        start_ms=start_ms,
                        end_ms=start_ms + length,
                        wait=LATE_SECONDS // 2,
                    )
                    break
            return time.perf_counter() - began

        with ThreadPoolExecutor(4) as pool:
            eager, *others = list(pool.map(play, (4 * FEW, FEW, FEW, FEW)))
    return {
        "segments": [len(eager), *map(len, others)],
        "seconds_to_searchable": {
            "of_the_eager": {"p50": round(percentile(eager, 0.5), 2), "last": round(max(eager), 2)},
            "of_the_others": [
                {"p50": round(percentile(one, 0.5), 2), "last": round(max(one), 2)} for one in others
            ],
        },
        "others_done_after_share_of_the_eagers_time": round(max(max(one) for one in others) / max(eager), 3),
    }


def _timed(do: Callable[[], Any]) -> tuple[Any, Figures]:
    began, cpu = time.perf_counter(), time.process_time()
    made = do()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return made, {
        "seconds": round(took, 2),
        "cpu_seconds": round(used, 2),
        "real_time_factor": round(used / STAGE_SECONDS, 4),
    }


def _found_in(cards: Sequence[Card], times_ms: Sequence[int], lines: Sequence[Any]) -> Figures:
    """Return how many cards are read in the pictures at these times."""
    texts = ["".join(line.text for line in read).replace(" ", "").lower() for read in lines]
    read = sum(
        any(
            card.text.replace(" ", "").lower() in text
            for at, text in zip(times_ms, texts, strict=True)
            if -NEAR_MS <= at - card.start_ms <= 1000 * SHOWN
        )
        for card in cards
    )
    return {
        "frames": len(times_ms),
        "frames_per_hour": round(3600 * len(times_ms) / STAGE_SECONDS),
        "cards_read": round(read / len(cards), 4),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", default="stages,wer,fairness,film")
    parser.add_argument("--hours", type=float, default=2.0, help="of the film")
    parser.add_argument("--speech", default="whisper-base")
    parser.add_argument("--threads", type=int, default=1, help="of the service's models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
