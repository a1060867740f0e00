"""`lethe serve` killed with -9 at random moments of a stream: in the end it is that of an undisturbed run.

The sender goes on as senders do: it asks how far the stream has come and sends again what was not
acknowledged. LETHE_FAULTS=all kills more often.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from api.client import LetheClient
from api.stream_replies import SegmentReply, StreamReply
from memory.errors import UnavailableError
from memory.jobs import MAX_CRASHES
from tests.faults.installation import Installation
from tests.faults.scanner import find_words
from tests.faults.streamed import LIMIT, ORDER, SEGMENTS, STRETCH, Found, check_once, look, make_segments
from tests.served import PATIENCE
from unlearning.certificate import verify_certificate

ALL = os.environ.get("LETHE_FAULTS") == "all"
SEEDS = range(5) if ALL else range(1)
SERVE = "serve 0"
NAME = "quay"
MOMENTS = ("append", "reply", "ingest", "between")
"""When it is killed: while a segment is appended, before its sender sees the reply, while it is read, or when all
is read.
"""
INGEST_SECONDS = 0.12
FORGET_SECONDS = 0.6

Result = TypeVar("Result")


class Sender:
    """Sends segments to a process that is killed meanwhile, and knows what was acknowledged."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.installation = Installation(folder, ("serve",), {})
        self.chance = chance
        self.segments = make_segments()
        self.acknowledged: set[int] = set()
        self.forgets: list[str] = []
        self.kills: Counter[str] = Counter()
        self._took = 0.0
        """Seconds that the last segment took to be appended."""
        self._deaths = 0
        """Kills since all was read."""
        self._killing: threading.Timer | None = None
        self._client: LetheClient | None = None
        self.stream_id = self.open()["id"]

    @property
    def client(self) -> LetheClient:
        """Talks to the process that runs now."""
        door = self.installation.door
        if self._client is None:
            self._client = LetheClient(door.url, (door.data / "admin.key").read_text().strip())
        return self._client

    def open(self) -> StreamReply:
        """Open the stream, or go on with it."""
        return self.client.streams.open("video", external_id=NAME, subjects=["ferry"], metadata={"quay": 2})

    def kill_within(self, seconds: float, moment: str) -> None:
        """Have the process killed at a moment of the seconds to come.

        What is at hand whenever a process ends is held to be the reason in the end, and is read no more: so often
        it is not killed before all is read.
        """
        if self._deaths == MAX_CRASHES - 1:
            self.wait_searchable()
        self._deaths += 1
        self.kills[f"stream kill {moment}"] += 1
        delay = self.chance.uniform(0, seconds)
        self._killing = threading.Timer(delay, self.installation.kill, [SERVE])
        self._killing.start()

    def come_back(self) -> None:
        """Start the process again once it is dead; what was forgotten stays so from the first reply on."""
        if self._killing is not None:
            self._killing.join()
            self._killing = None
        if self._client is not None:
            self._client.close()
            self._client = None
        self.installation.restore()
        if self.forgets:
            self.check_gone()

    def insist(self, act: Callable[[], Result]) -> Result:
        """Do something until it is acknowledged."""
        late = time.monotonic() + PATIENCE
        while True:
            try:
                return act()
            except UnavailableError:
                assert time.monotonic() < late, "it never came to be acknowledged"
                self.come_back()

    def send(self, number: int, moment: str | None = None) -> None:
        """Send a segment until it is acknowledged; the process is killed at a moment of it where one is named."""
        segment, tries = self.segments[number], 0
        if moment == "append":
            self.kill_within(self._took * 1.2, moment)
        elif moment == "reply":
            segment.send(self.client, self.stream_id)
            self.kill_within(0, moment)
            self.come_back()
            assert number in self.check_received(number)

        def append() -> SegmentReply:
            nonlocal tries
            tries += 1
            received = self.acknowledged if tries == 1 and moment != "reply" else self.check_received(number)
            begun = time.monotonic()
            reply = segment.send(self.client, self.stream_id)
            self._took = time.monotonic() - begun
            assert reply["unchanged"] == (number in received)
            return reply

        self.insist(append)
        self.acknowledged.add(number)
        if moment == "ingest":
            self.kill_within(INGEST_SECONDS, moment)
        elif moment == "between":
            self.wait_searchable()
            self.kill_within(0, moment)
        if self._killing is not None:
            self.come_back()
            self.check_received(None)

    def check_received(self, sending: int | None) -> set[int]:
        """Return what was received: all that was acknowledged, and of the rest at most what was just sent."""
        stream = self.open()
        assert stream["id"] == self.stream_id
        received = {*range(stream["next_number"]), *stream["ahead"]}
        assert self.acknowledged <= received <= self.acknowledged | {sending}
        return received

    def wait_searchable(self) -> None:
        """Wait until all that was received can be found."""
        late = time.monotonic() + PATIENCE
        while self.client.streams.get(self.stream_id)["waiting"]:
            assert time.monotonic() < late, "some segments are never read"
            time.sleep(0.02)
        self._deaths = 0

    def forget(self, moment: str) -> None:
        """Forget the stretch; the process is killed when it is ``asked`` to, or once that was ``acknowledged``."""
        scope = {
            "ids": [self.stream_id],
            "stream_range": {
                "start_ms": self.segments[STRETCH[0]].times[0],
                "end_ms": self.segments[STRETCH[-1]].times[1],
            },
        }
        if moment == "asked":
            self.kill_within(self._took, "forget asked")
        reply = self.insist(lambda: self.client.forget(scope))  # type: ignore[arg-type]
        self.forgets.append(reply["id"])
        if moment == "acknowledged":
            self.kill_within(FORGET_SECONDS, "forget acknowledged")
        self.come_back()
        # Where only the reply was lost, nothing was left to be forgotten.
        assert reply["counts"]["entries"] in (
            {len(STRETCH)} if moment == "acknowledged" else {0, len(STRETCH)}
        )

    def check_gone(self) -> None:
        """Nothing of the stretch is found, and what is sent again of it does not come back."""
        words = " ".join(self.segments[number].word for number in STRETCH)
        hits = [hit["text"] for hit in self.client.recall(words, limit=LIMIT)["hits"]]
        passages = self.client.streams.list_passages(self.stream_id, limit=LIMIT)
        texts = [*hits, *(one["text"] for one in passages)]
        assert not [text for text in texts for number in STRETCH if self.segments[number].word in text]
        again = self.segments[self.chance.choice(STRETCH)].send(self.client, self.stream_id)
        assert again["unchanged"] and again["id"] is None and again["job"] is None

    def finish(self) -> Found:
        """Close the stream, wait until nothing is left to do, and return what is found of it."""
        self.client.streams.close(self.stream_id)
        late = time.monotonic() + PATIENCE
        while jobs := self.client.stats()["jobs"]:
            assert time.monotonic() < late, f"jobs are left: {jobs}"
            time.sleep(0.05)
        ended = Counter((job["kind"], job["status"]) for job in self.client.list_jobs(limit=200))
        assert {status for _, status in ended} <= {"done", "cancelled"}, ended
        return look(self.client, self.stream_id)

    def stop(self) -> None:
        """Stop everything."""
        if self._killing is not None:
            self._killing.join()
        if self._client is not None:
            self._client.close()
        self.installation.stop()


@contextmanager
def sending(folder: Path, seed: int = 0) -> Iterator[Sender]:
    """Yield a sender whose stream was just opened."""
    folder.mkdir(exist_ok=True)
    sender = Sender(folder, random.Random(seed))
    try:
        yield sender
    finally:
        sender.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is found where nothing was killed: each segment in its passages, once."""
    with sending(tmp_path_factory.mktemp("undisturbed")) as sender:
        for number in ORDER:
            sender.send(number)
        found = sender.finish()
        segments = sender.segments
    assert sorted(ORDER) == list(range(SEGMENTS)) == found.events
    assert found.stream["segments"] == found.stream["next_number"] == SEGMENTS
    assert (found.stream["ahead"], found.stream["waiting"]) == ([], 0)
    check_once(found, segments, range(SEGMENTS))
    return found


def count_survived(counts: Counter[str]) -> dict[str, dict[str, int]]:
    """Return the kills in the form in which faults are counted; all were survived."""
    return {kind: {"injected": count, "survived": count} for kind, count in counts.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_goes_on_where_it_was_killed(
    seed: int, tmp_path: Path, undisturbed: Found, record_property: pytest.RecordProperty
) -> None:
    chance = random.Random(seed)
    moments = [*MOMENTS, "append"] * (3 if ALL else 1)
    chance.shuffle(moments)
    killed = dict(zip(chance.sample(ORDER[1:], len(moments)), moments, strict=True))
    with sending(tmp_path, seed) as sender:
        for number in ORDER:
            sender.send(number, killed.get(number))
        found = sender.finish()
        again = sender.segments[chance.choice(ORDER)].send(sender.client, sender.stream_id)
        assert again["unchanged"] and again["next_number"] == SEGMENTS
    assert sender.kills.total() == len(moments)
    check_once(found, sender.segments, range(SEGMENTS))
    assert found == undisturbed
    record_property("faults", count_survived(sender.kills))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["asked", "acknowledged"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_stretch_forgotten_before_a_kill_stays_forgotten(
    seed: int, moment: str, tmp_path: Path, undisturbed: Found, record_property: pytest.RecordProperty
) -> None:
    """Asked for while some of the stretch is still to be read, and killed before it is certified."""
    chance = random.Random(seed)
    sent = ORDER.index(STRETCH[-1]) + 1
    moments = dict(zip(chance.sample(ORDER[sent:], 2), chance.sample(MOMENTS, 2), strict=True)) if ALL else {}
    with sending(tmp_path, seed) as sender:
        for number in ORDER[:sent]:
            sender.send(number)
        sender.forget(moment)
        for number in ORDER[sent:]:
            sender.send(number, moments.get(number))
        found = sender.finish()
        sender.check_gone()
        certificate = sender.client.get_certificate(sender.forgets[0])
    assert verify_certificate(certificate).valid
    # Content lies sealed: what is looked for is what leaks, into a log or the broker's file.
    assert find_words(tmp_path, [sender.segments[number].word for number in STRETCH]) == []
    check_once(found, sender.segments, [number for number in ORDER if number not in STRETCH])
    assert found == undisturbed.without(STRETCH)
    record_property("faults", count_survived(sender.kills))
