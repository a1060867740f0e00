"""What readers computed of passages: found again, within its room, and gone with what it was made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from embedding.encoder import TextEncoder
from memory.errors import InvalidInputError
from memory.faults import striking
from memory.ledger import Recipe
from memory.ports import Shelf
from memory.values import PassageId, TenantId
from service import doctor
from service.backup import write_backup
from service.shelf_files import SHELF_FOLDER
from service.shelf_store import ShelfStore
from service.views import Scope
from tests.service.harness import TENANT, House

RECIPE = Recipe("kv", 1, {"model": "sha256:one", "class": "cpu"})
OTHER = Recipe("kv", 1, {"model": "sha256:two", "class": "cpu"})
MARA = Scope(subjects=("person:mara",))
SIZE = 1_000
SEALED = SIZE + 28
"""A nonce and a tag more."""


def entry(number: int) -> str:
    return f"{number:x}".rjust(32, "e")


def passage(number: int, index: int = 0) -> PassageId:
    return PassageId(f"{entry(number)}.{index}")


def payload(number: int, index: int = 0) -> bytes:
    return f"what was computed of {number}.{index} ".encode().ljust(SIZE, b"x")


def tell(house: House, count: int, *, first: int = 0, **attributes: Any) -> None:
    for number in range(first, first + count):
        house.remember(f"The ferry number {number} leaves at noon.", entry_id=entry(number), **attributes)


def shelf_of(house: House, tenant_id: TenantId = TENANT) -> Shelf:
    return house.lethe.shelves.of(tenant_id)


def find(house: House, numbers: Sequence[int], recipe: Recipe = RECIPE) -> set[int]:
    """Return which of these are found, their payloads compared."""
    house.clock.now_us += 1_000
    found = shelf_of(house).find(recipe, [passage(number) for number in numbers], bytes)
    assert all(found[passage(number)] == payload(number) for number in numbers if passage(number) in found)
    return {number for number in numbers if passage(number) in found}


def keep(house: House, *numbers: int, recipe: Recipe = RECIPE) -> None:
    for number in numbers:
        house.clock.now_us += 1_000
        shelf_of(house).keep(recipe, passage(number), payload(number))


def files_of(house: House) -> list[Path]:
    return sorted(path for path in (house.data / SHELF_FOLDER).rglob("*") if path.is_file())


def on_disk(house: House) -> set[int]:
    return {int(path.name.partition(".")[0].lstrip("e") or "0", 16) for path in files_of(house)}


def in_memory(house: House) -> set[int]:
    sizes = house.lethe.shelves._memory.sizes()
    return {int(kept.entry_id.lstrip("e") or "0", 16) for kept, _ in sizes}


@pytest.fixture
def small(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    """Ten in memory, sixteen on disk."""
    opened = House(tmp_path / "data", encoder, kv_ram_bytes=10 * SIZE, kv_disk_bytes=16 * SEALED)
    yield opened
    opened.close()


def test_what_is_kept_is_found_until_the_memory_is_gone_and_then_from_disk(house: House) -> None:
    tell(house, 3)
    assert find(house, [0, 1, 2]) == set()
    keep(house, 0, 1)
    assert find(house, [0, 1, 2]) == {0, 1}
    house.restart()
    assert in_memory(house) == set()
    assert find(house, [0, 1, 2]) == {0, 1}
    assert in_memory(house) == {0, 1}


def test_a_name_is_of_its_tenant_its_passage_and_its_recipe(house: House) -> None:
    """None is found by another; the same is found by an equal recipe made anew."""
    tell(house, 2)
    house.lethe.kernel.create_tenant(TenantId("other"))
    keep(house, 0)
    again = Recipe(RECIPE.name, RECIPE.version, dict(RECIPE.parameters))
    assert find(house, [0], again) == {0}
    assert find(house, [0], OTHER) == find(house, [0], Recipe("kv", 2, RECIPE.parameters)) == set()
    assert find(house, [1]) == set()
    assert not shelf_of(house).find(RECIPE, [passage(0, 1)], bytes)
    other = shelf_of(house, TenantId("other"))
    assert not other.find(RECIPE, [passage(0)], bytes)
    other.keep(RECIPE, passage(0), b"of another tenant")
    assert not other.find(RECIPE, [passage(0)], bytes), "the entry is not its own"
    shelf_of(house).keep(RECIPE, passage(7), b"of no entry")
    assert not shelf_of(house).find(RECIPE, [passage(7)], bytes)
    assert len(files_of(house)) == 1
    for wrong in ("", "e1", "e1.", ".1", "e1.-1", "e1.x"):
        with pytest.raises(InvalidInputError):
            shelf_of(house).find(RECIPE, [PassageId(wrong)], bytes)


def test_files_are_sealed_and_no_backup_holds_them(house: House) -> None:
    tell(house, 1)
    keep(house, 0)
    (file,) = files_of(house)
    held = file.read_bytes()
    file.with_name(file.name.replace(".0.", ".1.")).write_bytes(held)
    assert not shelf_of(house).find(RECIPE, [passage(0, 1)], bytes), "of another passage of the same entry"
    file.with_name(file.name.replace(".0.", ".1.")).unlink()
    assert b"computed" not in held and len(held) == SEALED
    kernel = house.lethe.kernel
    vault: Any = kernel.vault
    copy = house.data.parent / "copy"
    write_backup(kernel.database, vault, copy, clock=house.clock, version="0")
    kept_one = file.name.split(".")[2]
    assert kept_one.encode() not in copy.read_bytes()
    # Its key destroyed, it is of no use, wherever a copy may lie.
    vault.destroy_keys(TENANT, [entry(0)])
    house.lethe.shelves.let_go_of_all()
    assert find(house, [0]) == set()


def test_a_forget_takes_it_from_memory_and_disk_and_counts_it(house: House) -> None:
    tell(house, 2)
    tell(house, 2, first=2, subjects=("person:mara",))
    keep(house, 0, 1, 2, 3)
    before = house.digest()
    house.clock.now_us += 1_000
    view = house.lethe.forget(TENANT, MARA, preview=False)

    assert in_memory(house) == {0, 1}, "memory lets go with the fence"
    assert find(house, [0, 1, 2, 3]) == {0, 1}, "and nothing is read from disk"
    keep(house, 2, 3)
    assert in_memory(house) == {0, 1}, "nor put there"
    assert house.lethe.stats(TENANT)["kv"]["disk"]["items"] == 2, "nor counted"  # type: ignore[index,call-overload]
    house.waker.drain()
    assert on_disk(house) == {0, 1}
    document: Any = house.lethe.get_certificate(TENANT, view.id)
    (told,) = [store for store in document["payload"]["stores"] if store["name"] == "kv"]
    assert told["erased"] == 2 and told["remaining"] == 0
    keep(house, 2, 3)
    assert find(house, [0, 1, 2, 3]) == {0, 1}
    assert house.digest()["kv"] == before["kv"], "it is no part of what twins compare"


def test_forgetting_by_name_takes_one(house: House) -> None:
    """A store erases by artifact names, too."""
    tell(house, 2)
    keep(house, 0, 1)
    name = files_of(house)[0].name.split(".")[2]
    store = next(store for store in house.lethe.stores if isinstance(store, ShelfStore))
    assert store.holds(TENANT, {name}) == 2, "one in memory, one on disk"
    assert store.holds(TENANT, {entry(0), entry(1), name}) == 4
    assert store.holds(TenantId("other"), {entry(0), name}) == 0
    assert store.erase(TENANT, {name}) == 2
    assert store.erase(TENANT, {name}) == 0
    assert find(house, [0, 1]) == {1}


def test_an_update_keeps_the_old_version_apart(house: House) -> None:
    """The new version is another entry: nothing of the old is found for it, and the old one may be asked for."""
    house.remember("The ferry is blue.", entry_id=entry(0), external_id="ferry")
    keep(house, 0)
    house.clock.now_us += 1_000_000
    house.remember("The ferry is red.", entry_id=entry(1), external_id="ferry")
    assert find(house, [0, 1]) == {0}
    keep(house, 1)
    assert find(house, [0, 1]) == {0, 1}


def test_rebuilding_keeps_it_and_another_recipe_drops_it(house: House) -> None:
    """A passage is the same when it is derived again; another model or parser makes other names."""
    tell(house, 2)
    keep(house, 0, 1)
    keep(house, 1, recipe=OTHER)
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    house.restart()
    house.lethe.shelves.retain([RECIPE, OTHER])
    assert find(house, [0, 1]) == {0, 1} and find(house, [1], OTHER) == {1}
    house.restart()
    house.lethe.shelves.retain([OTHER])
    assert find(house, [0, 1]) == set() and find(house, [1], OTHER) == {1}
    recipes: Any = house.lethe.indexes.recipes
    house.restart()
    object.__setattr__(house.lethe.indexes, "recipes", _with_parse(recipes, Recipe("parse", 99)))
    house.lethe.shelves.retain([OTHER])
    assert files_of(house) == []


def _with_parse(recipes: Any, parse: Recipe) -> Any:
    from dataclasses import replace

    return replace(recipes, parse=parse)


def test_damaged_and_foreign_files_are_noticed_and_deleted(house: House) -> None:
    tell(house, 4)
    keep(house, 0, 1, 2, 3)
    house.lethe.stop()
    torn, altered, moved, kept_one = files_of(house)
    torn.write_bytes(torn.read_bytes()[:-5])
    altered.write_bytes(altered.read_bytes()[:-1] + b"!")
    moved.write_bytes(kept_one.read_bytes())
    foreign = kept_one.parent / "notes.txt"
    foreign.write_text("left behind")
    half = kept_one.with_suffix(f".{'0' * 16}ab.part")
    half.write_bytes(b"half of it")
    nobodys = kept_one.with_name(kept_one.name.replace(entry(3), entry(9)))
    nobodys.write_bytes(b"of an entry that is gone")
    house.open()
    assert files_of(house) == [torn, altered, moved, kept_one]
    assert find(house, [0, 1, 2, 3]) == {3}
    assert files_of(house) == [kept_one]
    keep(house, 0)
    assert find(house, [0]) == {0}


def test_what_was_used_stays_in_memory_and_all_has_its_room(small: House) -> None:
    tell(small, 40)
    keep(small, *range(6))
    assert find(small, range(6)) == set(range(6))
    keep(small, *range(6, 40))
    assert in_memory(small) >= set(range(6))
    assert len(in_memory(small)) == 10
    assert on_disk(small) == set(range(14)), "seven eighths are filled with what comes"
    assert sum(path.stat().st_size for path in files_of(small)) <= 16 * SEALED


def test_on_a_full_disk_a_second_use_counts_and_the_least_used_goes(small: House) -> None:
    tell(small, 40)
    keep(small, *range(14))
    keep(small, 20, 21)
    assert on_disk(small) == set(range(14)), "these may never be asked for again"
    assert find(small, [20]) == {20}
    assert on_disk(small) == {*range(14), 20}
    keep(small, *range(22, 34))
    assert find(small, [21]) == set(), "its turn came"
    keep(small, 21)
    assert on_disk(small) == {*range(14), 20, 21}, "it came again"
    assert find(small, [0]) == {0}
    small.lethe.shelves.let_go_of_all()
    assert find(small, [0]) == {0}, "its file is used now"
    keep(small, 35)
    assert find(small, [35]) == {35}
    assert on_disk(small) == {0, *range(4, 14), 20, 21, 35}, "room is made down to seven eighths"


def test_without_memory_all_is_on_disk_and_without_disk_all_in_memory(
    tmp_path: Path, encoder: TextEncoder
) -> None:
    house = House(tmp_path / "data", encoder, kv_ram_bytes=0)
    tell(house, 2)
    keep(house, 0)
    assert find(house, [0, 1]) == {0} and in_memory(house) == set()
    house.close()
    house = House(tmp_path / "data", encoder, kv_disk_bytes=0)
    assert files_of(house) == [], "what is more than the room goes with the start"
    keep(house, 0)
    assert find(house, [0, 1]) == {0} and files_of(house) == []
    house.close()


def test_it_is_off_without_room_and_with_an_engine_and_says_so(tmp_path: Path, encoder: TextEncoder) -> None:
    house = House(tmp_path / "data", encoder)
    tell(house, 1)
    keep(house, 0)
    told: Any = house.lethe.stats(TENANT)["kv"]
    assert told["off"] is None
    assert told["ram"] == {"items": 1, "bytes": SIZE, "room": 1 << 30}
    assert told["disk"] == {"items": 1, "bytes": SEALED, "room": 1 << 30}
    house.close()
    off: tuple[dict[str, Any], ...] = (
        {"kv_ram_bytes": 0, "kv_disk_bytes": 0},
        {"engine_url": "http://127.0.0.1:1"},
    )
    for settings, why in zip(off, ("no room", "in an engine"), strict=True):
        house = House(tmp_path / "data", encoder, **settings)
        keep(house, 0)
        assert find(house, [0]) == set() and files_of(house) == []
        told = house.lethe.stats(TENANT)["kv"]
        assert why in told["off"]
        assert told["ram"] == told["disk"] == {"items": 0, "bytes": 0, "room": 0}
        house.close()


def test_one_that_is_larger_than_its_room_is_kept_nowhere(small: House) -> None:
    tell(small, 2)
    keep(small, 0)
    large = b"x" * 20 * SIZE
    for _ in range(3):
        shelf_of(small).keep(RECIPE, passage(1), large)
        assert not shelf_of(small).find(RECIPE, [passage(1)], bytes)
    assert find(small, [0]) == {0}


def test_a_full_disk_takes_nothing_and_nobody_fails(house: House) -> None:
    tell(house, 2)

    def strike(name: str) -> None:
        if name in ("kv.write", "kv.rename"):
            raise OSError(ENOSPC, "No space left on device")

    with striking(strike):
        keep(house, 0)
        assert find(house, [0]) == {0}
    assert files_of(house) == []
    assert find(house, [0]) == {0}
    assert on_disk(house) == {0}, "used again, it is written when there is room"


def test_two_threads_that_keep_the_same_thing_leave_one_file(house: House) -> None:
    tell(house, 4)
    begun = threading.Barrier(4)

    def work() -> None:
        begun.wait()
        for number in (0, 1, 2, 3) * 5:
            if not shelf_of(house).find(RECIPE, [passage(number)], bytes):
                shelf_of(house).keep(RECIPE, passage(number), payload(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files_of(house)) == 4
    assert find(house, range(4)) == {0, 1, 2, 3}


def test_the_doctor_tells_bytes_and_foreign_files(small: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(small, 12)
    keep(small, *range(12))
    looked = doctor.look_at_shelf(doctor.Visit(small.settings))
    assert looked.state == "ok" and looked.detail.startswith("12 key/value memories")
    less = small.settings.model_copy(update={"kv_disk_bytes": SEALED})
    assert doctor.look_at_shelf(doctor.Visit(less)).state == "warning"
    assert doctor.look_at_files(doctor.Visit(small.settings)).state == "ok"
    (small.data / SHELF_FOLDER / TENANT / "dump.kv").write_text("left behind")
    assert "dump.kv" in doctor.look_at_files(doctor.Visit(small.settings)).detail
