"""Searches during inserts, merges and forgets see only whole states: two API processes, two workers.

Real processes over one engine, PostgreSQL, Valkey and data folder. Two tellers remember, update, forget and
have everything rebuilt, each act at one of the two doors, in an order that is seeded; searchers ask both
doors without pause. What was told when, and what each reply showed, is written down and judged afterwards.
LETHE_FAULTS=all plays a longer history.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import sqlalchemy as sa

from api.replies import recall_reply
from embedding.encoder import TextEncoder
from memory.journal import get_content, list_entry_ids, list_rows
from memory.tables import jobs
from memory.values import EntryId
from service.ingest import derive
from sources.parse import SourceParser
from tests.engine.serving import free_port
from tests.faults.scanner import find_words, list_needles, scan
from tests.faults.stories import TENANT, Told, World, assert_like_twin, document, open_world
from tests.postgres import Server
from tests.served import PATIENCE, Served
from tests.service.harness import CODED_ROWS, House
from tests.tiny import WORDS
from unlearning.certificate import verify_certificate
from unlearning.forget import find_unowned
from workers.broker import EmbeddedBroker

ALL = os.environ.get("LETHE_FAULTS") == "all"
SEED = 7
TURNS = 160 if ALL else 16
"""So many acts of each teller."""
NAMES = 8
"""So many documents of each teller, told again and again, so that all passages there are fit in a reply."""
PARTS = 4
LIMIT = 100
WAIT_SECONDS = 60
NEVER = float("inf")
UNSAVED_ROWS = 12
SMALL = f"""
from service import index
index.Indexes.__init__.__kwdefaults__["coded_rows"] = {CODED_ROWS}
index.UNSAVED_ROWS = {UNSAVED_ROWS}
from api.cli import main
main()
"""
"""`lethe`, but a few rows are enough for codes, and for files to be written anew.

The default is changed where it is held: what these processes are forked from has imported it already.
"""

MARK = re.compile(r"(zorvex\d{5}) part (\d+) of \d+")


@dataclass(eq=False)
class Version:
    """A version of a document, and when it was spoken of: requests as they were sent, replies as they came.

    ``indexed`` and ``forgotten`` are acknowledgements; ``NEVER`` until they come.
    """

    name: str
    word: str
    """Stands in each of its passages and nowhere else."""
    parts: int
    subject: str
    text: str
    told: float
    indexed: float = NEVER
    forgetting: float = NEVER
    forgotten: float = NEVER


@dataclass(frozen=True)
class Seen:
    """A reply of a door: the passages it showed, best first, by their word and place."""

    door: int
    query: str
    began: float
    ended: float
    hits: tuple[tuple[str, int], ...]


def judge(versions: Sequence[Version], seen: Seen) -> list[str]:
    """Return which promises a reply breaks; ``versions`` are all there ever were, in the order of telling.

    whole   what it shows of a version is each of its passages, once
    one     of a document it shows one version
    gone    none whose forget was acknowledged before the search began
    there   of each document the newest version that was acknowledged as indexed before the search began and
            that no forget named before it ended, or a newer one; nothing only where a newer one was being
            forgotten meanwhile
    first   the passages that bear a word asked for come before all others
    """
    shown: dict[str, list[int]] = defaultdict(list)
    for word, part in seen.hits:
        shown[word].append(part)
    broken: list[str] = []
    if len(seen.hits) >= LIMIT:
        broken.append("the limit does not cover everything, so that nothing can be told")
    for unknown in shown.keys() - {version.word for version in versions if version.told <= seen.ended}:
        broken.append(f"whole: {unknown} is shown, which nobody had told")
    by_name: dict[str, list[Version]] = defaultdict(list)
    for version in versions:
        by_name[version.name].append(version)
    for name, own in by_name.items():
        showing = [version for version in own if version.word in shown]
        broken += [
            f"whole: {name} as {version.word} in parts {shown[version.word]} of {version.parts}"
            for version in showing
            if sorted(shown[version.word]) != list(range(1, version.parts + 1))
        ]
        if len(showing) > 1:
            broken.append(f"one: {name} as {' and '.join(version.word for version in showing)}")
        broken += [
            f"gone: {name} as {version.word}, forgotten {seen.began - version.forgotten:.3f} s before"
            for version in showing
            if version.forgotten <= seen.began
        ]
        sure = [
            version for version in own if version.indexed <= seen.began and version.forgetting > seen.ended
        ]
        newer = own[own.index(sure[-1]) :] if sure else []
        # What stood over it, and was denied between the search and the last look at what it shows.
        fading = any(one.forgetting <= seen.ended and one.forgotten > seen.began for one in newer)
        if sure and not any(version in newer for version in showing) and (showing or not fading):
            instead = " and ".join(version.word for version in showing) or "nothing"
            since = seen.began - sure[-1].indexed
            broken.append(f"there: {name} as {instead}, but {sure[-1].word} was indexed {since:.3f} s before")
    if seen.query in shown:
        first = [word for word, _ in seen.hits[: len(shown[seen.query])]]
        if set(first) != {seen.query}:
            broken.append(f"first: before passages of {seen.query} come {set(first) - {seen.query}}")
    return [
        f"{what}\n    door {seen.door}, asked for {seen.query!r}, showed {_show(shown)}" for what in broken
    ]


def _show(shown: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{word}: {parts}" for word, parts in sorted(shown.items()))


# That the judge can tell


NEW = Version("ferry", "zorvex00002", 2, "s", "", told=5, indexed=6)
OLD = Version("ferry", "zorvex00001", 2, "s", "", told=1, indexed=2)
BOTH_PARTS = (("zorvex00002", 1), ("zorvex00002", 2))
OLD_PARTS = (("zorvex00001", 2), ("zorvex00001", 1))


@pytest.mark.parametrize(
    ("change", "hits", "broken"),
    [
        ({}, BOTH_PARTS, []),
        ({}, BOTH_PARTS[:1], ["whole"]),
        ({}, BOTH_PARTS[:1] * 2, ["whole"]),
        ({}, (*BOTH_PARTS, ("zorvex00009", 1)), ["whole"]),
        ({"told": 21, "indexed": 22}, BOTH_PARTS, ["whole"]),
        ({}, (*BOTH_PARTS, *OLD_PARTS), ["one"]),
        ({}, (), ["there"]),
        ({}, OLD_PARTS, ["there"]),
        ({"told": 11, "indexed": 12}, OLD_PARTS, []),
        ({"told": 11, "indexed": 12}, BOTH_PARTS, []),
        ({"told": 11, "indexed": 12}, (), ["there"]),
        ({"forgetting": 8, "forgotten": 9}, OLD_PARTS, []),
        ({"forgetting": 8, "forgotten": 9}, (), ["there"]),
        ({"forgetting": 8, "forgotten": 9}, BOTH_PARTS, ["gone"]),
        ({"forgetting": 8, "forgotten": 11}, BOTH_PARTS, []),
        ({"forgetting": 8, "forgotten": 11}, OLD_PARTS, []),
        ({"forgetting": 8, "forgotten": 11}, (), []),
        ({"forgetting": 8, "forgotten": 11}, OLD_PARTS[:1], ["whole"]),
    ],
)
def test_the_judge_knows_a_broken_promise(
    change: dict[str, float], hits: tuple[tuple[str, int], ...], broken: list[str]
) -> None:
    seen = Seen(0, "the ferry", 10, 20, hits)
    found = judge([OLD, replace(NEW, **change)], seen)  # type: ignore[arg-type]
    assert sorted(line.partition(":")[0] for line in found) == broken


def test_the_judge_knows_what_has_to_come_first() -> None:
    other = Version("boat", "zorvex00003", 1, "s", "", told=1, indexed=2)
    hits = (BOTH_PARTS[0], ("zorvex00003", 1), BOTH_PARTS[1])
    assert judge([NEW, other], Seen(0, "zorvex00003", 10, 20, hits))[0].startswith("first")
    assert judge([NEW, other], Seen(0, "zorvex00002", 10, 20, hits))[0].startswith("first")
    assert not judge([NEW, other], Seen(0, "zorvex00002", 10, 20, (*BOTH_PARTS, hits[1])))
    assert not judge([NEW, other], Seen(0, "zorvex00001", 10, 20, hits))


# Those who tell, and those who search


def ask(door: Served, path: str, body: object = None, **how: Any) -> Any:
    """Return a door's reply; whatever error it says, it should not have said."""
    try:
        return door.ask(path, body, **how)
    except HTTPError as error:
        raise AssertionError(f"{door.url}{path}: {error.code} {error.read().decode()}") from error


class Teller:
    """Tells, updates and forgets documents of its own; which, and at which door, goes by its seed."""

    def __init__(self, number: int, doors: Sequence[Served]) -> None:
        self.number, self.doors = number, doors
        self.chance = random.Random(f"{SEED} {number}")
        self.count = itertools.count()
        self.versions: list[Version] = []
        self.waiting: dict[str, Version] = {}
        """Versions that were acknowledged but not as indexed, by job."""
        self.forgets: list[str] = []

    def play(self) -> None:
        """Act after act; between them, look what became of what was not waited for."""
        acts = (self.tell, self.forget_document, self.forget_subject, self.rebuild)
        weights = (10, 4, 2, 1)
        for turn in range(TURNS):
            self.chance.choices(acts, weights)[0](self.doors[self.chance.randrange(2)])
            self.look(self.doors[turn % 2])

    def tell(self, door: Served) -> None:
        """One to three documents, some of them known: their next version."""
        names = self.chance.sample(range(NAMES), self.chance.randint(1, 3))
        self._tell(door, names, self.chance.choice((0, WAIT_SECONDS, WAIT_SECONDS)))

    def tell_all(self, door: Served) -> None:
        """Tell each document: of two tellers more rows than ``UNSAVED_ROWS`` and ``CODED_ROWS`` at least."""
        self._tell(door, range(NAMES), WAIT_SECONDS)

    def _tell(self, door: Served, names: Iterable[int], wait: int) -> None:
        fresh = [self._make_version(name) for name in names]
        bodies = [{"text": one.text, "external_id": one.name, "subjects": [one.subject]} for one in fresh]
        now = time.monotonic()
        for version in fresh:
            version.told = now
        self.versions += fresh
        replies = ask(door, "/v1/documents/batch", bodies, wait=wait)
        now = time.monotonic()
        for version, reply in zip(fresh, replies, strict=True):
            if reply["job"]["status"] == "done":
                version.indexed = now
                assert reply.get("passages", version.parts) == version.parts, reply
            else:
                assert not wait, reply
                self.waiting[reply["job"]["id"]] = version

    def _make_version(self, name: int) -> Version:
        word = f"zorvex{self.number}{next(self.count):04d}"
        parts = self.chance.randint(1, PARTS)
        text = "\n\n".join(f"{word} part {at} of {parts}. {self._write(word)}" for at in range(1, parts + 1))
        subject = f"person:{self.number}-{self.chance.randrange(3)}"
        return Version(f"log-{self.number}-{name}", word, parts, subject, text, NEVER)

    def _write(self, word: str) -> str:
        """Return so much that it is a passage of its own, in which nothing is as telling as the word."""
        return " ".join(f"{word} {' '.join(self.chance.choices(WORDS, k=30))}." for _ in range(4))

    def look(self, door: Served) -> None:
        """Ask how the jobs are that were not waited for."""
        for job_id, version in list(self.waiting.items()):
            job = ask(door, f"/v1/jobs/{job_id}")
            if job["status"] == "done":
                version.indexed = time.monotonic()
            elif job["status"] == "cancelled":
                assert version.forgetting < NEVER, job
            elif job["status"] in ("queued", "running"):
                continue
            else:
                raise AssertionError(job)
            del self.waiting[job_id]

    def forget_document(self, door: Served) -> None:
        left = sorted({version.name for version in self.versions if version.forgotten == NEVER})
        if left:
            name = self.chance.choice(left)
            going = [version for version in self.versions if version.name == name]
            self._forget(door, {"external_ids": [name]}, going)

    def forget_subject(self, door: Served) -> None:
        """Of several documents one version or more, also such that others came after or before."""
        left = sorted({version.subject for version in self.versions if version.forgotten == NEVER})
        if left:
            subject = self.chance.choice(left)
            going = [version for version in self.versions if version.subject == subject]
            self._forget(door, {"subjects": [subject]}, going)

    def _forget(self, door: Served, scope: Mapping[str, object], going: Sequence[Version]) -> None:
        going = [version for version in going if version.forgotten == NEVER]
        now = time.monotonic()
        for version in going:
            version.forgetting = now
        reply = ask(door, "/v1/forget", {"scope": scope, "mode": "execute"})
        now = time.monotonic()
        for version in going:
            version.forgotten = now
        assert reply["counts"]["entries"] == len(going), (reply, [version.word for version in going])
        self.forgets.append(reply["id"])

    def rebuild(self, door: Served) -> None:
        ask(door, "/v1/rebuild", {})


def search(
    seed: int, doors: Sequence[Served], tellers: Sequence[Teller], ended: threading.Event
) -> list[Seen]:
    """Ask for words that are, were or are about to be there, until all is told; return what was shown."""
    chance = random.Random(f"{SEED} searcher {seed}")
    seen: list[Seen] = []
    while not ended.is_set():
        at = chance.randrange(2)
        known = tellers[chance.randrange(2)].versions
        # Every other time one of the latest, where a race would show.
        words = [version.word for version in known[-chance.choice((3, 3 * NAMES)) :]]
        query = chance.choice(words) if words and chance.random() < 0.9 else "winter in the harbour"
        began = time.monotonic()
        hits = ask(doors[at], "/v1/recall", {"query": query, "limit": LIMIT})["hits"]
        seen.append(Seen(at, query, began, time.monotonic(), tuple(_read(hit["text"]) for hit in hits)))
    return seen


def _read(text: str) -> tuple[str, int]:
    marks = MARK.findall(text)
    assert len(marks) == 1, text
    return marks[0][0], int(marks[0][1])


def settle(doors: Sequence[Served], forgets: Sequence[str]) -> None:
    """Wait until every job has ended and every request is certified, as either door tells."""
    late = time.monotonic() + PATIENCE
    for door in doors:
        while True:
            open_jobs = ask(door, "/v1/stats")["jobs"]
            states = {ask(door, f"/v1/forget/{name}")["state"] for name in forgets}
            if not open_jobs and states <= {"certified"}:
                break
            assert time.monotonic() < late, (open_jobs, states)
            time.sleep(0.1)


@contextmanager
def running(folder: Path, model: Path, settings: Mapping[str, str]) -> Iterator[Sequence[Served]]:
    """Run an engine, two API processes and two workers; yield the APIs once all are ready."""
    started = [
        Served(folder / "data", model, folder / f"{at}-{role}.log", role, settings, SMALL)
        for at, role in enumerate(("engine", "api", "api", "worker", "worker"))
    ]
    try:
        for process in started:
            process.wait()
        yield [process for process in started if process.role == "api"]
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Served.stop, started))


@pytest.mark.timeout(1800 if ALL else 300)
def test_searches_see_only_whole_states(tmp_path: Path, model_folder: Path, postgres: Server) -> None:
    data, broker = tmp_path / "data", EmbeddedBroker(tmp_path / "valkey")
    encoder = TextEncoder(model_folder, name=f"hf:{model_folder}", threads=1)
    with postgres.database("data") as database_url, postgres.database("keys") as keys_url:
        urls = {"database_url": database_url, "keys_url": keys_url}
        settings = {
            "LETHE_DATABASE_URL": database_url,
            "LETHE_KEYS_URL": keys_url,
            "LETHE_BROKER_URL": broker.url,
            "LETHE_ENGINE_URL": f"http://localhost:{free_port()}",
        }
        make_tenant(data, encoder, urls)
        broker.start()
        try:
            with running(tmp_path, model_folder, settings) as doors:
                tellers = [Teller(number, doors) for number in range(2)]
                begin(doors, tellers)
                told = play(doors, tellers)
                found = compare(doors, told)
        finally:
            broker.stop()
        check_what_is_left(tmp_path, encoder, urls, told, found)


def make_tenant(data: Path, encoder: TextEncoder, urls: Mapping[str, str]) -> None:
    """Make the tenant that worlds are told in, and a key to it for ``Served`` to ask with."""
    world = open_world(data, encoder, **urls)
    key = world.house.lethe.access.issue(TENANT, ("read", "write", "forget", "admin"), name="all").key
    world.close()
    (data / "admin.key").write_text(key)


def begin(doors: Sequence[Served], tellers: Sequence[Teller]) -> None:
    """Tell so much that it is saved with codes, and wait until both doors search through them.

    How many rows are in files later on goes by who came first: codes must be there before any search.
    """
    for teller in tellers:
        teller.tell_all(doors[teller.number])
    late = time.monotonic() + PATIENCE
    for door in doors:
        while not (tiers := ask(door, "/v1/stats")["tiers"])["codes"]["bytes"]:
            assert time.monotonic() < late, f"{door.url} has no codes: {tiers}"
            time.sleep(0.1)


def play(doors: Sequence[Served], tellers: Sequence[Teller]) -> list[Version]:
    """Tell and search at once; judge what was shown; return all versions, in the order of telling."""
    ended = threading.Event()
    with ThreadPoolExecutor() as pool:
        searching = [pool.submit(search, seed, doors, tellers, ended) for seed in range(3)]
        telling = [pool.submit(teller.play) for teller in tellers]
        try:
            for one in telling:
                one.result()
            settle(doors, [name for teller in tellers for name in teller.forgets])
        finally:
            ended.set()
        seen = [reply for one in searching for reply in one.result()]
    for teller in tellers:
        teller.look(doors[0])
        assert not teller.waiting
    versions = sorted((one for teller in tellers for one in teller.versions), key=lambda one: one.told)
    broken = [line for reply in seen for line in judge(versions, reply)]
    assert not broken, f"{len(broken)} in {len(seen)} replies:\n" + "\n".join(broken[:10])
    assert {reply.door for reply in seen} == {0, 1} and len(seen) > TURNS
    for teller in tellers:
        for at, name in enumerate(teller.forgets):
            assert verify_certificate(ask(doors[at % 2], f"/v1/forget/{name}/certificate")).valid
    return versions


def list_questions(versions: Sequence[Version]) -> list[str]:
    """Return what is asked in the end: for the last versions, forgotten or not, and for nothing special."""
    return ["winter in the harbour", "the stone tower", *(version.word for version in versions[-6:])]


def compare(doors: Sequence[Served], versions: Sequence[Version]) -> dict[str, Any]:
    """Return what both doors find, which must be the same, by question."""
    found: list[dict[str, Any]] = [
        {
            query: ask(door, "/v1/recall", {"query": query, "limit": LIMIT})["hits"]
            for query in list_questions(versions)
        }
        for door in doors
    ]
    assert found[0] == found[1]
    for door, replies in enumerate(found):
        now = time.monotonic()
        for query, hits in replies.items():
            assert not judge(versions, Seen(door, query, now, now, tuple(_read(hit["text"]) for hit in hits)))
    return found[0]


def check_what_is_left(
    folder: Path,
    encoder: TextEncoder,
    urls: Mapping[str, str],
    versions: Sequence[Version],
    found: Mapping[str, Any],
) -> None:
    """Nothing of what was forgotten lies in a file; the store finds the same when it is opened anew, and is
    like one that was told the survivors alone.
    """
    gone = [version for version in versions if version.forgotten < NEVER]
    assert gone and len(gone) < len(versions)
    assert find_words(folder, [version.word for version in gone]) == []
    parsed = {EntryId(one.word): SourceParser().parse(document(one.text)) for one in gone}
    vectors = [derived.vectors for derived in derive(parsed, encoder)]
    assert scan(folder, list_needles([version.text for version in gone], vectors)) == []

    world = World(House(folder / "data", encoder, **urls))  # type: ignore[arg-type]
    try:
        assert find_unowned(folder / "data", world.house.lethe.stores) == []
        lethe = world.house.lethe
        for query, hits in found.items():
            reply = recall_reply(lethe.recall(TENANT, query, limit=LIMIT))
            assert json.loads(json.dumps(reply["hits"])) == hits
        with lethe.kernel.database.read() as connection:
            done = Counter(connection.scalars(sa.select(jobs.c.kind).where(jobs.c.status == "done")))
            ids = list_entry_ids(connection, TENANT)
            opener = lethe.kernel.vault.opener(TENANT, ids)
            rows = sorted(list_rows(connection, TENANT, ids), key=lambda row: (row.recorded_us, row.id))
            held = [(row, get_content(connection, opener, row.id)) for row in rows]
        assert done.keys() == {"ingest", "fold", "compact", "forget", "rebuild"}, done
        kept = [Told(row.id, row.recorded_us, content, row.source_id) for row, content in held if content]
        assert sorted(told.content.body.decode() for told in kept) == sorted(
            version.text for version in versions if version.forgotten == NEVER
        )
        world.compact()
        assert_like_twin(world, kept, folder / "twin")
    finally:
        world.close()
