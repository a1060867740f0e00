"""Faults struck into single steps of a story, and what must hold after each of them.

A scene is one step of the story over a copy of what the steps before it left. For each point that the
undisturbed step reaches, each time it reaches it, and each kind of fault that may happen there, the step is
played again with that fault; then, as in life, the process is started again, the client says again what
nobody acknowledged, and the workers go on. The end must be the undisturbed one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psycopg.errors
import redis.exceptions
import sqlalchemy as sa
from kombu.exceptions import OperationalError as BrokerError

from embedding.encoder import TextEncoder
from memory.digest import digest_content
from memory.errors import LetheError
from memory.faults import striking
from memory.jobs import LEASE_SECONDS
from memory.tables import certificates, forgets, jobs
from memory.values import Content, EntryId, PassageId
from service.catalog import list_catalog_files
from service.presence import PRESENT_SECONDS
from service.published import LIVE_FOLDER, find_published
from service.views import Scope
from service.work import COMPACT
from tests.faults.stories import (
    KEY,
    QUESTION,
    READ,
    SECRET,
    STEP_US,
    TENANT,
    chat,
    document,
    markdown,
    plain,
    secret,
)
from tests.postgres import Server
from tests.service.harness import House, StepWaker
from unlearning.certificate import verify_certificate
from unlearning.forget import find_unowned
from workers.sender import Sender

ALICE = Scope(subjects=("person:alice",))
AT_US = 1_750_000_000_000_000
PAUSE_US = max(LEASE_SECONDS, PRESENT_SECONDS, 120) * STEP_US + STEP_US
"""Longer than any lease, presence or pause between two attempts."""
TRIES = 4


class Killed(BaseException):
    """What the end of a process looks like from inside: no handler sees it."""


@dataclass
class Strike:
    """Notes the points that are reached, and lets the ``at``-th of them fail.

    A killed process does nothing more: whatever point its unwinding code reaches raises again, so that
    nothing is committed, deleted or sent by clearing up that no killed process would have done.
    """

    at: int = -1
    error: Callable[[], BaseException | None] | None = None
    """Does what is to happen there, and returns what is raised, if anything."""
    reached: list[str] = field(default_factory=list)
    dead: bool = False

    def __call__(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.reached.append(name)
        if len(self.reached) == self.at + 1:
            assert self.error is not None
            error = self.error()
            if error is None:
                return
            self.dead = isinstance(error, Killed)
            raise error

    @property
    def has_struck(self) -> bool:
        return self.at < len(self.reached)


def database_error(said: Exception) -> Callable[[], BaseException]:
    """Return what SQLAlchemy raises when the driver says so."""
    return lambda: sa.exc.OperationalError("COMMIT", {}, said)


FULL = {
    "sqlite": database_error(Exception("database or disk is full")),
    "postgresql": database_error(psycopg.errors.DiskFull("could not extend file: no space left on device")),
}
LOST = {
    "sqlite": database_error(Exception("disk I/O error")),
    "postgresql": database_error(psycopg.OperationalError("server closed the connection unexpectedly")),
}


def list_kinds(point: str, backend: str) -> dict[str, Callable[[], BaseException | None]]:
    """Return the faults that may happen at a point, by kind."""
    kinds: dict[str, Callable[[], BaseException | None]] = {"death": Killed}
    if point in ("commit", "committed", "purge", "purged"):
        if point in ("commit", "purge"):
            kinds["database_full"] = FULL[backend]
        kinds["database_lost"] = LOST[backend]
    elif point.startswith("broker."):
        kinds["broker_away"] = lambda: BrokerError("connection refused")
        kinds["broker_lost"] = lambda: redis.exceptions.ConnectionError("connection closed by server")
    else:
        kinds["disk_full"] = lambda: OSError(ENOSPC, "No space left on device")
        kinds["disk_broken"] = lambda: OSError(EIO, "Input/output error")
    return kinds


class SendingWaker(StepWaker):
    """Sends every message to a broker in memory, as an API process would; ``drain`` is the workers."""

    def __init__(self) -> None:
        self._sender = Sender("memory://")

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None:
        super().start(run_job, list_due)
        self._sender.start(run_job, list_due)

    def wake(self, job_id: str) -> None:
        self._sender.wake(job_id)

    def stop(self) -> None:
        self._sender.stop()


class StagedHouse(House):
    """A house whose clock goes on where the one before it ended, and whose ids are no other's."""

    waker_type = SendingWaker
    begins_migrated = False  # the first start is a scene of its own

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        super().__init__(stage.folder, stage.encoder, **stage.settings)

    def open(self) -> None:
        self.clock.now_us, self.ids.count = self.stage.now_us, self.stage.next_id
        super().open()


class Stage:
    """A house that survives its own end: what a process, its clients and its supervisor do about faults."""

    def __init__(self, folder: Path, encoder: TextEncoder, strike: Strike, **settings: object) -> None:
        self.folder, self.encoder, self.strike, self.settings = folder, encoder, strike, settings
        self.told: dict[str, str] = {}
        """What was acknowledged and not forgotten since: the newest text by external id."""
        self.forgotten = False
        self._house: House | None = None
        self.now_us = AT_US
        self.next_id = 0

    @property
    def house(self) -> House:
        assert self._house is not None
        return self._house

    def insist(self, do: Callable[[], object]) -> None:
        """Do something until it is done, as a client does who gets no acknowledgement."""
        for _ in range(TRIES):
            if self._attempt(do):
                return
        raise AssertionError("it never came to be acknowledged")

    def _attempt(self, do: Callable[[], object]) -> bool:
        try:
            if self._house is None:
                self.open()
            do()
            return True
        except Killed:
            self.abandon()
        except (LetheError, OSError):
            if not (hasattr(self._house, "lethe") and self.house.lethe._started):
                self.abandon()  # it did not come up, or did not go down: its supervisor ends it
        finally:
            self.strike.dead = False
        return False

    def open(self) -> None:
        """Start the process, and look whether the fence stands before anything else is done."""
        house = object.__new__(StagedHouse)
        self._house = house  # there is something to let go of as soon as it begins
        house.__init__(self)  # type: ignore[misc]
        if self.forgotten:
            assert self.find_forgotten() == []

    def abandon(self) -> None:
        """Let go of what the operating system would take back; some time passes."""
        house, self._house = self._house, None
        if house is not None and hasattr(house, "lethe"):
            lethe = house.lethe
            self.next_id = house.ids.count + 100
            lethe.indexes.presence.stop()
            if lethe._tending is not None:
                lethe._tending.stop()
            for live in lethe.indexes._live.values():
                live.words.close()
            lethe.kernel.fence.close()
            lethe.kernel.database.close()
            lethe.kernel.vault.close()
        self.now_us += int(PAUSE_US)

    def stop(self) -> None:
        """End the process properly."""
        self.house.lethe.stop()
        self.next_id, self._house = self.house.ids.count + 100, None

    def end(self) -> None:
        """End the process, properly if that works."""
        if not self._attempt(self.stop) and self._house is not None:
            self.abandon()

    def restart(self) -> None:
        """End the process properly, and start it."""
        if self._house is not None:
            self.stop()
        self.open()

    def drain(self) -> None:
        """Be the workers: what they cannot do now they do after a pause."""
        for _ in range(TRIES + 2):
            if self._attempt(lambda: self.house.waker.drain()) and not self.count_open():
                return
            self.now_us += int(PAUSE_US)
            if self._house is not None:
                self.house.clock.now_us = self.now_us
        raise AssertionError(f"jobs never came to an end: {self.count_open()}")

    def count_open(self) -> dict[str, int]:
        return self.house.lethe.kernel.jobs.count_open()

    def tell(self, *contents: Content) -> None:
        """Remember contents, each with an external id, and note them once they are acknowledged."""
        started_us = self.now_us

        def remember() -> None:
            lethe = self.house.lethe
            with lethe.kernel.database.read() as connection:
                there = set(connection.scalars(sa.text("SELECT id FROM entries")))
            # Two that are told the same at the same time are alike; ids and times are of the story.
            self.house.clock.now_us = started_us
            ids = [entry_id_of(content) for content in contents]
            if lethe._find_orphan_keys()[TENANT]:
                self.clear_orphans()  # in life, ids are never given twice
            self.house.ids.given = [i if i not in there else self.house.ids() for i in ids]
            try:
                lethe.remember(TENANT, contents)
            finally:
                self.house.ids.given = []
                self.house.clock.now_us = self.now_us

        self.insist(remember)
        for content in contents:
            self.told[str(content.attributes.external_id)] = content.body.decode()

    def clear_orphans(self) -> None:
        """Do what a process over PostgreSQL does a quarter of an hour after the keys' maker ended."""
        lethe = self.house.lethe
        lethe._destroy_keys(lethe._find_orphan_keys())

    def forget(self, scope: Scope) -> None:
        """Forget, and note it once it is acknowledged."""

        def forget() -> None:
            self.house.lethe.forget(TENANT, scope, preview=False)

        self.insist(forget)
        self.forgotten = True
        self.told = {name: text for name, text in self.told.items() if SECRET not in text}
        assert self.find_forgotten() == []

    def find_forgotten(self) -> list[str]:
        """Return what is found of that which is forgotten."""
        lethe = self.house.lethe
        found = [hit.text for hit in lethe.recall(TENANT, QUESTION, limit=30).hits]
        return [text for text in found if SECRET in text]

    def digest(self) -> dict[str, str]:
        return digest_content(self.house.lethe.stores, TENANT)

    def check(self, *, is_fresh: bool = True) -> None:
        """Assert everything that must hold once the dust has settled, but for the digest.

        What index files a failure left behind goes with the next forget, compaction or start.
        """
        lethe = self.house.lethe
        if lethe.kernel.database.is_shared:
            self.clear_orphans()
        state = lethe.indexes.get(TENANT).state
        visible = [state.cards[at] for at in np.flatnonzero(state.list_visible(None))]
        held = {card.attributes.external_id: card.row.source_id for card in visible}
        assert held.keys() == self.told.keys()
        for name, text in self.told.items():
            found = lethe.get_source(TENANT, held[name]).text or ""
            assert not text.startswith("Log") or found == text, f"{name} is not what was told"
        if self.forgotten:
            assert self.find_forgotten() == []
        self._check_shelf(is_fresh=is_fresh)
        assert find_unowned(self.folder, lethe.stores) == []
        if is_fresh:
            self._check_index_files()
        self._check_rows()

    def _check_index_files(self) -> None:
        lethe = self.house.lethe
        folder = self.folder / "index" / TENANT
        published = find_published(lethe.kernel, TENANT)
        named = {LIVE_FOLDER}
        if published is not None:
            named |= {published.words, *list_catalog_files(folder, published.catalog)}
        assert {path.name for path in folder.iterdir()} <= named
        live = lethe.indexes._live[TENANT].folder
        assert [path for path in (folder / "words").iterdir() if path != live] == []
        assert not [path for path in self.folder.iterdir() if path.suffix == ".new"]

    def _check_shelf(self, *, is_fresh: bool) -> None:
        """What is kept is of an entry that is there, and word for word what was kept of it."""
        lethe = self.house.lethe
        held = {path.name.split(".")[0] for path in (self.folder / "kv").glob("*/*")}
        there = {card.row.id for card in lethe.indexes.get(TENANT).state.cards}
        assert held <= there
        passages = [PassageId(f"{entry_id}.0") for entry_id in held]
        for passage, payload in lethe.shelves.of(TENANT).find(READ, passages, bytes).items():
            assert payload == compute(passage)
        assert not is_fresh or not list((self.folder / "kv").glob("*/*.part"))

    def _check_rows(self) -> None:
        with self.house.lethe.kernel.database.read() as connection:
            ended = set(connection.scalars(sa.select(jobs.c.status)))
            states = set(connection.scalars(sa.select(forgets.c.state)))
            documents = list(connection.scalars(sa.select(certificates.c.document)))
            wanted = connection.scalar(sa.select(sa.func.count()).select_from(forgets))
        assert ended <= {"done", "failed", "cancelled"}, ended
        assert states <= {"certified"}, states
        assert len(documents) == wanted
        assert all(verify_certificate(document).valid for document in documents)


def entry_id_of(content: Content) -> EntryId:
    """Return an id made of the content, so that all runs of the story have the same."""
    import hashlib

    return EntryId(hashlib.sha256(content.body).hexdigest()[:32])


def compute(passage: PassageId) -> bytes:
    """Return what a reader keeps of a passage here."""
    return f"computed of {passage}".encode()


@dataclass(frozen=True)
class Scene:
    """A step of the story; ``play`` does it and what workers do about it."""

    name: str
    play: Callable[[Stage], None]


def _first_start(stage: Stage) -> None:
    stage.insist(lambda: None)  # opening is the scene


def _adopt(stage: Stage) -> None:
    """Not struck: give the tenant the key that all worlds share, so that names are comparable."""
    vault: Any = stage.house.lethe.kernel.vault
    stage.house.lethe.kernel.create_tenant(TENANT)
    vault.adopt_tenant_key(TENANT, KEY)
    stage.restart()


def _batch(stage: Stage) -> None:
    stage.tell(
        plain(1, external_id="p1"), secret(1, external_id="s1"), chat(2, "tidebound", external_id="c2")
    )
    stage.drain()


def _update(stage: Stage) -> None:
    stage.tell(plain(11, external_id="p1"))
    stage.drain()


def _markdown(stage: Stage) -> None:
    page = document(markdown(2, SECRET), "text/markdown", external_id="m2", subjects=("person:alice", "crew"))
    stage.tell(page)
    stage.drain()


def _again(stage: Stage) -> None:
    stage.tell(plain(11, external_id="p1"))
    stage.drain()


def _refused(stage: Stage) -> None:
    broken = Content(
        "document", "application/pdf", b"%PDF-1.7 no more than that", plain(9, external_id="x9").attributes
    )
    stage.tell(broken)
    del stage.told["x9"]
    stage.drain()


def _compact(stage: Stage) -> None:
    stage.insist(lambda: stage.house.lethe.work._queue(TENANT, COMPACT))
    stage.drain()


def _damaged(stage: Stage) -> None:
    """The disk damages a segment while the process is away."""
    stage.end()
    for path in (stage.folder / "index" / TENANT).glob("*.segment"):
        path.write_bytes(path.read_bytes()[:-2] + b"!!")
    stage.insist(lambda: None)
    _compact(stage)


def _crash(stage: Stage) -> None:
    """A process ends hard and leaves files that nobody will ask for."""
    stage.abandon()
    (stage.folder / "index" / TENANT / ".left.segment.part").write_bytes(b"half of it")
    stage.insist(lambda: None)
    stage.drain()


def _no_room(stage: Stage) -> None:
    """There is no room for the segment at first."""
    stage.tell(plain(12, external_id="p12"))
    stage.drain()
    refused = [OSError(ENOSPC, "No space left on device")]

    def sync(descriptor: int) -> None:
        if refused:
            raise refused.pop()

    with patch("retrieval.segments.os.fsync", sync):
        _compact(stage)


def _forget(stage: Stage) -> None:
    stage.forget(ALICE)
    stage.drain()


def _read(stage: Stage) -> None:
    """A reader keeps what it computed of all there is, and finds it."""

    def read() -> None:
        shelf = stage.house.lethe.shelves.of(TENANT)
        passages = [
            PassageId(f"{card.row.id}.0") for card in stage.house.lethe.indexes.get(TENANT).state.cards
        ]
        for passage in passages:
            if not shelf.find(READ, [passage], bytes):
                shelf.keep(READ, passage, compute(passage))
        assert shelf.find(READ, passages, bytes).keys() == set(passages)

    stage.insist(read)
    stage.drain()


def _rebuild(stage: Stage) -> None:
    stage.insist(lambda: stage.house.lethe.rebuild(TENANT))
    stage.drain()


def _restart(stage: Stage) -> None:
    stage.insist(stage.restart)
    stage.drain()


def _forget_one(stage: Stage) -> None:
    stage.forget(Scope(external_ids=("p1",)))
    stage.told.pop("p1", None)
    stage.drain()


SCENES = (
    Scene("first_start", _first_start),
    Scene("batch", _batch),
    Scene("update", _update),
    Scene("compact", _compact),
    Scene("markdown", _markdown),
    Scene("told_again", _again),
    Scene("refused", _refused),
    Scene("damaged_segment", _damaged),
    Scene("restart", _restart),
    Scene("crash", _crash),
    Scene("no_room", _no_room),
    Scene("read", _read),
    Scene("rebuild", _rebuild),
    Scene("forget", _forget),
    Scene("forget_document", _forget_one),
)


@dataclass
class Before:
    """What the steps before a scene left: folder, databases, and what was acknowledged."""

    folder: Path
    settings: dict[str, str]
    told: dict[str, str]
    forgotten: bool
    now_us: int
    points: list[str] = field(default_factory=list)
    after: dict[str, str] = field(default_factory=dict)
    """The digest that the undisturbed scene ends with."""
    epilogue: dict[str, str] = field(default_factory=dict)
    """And the one after everything of alice's is forgotten behind it."""


@dataclass
class Outcome:
    """One injected fault: where and what it was, and what did not hold afterwards."""

    kind: str
    place: str
    broken: str | None


class Theatre:
    """The scenes over one backend, each with what came before it and how it ends undisturbed."""

    def __init__(self, folder: Path, encoder: TextEncoder, server: Server | None) -> None:
        self.folder, self.encoder, self.server = folder, encoder, server
        self.backend = "sqlite" if server is None else "postgresql"
        self._keep = ExitStack()
        self._keep.enter_context(patch("service.lethe.TEND_SECONDS", 3600.0))
        self._keep.enter_context(patch("service.presence.RENEW_SECONDS", 3600.0))
        self._count = 0
        self.before: dict[str, Before] = {}
        self._rehearse()

    def _rehearse(self) -> None:
        (self.folder / "empty").mkdir(parents=True)
        settings = {}
        if self.server is not None:
            settings = {
                "database_url": self._keep.enter_context(self.server.database("data")),
                "keys_url": self._keep.enter_context(self.server.database("keys")),
            }
        before = Before(self.folder / "empty", settings, {}, False, AT_US)
        for scene in SCENES:
            self.before[scene.name] = before
            with self._stage(before, Strike(), keep=self._keep) as stage:
                self._open(scene, stage)
                with striking(stage.strike):
                    scene.play(stage)
                before.points = list(stage.strike.reached)
                if scene is SCENES[0]:
                    _adopt(stage)
                stage.restart()
                stage.drain()
                stage.check()
                before.after = stage.digest()
                stage.stop()
                following = Before(
                    stage.folder,
                    dict(stage.settings),
                    dict(stage.told),
                    stage.forgotten,
                    stage.now_us + 100_000 * STEP_US,
                )
            with self._stage(following, Strike()) as stage:
                stage.open()
                _forget(stage)
                before.epilogue = stage.digest()
            before = following

    @contextmanager
    def _stage(self, before: Before, strike: Strike, keep: ExitStack | None = None) -> Iterator[Stage]:
        """Yield a stage over a copy of what was before."""
        self._count += 1
        folder = self.folder / f"{self._count}"
        shutil.copytree(before.folder, folder)
        with ExitStack() as mine:
            held = keep or mine
            settings: dict[str, object] = {}
            if self.server is not None:
                settings = {
                    name: held.enter_context(self.server.copy(url)) for name, url in before.settings.items()
                }
            stage = Stage(folder, self.encoder, strike, **settings)
            stage.told, stage.forgotten, stage.now_us = dict(before.told), before.forgotten, before.now_us
            stage.next_id = self._count * 1_000_000
            with self._migrated(before):
                yield stage
            if stage._house is not None:
                stage.abandon()
            if keep is None:
                shutil.rmtree(folder)

    def _migrated(self, before: Before) -> AbstractContextManager[object]:
        """Spare every start but the first the look at a schema that is up to date."""
        if before is self.before[SCENES[0].name]:
            return nullcontext()
        return patch("service.wiring.upgrade_database")

    def _open(self, scene: Scene, stage: Stage) -> None:
        if scene is not SCENES[0]:
            stage.open()

    def list_faults(self, scene: Scene) -> list[tuple[int, str]]:
        """Return (number of the point, kind of fault), all that may happen in a scene."""
        points = self.before[scene.name].points
        return [(at, kind) for at, point in enumerate(points) for kind in self._list_kinds(scene, point)]

    def _list_kinds(self, scene: Scene, point: str) -> dict[str, Callable[[], BaseException | None]]:
        kinds = list_kinds(point, self.backend)
        if self.server is not None and point == "commit" and scene.name in ("batch", "forget"):
            kinds["backends_terminated"] = self.server.terminate
        return kinds

    def inject(self, scene: Scene, at: int, kind: str) -> Outcome:
        """Play a scene with one fault, and say what did not hold afterwards."""
        before = self.before[scene.name]
        point = before.points[at]
        strike = Strike(at, self._list_kinds(scene, point)[kind])
        place = f"{self.backend} {scene.name} {at} {point} {kind}"
        try:
            with self._stage(before, strike) as stage:
                self._open(scene, stage)
                with striking(strike):
                    scene.play(stage)
                    assert strike.has_struck, "the fault was never reached"
                    assert strike.reached[at] == point, f"not this point, but {strike.reached[at]}"
                    if scene is SCENES[0]:
                        _adopt(stage)
                    if kind != "death":
                        stage.clear_orphans()  # which else go with the next start
                    self._judge(stage, before.after, is_fresh=kind == "death")
                    if kind != "death":
                        # It came right without being started again; now it is.
                        stage.restart()
                        stage.drain()
                        self._judge(stage, before.after)
                    if at % 2 and not before.forgotten:
                        _forget(stage)
                        self._judge(stage, before.epilogue)
        except Exception as error:  # noqa: BLE001 - every one is reported
            import traceback

            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Outcome(kind, place, said[:500])
        return Outcome(kind, place, None)

    def _judge(self, stage: Stage, wanted: dict[str, str], *, is_fresh: bool = True) -> None:
        stage.check(is_fresh=is_fresh)
        different = differing(stage.digest(), wanted)
        assert not different, f"{' and '.join(different)} differ from the undisturbed run's"

    def close(self) -> None:
        self._keep.close()


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the stores whose digests differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def count(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Return how many faults were injected and survived, by kind."""
    injected = Counter(outcome.kind for outcome in outcomes)
    survived = Counter(outcome.kind for outcome in outcomes if outcome.broken is None)
    return {
        kind: {"injected": number, "survived": survived[kind]} for kind, number in sorted(injected.items())
    }
