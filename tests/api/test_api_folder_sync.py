"""A folder and the real service in step: over HTTP, whatever happens to the folder or in mid-sync."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

import httpx2
import pytest
import structlog
from doors import serving
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import api.folder_sync
from api.client import LetheClient
from api.client_errors import error_of
from api.folder_plan import METADATA_KEY, folder_filter, make_plan
from api.folder_scan import Item, Scanner
from api.folder_sync import FolderSync, Outcome, Patience
from embedding.encoder import TextEncoder
from memory.errors import ForbiddenError, InvalidInputError, UnavailableError
from tests.service.harness import House
from tests.tiny import build_tiny_encoder

NUMBERS = count()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    encoder = TextEncoder(build_tiny_encoder(tmp_path_factory.mktemp("model")), name="tiny")
    house = House(tmp_path_factory.mktemp("service") / "data", encoder)
    yield house
    house.close()


@contextmanager
def working(house: House) -> Iterator[None]:
    """Do the house's jobs as they come, in a thread."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            house.waker.drain()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def port(house: House) -> Iterator[int]:
    house.lethe.start = house.lethe.stop = lambda: None  # type: ignore[method-assign]
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the service runs in this process
    with serving(house.lethe) as port:
        yield port
    structlog.reset_defaults()
    del house.lethe.start, house.lethe.stop


@pytest.fixture(scope="module")
def client(house: House, port: int) -> Iterator[LetheClient]:
    key = (house.data / "admin.key").read_text().strip()
    with LetheClient(f"http://127.0.0.1:{port}", key) as client:
        yield client


@pytest.fixture
def requests(client: LetheClient, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    sent: list[tuple[str, str]] = []
    request = client._http.request

    def counting(method: str, path: str, **more: object) -> httpx2.Response:
        sent.append((method, path))
        return request(method, path, **more)

    monkeypatch.setattr(client._http, "request", counting)
    return sent


def new_sync(client: LetheClient, name: str, **said: object) -> FolderSync:
    return FolderSync(client, name, said, Patience(5, threading.Event()), lambda *_: None)  # type: ignore[arg-type]


def bring_in_step(client: LetheClient, name: str, root: Path, **said: object) -> Outcome:
    sync = new_sync(client, name, **said)
    sync.load()
    plan = sync.plan(Scanner(root).scan())
    sync.forget(plan.gone)
    return sync.carry_out(plan)


def held(client: LetheClient, name: str) -> list[tuple[str, str]]:
    """Return path and text of each document that the service has of a folder, sorted."""
    found = []
    for listed in client.iter_pending_documents(folder_filter(name)):
        document = client.get_document(listed["id"])
        said = document["metadata"][METADATA_KEY]
        assert said["sha256"] == sha256(document["text"].encode()).hexdigest()
        found.append((said["path"], document["text"]))
    return sorted(found)


def files(root: Path) -> list[tuple[str, str]]:
    return sorted(
        (path.relative_to(root).as_posix(), path.read_text()) for path in root.rglob("*") if path.is_file()
    )


def age(path: Path, nanoseconds: int) -> None:
    """Give a file an odd time long ago, which it may be known by."""
    moment = 1_700_000_000_123_456_789 + nanoseconds
    os.utime(path, ns=(moment, moment))


class Killed(BaseException):
    """The process ends here."""


def killed_at(client: LetheClient, index: int, *, after: bool, run: Callable[[], object]) -> None:
    """Run until the request of this index, which reaches the service (``after``) or not."""
    request, numbers = client._http.request, count()

    def dying(method: str, path: str, **more: object) -> httpx2.Response:
        number = next(numbers)
        if number > index or (number == index and not after):
            raise Killed
        response = request(method, path, **more)
        if number == index:
            raise Killed
        return response

    client._http.request = dying  # type: ignore[method-assign, assignment]
    try:
        run()
    except Killed:
        pass
    finally:
        client._http.request = request  # type: ignore[method-assign]


PATHS = st.sampled_from(["a.txt", "b.txt", "c.md", "x/a.txt", "x/b.txt", "x/y/a.txt", "z/a.txt"])
TEXTS = st.sampled_from([f"tide {number} of the harbour" for number in range(5)])


def test_the_service_holds_what_the_folder_holds(house: House, client: LetheClient) -> None:
    """Whatever is added, edited, moved or removed, and wherever a sync is killed: the next one brings it in
    step, and the one after that sends nothing."""

    class Folder(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.root = Path(tempfile.mkdtemp())
            self.name = f"folder-{next(NUMBERS)}"

        def teardown(self) -> None:
            shutil.rmtree(self.root)

        @rule(path=PATHS, text=TEXTS, old=st.booleans())
        def write(self, path: str, text: str, old: bool) -> None:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
            if old:
                age(self.root / path, next(NUMBERS))

        @precondition(lambda self: files(self.root))
        @rule(data=st.data(), to=PATHS)
        def move(self, data: st.DataObject, to: str) -> None:
            source = data.draw(st.sampled_from([path for path, _ in files(self.root)]))
            (self.root / to).parent.mkdir(parents=True, exist_ok=True)
            (self.root / source).rename(self.root / to)

        @precondition(lambda self: (self.root / "x").is_dir())
        @rule(to=st.sampled_from(["w", "z/x"]))
        def move_directory(self, to: str) -> None:
            shutil.rmtree(self.root / to, ignore_errors=True)
            (self.root / to).parent.mkdir(exist_ok=True)
            (self.root / "x").rename(self.root / to)

        @precondition(lambda self: files(self.root))
        @rule(data=st.data())
        def remove(self, data: st.DataObject) -> None:
            (self.root / data.draw(st.sampled_from([path for path, _ in files(self.root)]))).unlink()

        @rule(index=st.integers(0, 8), after=st.booleans())
        def sync_and_be_killed(self, index: int, after: bool) -> None:
            killed_at(client, index, after=after, run=lambda: bring_in_step(client, self.name, self.root))

        @rule()
        def sync(self) -> None:
            assert bring_in_step(client, self.name, self.root).failures == []
            assert held(client, self.name) == files(self.root)
            sync = new_sync(client, self.name)
            sync.load()
            plan = sync.plan(Scanner(self.root).scan())
            assert (plan.steps, plan.gone, plan.failed) == ([], [], {})

    with working(house):
        run_state_machine_as_test(
            Folder,
            settings=settings(
                max_examples=12,
                stateful_step_count=12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def make(root: Path, **texts: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
    return root


def ids_of(client: LetheClient, name: str) -> dict[str, tuple[str, int]]:
    return {
        document["metadata"][METADATA_KEY]["path"]: (document["id"], document["version"])
        for document in client.iter_pending_documents(folder_filter(name))
    }


def test_a_document_follows_its_content_to_another_name(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one", b="tide two")
    with working(house):
        bring_in_step(client, "moves", root)
        before = ids_of(client, "moves")
        (root / "a.txt").rename(root / "c.txt")
        make(root, a="tide three")  # the old name is taken at once, as when logs are rotated
        outcome = bring_in_step(client, "moves", root)
        after = ids_of(client, "moves")

    assert outcome.counts == {"renamed": 1, "new": 1, "unchanged": 1}
    assert after["c.txt"] == (before["a.txt"][0], 2)
    assert after["b.txt"] == before["b.txt"]
    assert after["a.txt"][0] not in {id for id, _ in before.values()}


def test_forgetting_by_external_id_takes_every_version_of_a_moved_file(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one")
    with working(house):
        bring_in_step(client, "moved", root)
        (root / "a.txt").rename(root / "c.txt")
        bring_in_step(client, "moved", root)
        client.forget({"external_ids": ["moved/a.txt"]}, wait=30)

        assert held(client, "moved") == []


def test_a_second_sync_asks_once_and_sends_nothing(
    house: House, client: LetheClient, requests: list[tuple[str, str]], tmp_path: Path
) -> None:
    root = make(tmp_path / "f", **{f"n{number}": f"tide {number}" for number in range(20)})
    with working(house):
        bring_in_step(client, "still", root)
    requests.clear()

    outcome = bring_in_step(client, "still", root)

    assert outcome.counts == {"unchanged": 20}
    assert requests == [("GET", "/v1/documents")]


def test_what_was_sent_but_is_not_indexed_is_waited_for_and_not_sent_again(
    house: House, client: LetheClient, requests: list[tuple[str, str]], tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one", b="tide two")
    killed_at(client, 2, after=True, run=lambda: bring_in_step(client, "early", root))
    assert list(client.iter_documents()) == [] or "early" not in {
        document["metadata"].get(METADATA_KEY, {}).get("folder") for document in client.iter_documents()
    }
    requests.clear()

    with working(house):
        outcome = bring_in_step(client, "early", root)
        assert held(client, "early") == files(root)

    assert outcome.counts == {"unchanged": 2}
    assert not [one for one in requests if one[0] != "GET"]


def test_subjects_said_later_are_added_and_those_said_before_are_kept(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one", b="tide two")
    with working(house):
        bring_in_step(client, "said", root, subjects=["sea"], user_id="ada")
        make(root, a="tide three")
        bring_in_step(client, "said", root)
        kept = [one["subjects"] for one in client.iter_pending_documents(folder_filter("said"))]
        outcome = bring_in_step(client, "said", root, subjects=["land"])
        said = [one["subjects"] for one in client.iter_pending_documents(folder_filter("said"))]

    assert kept == [["sea"]] * 2
    assert outcome.counts == {"updated": 2}
    assert said == [["land"]] * 2


def test_a_file_that_cannot_be_indexed_is_reported_each_time_and_leaves_the_others(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one", blank="   \n")
    (root / "broken.pdf").write_bytes(b"%PDF-1.4 no more than that")
    with working(house):
        for counts in ({"new": 1}, {"unchanged": 1}):
            outcome = bring_in_step(client, "bad", root)
            assert outcome.counts == counts
            assert sorted(path for path, _ in outcome.failures) == ["blank.txt", "broken.pdf"]
        assert held(client, "bad") == [("a.txt", "tide one")]


def test_size_and_time_spare_reading_and_fresh_files_are_read(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    """A file is read when its size or its time differs, or when it was too fresh to go by its time."""
    root = make(tmp_path / "f", old="tide one", touched="tide two", longer="tide three", fresh="tide four")
    for name in ("old", "touched", "longer"):
        age(root / f"{name}.txt", 0)
    with working(house):
        bring_in_step(client, "spared", root)
    (root / "touched.txt").write_text("tide TWO")
    age(root / "touched.txt", 1)
    (root / "longer.txt").write_text("tide three and more")
    age(root / "longer.txt", 0)
    read: list[str] = []

    def digest(item: Item) -> str:
        read.append(item.path)
        return item.digest()

    sync = new_sync(client, "spared")
    sync.load()
    plan = make_plan("spared", Scanner(root).scan(), sync.known.values(), {}, digest)

    assert sorted(read) == ["fresh.txt", "longer.txt", "touched.txt"]
    assert sorted(step.item.path for step in plan.steps) == ["longer.txt", "touched.txt"]


def test_what_cannot_be_looked_at_is_not_taken_for_gone(
    house: House, client: LetheClient, tmp_path: Path
) -> None:
    root = make(tmp_path / "f", a="tide one")
    make(root / "shut", b="tide two")
    with working(house):
        bring_in_step(client, "shut", root)
    sync = new_sync(client, "shut")
    sync.load()
    scan = Scanner(root).scan()
    del scan.items["shut/b.txt"]
    assert len(sync.plan(scan).gone) == 1
    scan.unread["shut"] = "Permission denied"

    plan = sync.plan(scan)

    assert (plan.gone, plan.failed) == ([], {"shut": "Permission denied"})


def test_the_listing_can_be_filtered_and_refuses_what_is_no_filter(client: LetheClient) -> None:
    assert list(client.iter_pending_documents({"metadata.none": 1})) == []
    with pytest.raises(InvalidInputError, match="filter"):
        list(client.iter_pending_documents({"none": 1}))
    with pytest.raises(InvalidInputError, match="filter: not JSON"):
        client._get("/v1/documents", filter="{")


class Server:
    """Answers like a service that is busy at first."""

    def __init__(self, *replies: Exception) -> None:
        self.replies = list(replies)

    def __call__(self) -> str:
        if self.replies:
            raise self.replies.pop(0)
        return "done"


def test_what_is_busy_is_asked_again_no_sooner_than_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", waits.append)
    busy = api.folder_sync.BusyError("later", 7.0)
    said: list[str] = []

    done = Patience(60, stop, said.append)(Server(busy, UnavailableError("away"), UnavailableError("away")))

    assert done == "done"
    assert waits[0] >= 7
    assert all(wait <= 60 for wait in waits)
    assert waits[1] < waits[2] < 7
    assert said == ["later; trying again"]
    with pytest.raises(ForbiddenError):
        Patience(60, stop)(Server(ForbiddenError("no")))
    with pytest.raises(UnavailableError):
        Patience(0, stop)(Server(UnavailableError("away"), UnavailableError("away")))


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read_from_the_reply(status: int) -> None:
    response = httpx2.Response(status, headers={"retry-after": "3"}, json={"detail": "slow down"})

    error = error_of(response)

    assert isinstance(error, api.folder_sync.BusyError)
    assert (str(error), error.retry_after_seconds) == ("slow down", 3.0)
