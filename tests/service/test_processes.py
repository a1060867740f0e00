"""Several processes over one PostgreSQL database and one data folder: what one does, the others show.

Each is a whole service of its own; only that they live in one test process is different.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from memory.errors import UnavailableError
from memory.ledger import Recipe
from memory.values import PassageId
from service import presence
from service.forgetting import DRAIN_SECONDS
from service.shelves import Shelves
from service.views import Scope
from tests.postgres import Server
from tests.service.harness import TENANT, House
from unlearning.certificate import verify_certificate

MARA = Scope(subjects=("person:mara",))
WAIT_SECONDS = 20.0


@pytest.fixture
def two(
    tmp_path: Path, encoder: TextEncoder, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[House, House]]:
    """Two services that keep up with each other only when a test says so."""
    monkeypatch.setattr("service.lethe.TEND_SECONDS", 3600.0)
    monkeypatch.setattr("service.presence.RENEW_SECONDS", 3600.0)
    with postgres.database("data") as data, postgres.database("keys") as keys:
        urls = {"database_url": data, "keys_url": keys, "kv_device_bytes": 1 << 20}
        first = House(tmp_path / "data", encoder, **urls)
        second = House(tmp_path / "data", encoder, **urls)
        second.ids.count = 1_000_000  # ids of its own
        second.clock = first.clock
        yield first, second
        second.close()
        first.close()


def texts(house: House, query: str = "ferry") -> set[str]:
    return {text for _, text, _ in house.found(query)}


def test_what_one_remembers_the_other_finds(two: tuple[House, House]) -> None:
    one, other = two
    assert texts(other) == set()
    one.remember("The ferry leaves at noon.")
    assert texts(other) == {"The ferry leaves at noon."}
    other.remember("The ferry is blue.", external_id="blue")
    one.remember("The ferry is red.", external_id="blue")
    assert texts(one) == texts(other) == {"The ferry leaves at noon.", "The ferry is red."}


def test_a_fence_holds_in_every_process_at_once(two: tuple[House, House]) -> None:
    """Before the other process has heard of it in any other way."""
    one, other = two
    one.remember("Mara takes the ferry.", subjects=("person:mara",))
    one.remember("The ferry leaves at noon.")
    held = other.lethe.recall(TENANT, "ferry")
    one.lethe.forget(TENANT, MARA, preview=False)

    with other.lethe.reading(TENANT):
        checked = other.lethe.recheck_recall(TENANT, held)
    assert {hit.text for hit in checked.hits} == {"The ferry leaves at noon."}
    assert texts(other) == {"The ferry leaves at noon."}


def test_a_reader_in_one_process_holds_up_the_fence_of_another(two: tuple[House, House]) -> None:
    one, other = two
    one.remember("Mara takes the ferry.", subjects=("person:mara",))
    fenced = threading.Event()

    def forget() -> None:
        one.lethe.forget(TENANT, MARA, preview=False)
        fenced.set()

    thread = threading.Thread(target=forget)
    with other.lethe.reading(TENANT):
        thread.start()
        assert not fenced.wait(0.5), "acknowledged while a reply was being handed over"
    assert fenced.wait(WAIT_SECONDS)
    thread.join()


def test_a_request_is_certified_when_every_process_has_let_go(two: tuple[House, House]) -> None:
    """The word index and the vectors of the other process would otherwise still hold what went."""
    one, other = two
    for at in range(5):
        one.remember(f"Mara takes ferry {at}.", subjects=("person:mara",))
        one.remember(f"The ferry number {at} leaves at noon.")
    assert len(texts(other)) == 10
    view = one.lethe.forget(TENANT, MARA, preview=False)
    job = threading.Thread(target=one.waker.drain)
    job.start()
    while one.lethe.get_forget(TENANT, view.id).state == "fenced":
        time.sleep(0.01)
    time.sleep(0.5)
    assert one.lethe.get_forget(TENANT, view.id).state == "erasing", "it waits for the other process"
    assert len(texts(other)) == 5

    other.lethe.indexes.keep_up()
    job.join(WAIT_SECONDS)
    assert one.lethe.get_forget(TENANT, view.id).state == "certified"
    assert verify_certificate(one.lethe.get_certificate(TENANT, view.id)).valid
    assert one.found("ferry") == other.found("ferry")
    assert one.digest() == other.digest()
    words = list((one.data / "index" / TENANT / "words").iterdir())
    assert len(words) == 2, "one word index a process, and none that nobody uses"


READ = Recipe("kv", 1, {"model": "of the tests"})
FERRIES = [PassageId(f"{letter * 32}.0") for letter in "ab"]


def tell_and_read(one: House, other: House) -> None:
    """One remembers two things; in the other a reader keeps what it computed of them, on its device, too."""
    one.remember("Mara takes the ferry.", entry_id="a" * 32, subjects=("person:mara",))
    one.remember("The ferry leaves at noon.", entry_id="b" * 32)
    for ferry in FERRIES:
        other.lethe.shelves.of(TENANT).keep(READ, ferry, b"computed of " + ferry.encode())
    assert read(other) == FERRIES
    assert held_by(other) == (2 * len(b"computed of " + FERRIES[0].encode()),) * 2


def held_by(house: House) -> tuple[int, int]:
    """Return the bytes held on the device and in memory."""
    return house.lethe.shelves.device_bytes, house.lethe.shelves.ram_bytes


def read(house: House) -> list[PassageId]:
    """Return what a reader finds, compared."""
    found = house.lethe.shelves.of(TENANT).find(READ, FERRIES, bytes)
    assert all(payload == b"computed of " + ferry.encode() for ferry, payload in found.items())
    return sorted(found)


def test_what_a_reader_kept_in_one_process_is_found_in_the_other(two: tuple[House, House]) -> None:
    one, other = two
    tell_and_read(one, other)
    assert read(one) == FERRIES, "from the disk"
    one.lethe.forget(TENANT, MARA, preview=False)
    assert read(other) == read(one) == FERRIES[1:], "the fence holds in both at once"
    assert other.lethe.stats(TENANT)["kv"]["disk"]["items"] == 1  # type: ignore[index,call-overload]


@pytest.mark.parametrize("lets_go", [True, False], ids=["as built", "without letting go"])
def test_no_process_holds_in_memory_what_is_certified(
    lets_go: bool, two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate waits for the other process, whose memory lets go first; the control shows what for."""
    one, other = two
    tell_and_read(one, other)
    held = held_by(other)
    if not lets_go:
        monkeypatch.setattr(Shelves, "let_go", lambda self, tenant_id: None)
    view = one.lethe.forget(TENANT, MARA, preview=False)
    job = threading.Thread(target=one.waker.drain)
    job.start()
    while one.lethe.get_forget(TENANT, view.id).state == "fenced":
        time.sleep(0.01)
    time.sleep(0.5)
    assert one.lethe.get_forget(TENANT, view.id).state == "erasing", "it waits for the other process"
    assert held_by(other) == held

    other.lethe.indexes.keep_up()
    job.join(WAIT_SECONDS)
    assert one.lethe.get_forget(TENANT, view.id).state == "certified"
    assert held_by(other) == (tuple(size // 2 for size in held) if lets_go else held)
    assert len(list((one.data / "kv" / TENANT).iterdir())) == 1
    assert read(other) == read(one) == FERRIES[1:]


def test_a_process_that_was_away_lets_go_of_all_that_readers_kept(
    two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others certified without it; and what it was about to keep when it noticed is not kept."""
    one, other = two
    tell_and_read(one, other)
    view = one.lethe.forget(TENANT, MARA, preview=False)
    one.clock.now_us += int((presence.PRESENT_SECONDS + 1) * 1_000_000)
    one.lethe.indexes.presence.renew()
    one.waker.drain()
    assert one.lethe.get_forget(TENANT, view.id).state == "certified"
    assert all(held_by(other)), "it sleeps"
    follow = Shelves._follow

    def follow_and_sleep(self: Shelves, tenant_id: object) -> int:
        emptied = follow(self, tenant_id)  # type: ignore[arg-type]
        monkeypatch.setattr(other.lethe.indexes.presence, "_renewed_at", time.monotonic() - 3600)
        assert texts(other) == {"The ferry leaves at noon."}
        return emptied

    with monkeypatch.context() as sleeping:
        sleeping.setattr(Shelves, "_follow", follow_and_sleep)
        assert read(other) == FERRIES[1:]
    assert held_by(other) == (0, 0)
    assert read(other) == FERRIES[1:] and all(held_by(other))


def test_a_process_that_ended_holds_nothing_up(
    two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped hard: after its time it counts as gone, and its files go."""
    one, other = two
    one.remember("Mara takes the ferry.", subjects=("person:mara",))
    assert texts(other)
    view = one.lethe.forget(TENANT, MARA, preview=False)
    one.clock.now_us += int((presence.PRESENT_SECONDS + 1) * 1_000_000)
    one.lethe.indexes.presence.renew()
    one.waker.drain()
    assert one.lethe.get_forget(TENANT, view.id).state == "certified"
    assert len(list((one.data / "index" / TENANT / "words").iterdir())) == 1

    monkeypatch.setattr(other.lethe.indexes.presence, "_renewed_at", time.monotonic() - 3600)
    assert texts(other) == set(), "should it wake up again, it opens everything anew"
    assert other.digest() == one.digest()


def test_a_process_that_starts_while_another_clears_up_keeps_what_it_made(
    two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is there just after the other asked who is."""
    one, other = two
    one.remember("The ferry leaves at noon.")
    other.lethe.indexes.close()
    list_living = presence.Presence.list_living
    starting = iter([other])

    def list_just_before(asked: presence.Presence) -> set[str]:
        living = list_living(asked)
        for house in starting:
            house.lethe.indexes.get(TENANT)
        return living

    monkeypatch.setattr(presence.Presence, "list_living", list_just_before)
    one.lethe.indexes.rewrite(TENANT)
    assert other.lethe.indexes.get(TENANT).folder.exists()
    one.remember("The ferry is blue.")
    assert texts(other) == {"The ferry leaves at noon.", "The ferry is blue."}


def test_a_process_that_ends_while_another_clears_up_is_in_nobodys_way(
    two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.remember("The ferry leaves at noon.")
    assert texts(other)
    list_living = presence.Presence.list_living

    def list_just_after(asked: presence.Presence) -> set[str]:
        other.lethe.indexes.close()
        return list_living(asked)

    monkeypatch.setattr(presence.Presence, "list_living", list_just_after)
    one.lethe.indexes.rewrite(TENANT)
    assert len(list((one.data / "index" / TENANT / "words").iterdir())) == 1


def test_a_process_that_never_lets_go_is_named_and_the_request_is_tried_again(
    two: tuple[House, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    assert DRAIN_SECONDS > presence.PRESENT_SECONDS, "a dead process is waited out"
    monkeypatch.setattr("service.forgetting.DRAIN_SECONDS", 0.2)
    one.remember("Mara takes the ferry.", subjects=("person:mara",))
    assert texts(other)
    view = one.lethe.forget(TENANT, MARA, preview=False)
    one.waker.drain()
    told = one.lethe.get_forget(TENANT, view.id)
    assert told.state == "fenced"
    assert told.error is not None and told.error["title"] == UnavailableError.__name__
    assert "1 other process" in str(told.error["detail"])

    other.lethe.indexes.keep_up()
    one.clock.now_us += 600 * 1_000_000
    one.lethe.indexes.presence.renew()
    other.lethe.indexes.presence.renew()
    one.waker.drain()
    assert one.lethe.get_forget(TENANT, view.id).state == "certified"


def test_two_that_remember_the_same_thing_at_once_make_one_version(two: tuple[House, House]) -> None:
    one, other = two
    ready = threading.Barrier(2)

    def tell(house: House) -> None:
        for at in range(8):
            ready.wait()
            house.remember(f"The ferry, told {at} times.", external_id="ferry")

    threads = [threading.Thread(target=tell, args=(house,)) for house in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (source,) = one.lethe.list_sources(TENANT, kind="document", user_id=None, cursor=None, limit=9).items
    assert source.version == 8
    assert texts(one) == texts(other) == {"The ferry, told 7 times."}


def test_a_process_that_opens_a_large_index_is_present_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the others would take it for ended, and it would open anew for ever."""
    house.lethe.indexes.presence.stop()
    house.remember("The ferry leaves at noon.")
    monkeypatch.setattr(presence, "PRESENT_SECONDS", 0.4)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.05)
    load = house.lethe.indexes._load

    def load_slowly(*given: object) -> object:
        time.sleep(1.0)
        return load(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(house.lethe.indexes, "_load", load_slowly)
    house.lethe.indexes.presence = presence.Presence(house.lethe.kernel)
    house.lethe.indexes.presence.start()
    opened = house.lethe.indexes.reopen(TENANT)
    assert not house.lethe.indexes.presence.has_lapsed
    assert house.lethe.indexes.get(TENANT) is opened
