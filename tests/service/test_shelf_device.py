"""Memories on the reader's device: held as their reader unpacked them, and let go of with those in memory.

The device is this machine's own memory, with a room of its own: the shelf does not know the difference.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from embedding.encoder import TextEncoder
from memory.errors import CorruptionError
from memory.ledger import Recipe
from memory.values import TenantId
from reader.checked import CheckedReader
from reader.language_model import LanguageModelWriter
from service.metrics import kv_lookups_total
from service.models import DEVICE_BYTES, count_device_bytes
from service.settings import Settings
from service.shelf_store import ShelfStore
from service.views import Scope
from tests.reader.tiny import tiny_model, tiny_tokenizer
from tests.service.harness import TENANT, House
from tests.service.test_shelves import (
    MARA,
    OTHER,
    RECIPE,
    SIZE,
    entry,
    files_of,
    in_memory,
    keep,
    on_disk,
    passage,
    payload,
    shelf_of,
    tell,
)

HELD = 4
"""So many lie on the device."""


class Reader:
    """Unpacks to tensors, and knows which of them are still somewhere."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []

    def unpack(self, payload: bytes) -> torch.Tensor:
        made = torch.frombuffer(bytearray(payload), dtype=torch.uint8).clone()
        self.made.append(weakref.ref(made))
        return made

    def find(self, house: House, numbers: Sequence[int], recipe: Recipe = RECIPE) -> set[int]:
        """Return which of these are found, compared."""
        house.clock.now_us += 1_000
        found = shelf_of(house).find(recipe, [passage(number) for number in numbers], self.unpack)
        for number in numbers:
            if passage(number) in found:
                assert bytes(found[passage(number)].numpy()) == payload(number)
        return {number for number in numbers if passage(number) in found}

    @property
    def living(self) -> int:
        """How many tensors anybody holds; what is dropped is gone at once."""
        return sum(ref() is not None for ref in self.made)


@pytest.fixture
def small(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder, kv_device_bytes=HELD * SIZE)
    yield opened
    opened.close()


def on_device(house: House) -> set[int]:
    sizes = house.lethe.shelves._device.sizes()
    return {int(kept.entry_id.lstrip("e") or "0", 16) for kept, _ in sizes}


def looked_up(tier: str) -> float:
    return kv_lookups_total.labels(tier)._value.get()  # type: ignore[no-any-return]


def test_what_is_asked_for_again_lies_unpacked_on_the_device(small: House) -> None:
    """What was only kept does not: most passages are read once."""
    tell(small, 2)
    keep(small, 0, 1)
    reader = Reader()
    before = {tier: looked_up(tier) for tier in ("device", "ram", "disk", "none")}
    assert on_device(small) == set()
    assert reader.find(small, [0]) == {0}
    assert reader.find(small, [0, 1]) == {0, 1}
    assert reader.find(small, [0, 1, 7]) == {0, 1}
    assert on_device(small) == {0, 1}
    assert (reader.living, len(reader.made)) == (2, 2), "each was unpacked once"
    counted = {tier: looked_up(tier) - before[tier] for tier in before}
    assert counted == {"device": 3, "ram": 2, "disk": 0, "none": 1}
    told: Any = small.lethe.stats(TENANT)["kv"]
    assert told["device"] == {"items": 2, "bytes": 2 * SIZE, "room": HELD * SIZE}


def test_from_disk_it_goes_to_memory_and_device(small: House) -> None:
    tell(small, 1)
    keep(small, 0)
    small.restart()
    reader = Reader()
    assert reader.find(small, [0]) == {0}
    assert in_memory(small) == on_device(small) == {0}


def test_without_room_it_holds_nothing(tmp_path: Path, encoder: TextEncoder) -> None:
    house = House(tmp_path / "data", encoder)
    tell(house, 1)
    keep(house, 0)
    reader = Reader()
    assert reader.find(house, [0]) == reader.find(house, [0]) == {0}
    assert (reader.living, len(reader.made)) == (0, 2)
    house.close()


def test_what_is_used_stays_and_all_has_its_room(small: House) -> None:
    """Looking through many passages pushes out none that is used; what goes is freed, and still found."""
    tell(small, 12)
    keep(small, *range(12))
    reader = Reader()
    for _ in range(2):
        assert reader.find(small, [0, 1]) == {0, 1}
    for number in range(2, 12):
        assert reader.find(small, [number]) == {number}
        assert small.lethe.shelves.device_bytes == SIZE * len(on_device(small)) <= HELD * SIZE
        assert reader.living == len(on_device(small))
    assert on_device(small) >= {0, 1}
    assert reader.find(small, range(12)) == set(range(12))


def test_one_larger_than_the_device_is_found_all_the_same(small: House) -> None:
    tell(small, 1)
    large = b"x" * (HELD + 1) * SIZE
    shelf_of(small).keep(RECIPE, passage(0), large)
    for _ in range(3):
        assert shelf_of(small).find(RECIPE, [passage(0)], bytes) == {passage(0): large}
    assert on_device(small) == set()


def test_a_forget_frees_the_device_when_it_is_acknowledged(small: House) -> None:
    """Before any job ran: it is gone with what is in memory, and comes there no more."""
    tell(small, 2)
    tell(small, 2, first=2, subjects=("person:mara",))
    keep(small, 0, 1, 2, 3)
    reader = Reader()
    reader.find(small, range(4))
    assert reader.living == 4

    small.clock.now_us += 1_000
    view = small.lethe.forget(TENANT, MARA, preview=False)

    assert reader.living == 2
    assert on_device(small) == in_memory(small) == {0, 1}
    assert reader.find(small, range(4)) == {0, 1}
    keep(small, 2, 3)
    assert reader.find(small, range(4)) == on_device(small) == {0, 1}
    told: Any = small.lethe.stats(TENANT)["kv"]
    assert told["device"]["items"] == 2
    small.waker.drain()
    assert small.lethe.get_forget(TENANT, view.id).state == "certified"
    assert on_disk(small) == {0, 1}


def test_a_forget_while_it_is_unpacked_leaves_nothing_behind(small: House) -> None:
    """The reading under way has what it asked for, until it ends; the device keeps none of it."""
    tell(small, 2, subjects=("person:mara",))
    keep(small, 0, 1)
    reader = Reader()

    def unpack(payload: bytes) -> torch.Tensor:
        if not reader.made:
            small.lethe.forget(TENANT, MARA, preview=False)
        return reader.unpack(payload)

    found = shelf_of(small).find(RECIPE, [passage(0), passage(1)], unpack)
    assert len(found) == reader.living == 2
    assert on_device(small) == in_memory(small) == set()
    del found
    assert reader.living == 0


def test_a_reading_under_way_keeps_what_it_has_and_no_longer(small: House) -> None:
    tell(small, 1, subjects=("person:mara",))
    keep(small, 0)
    reader = Reader()
    found = shelf_of(small).find(RECIPE, [passage(0)], reader.unpack)
    small.lethe.forget(TENANT, MARA, preview=False)
    assert bytes(found[passage(0)].numpy()) == payload(0)
    del found
    assert reader.living == 0


def test_nobody_else_reaches_it(small: House) -> None:
    """Neither another tenant nor another recipe is handed what lies there."""
    tell(small, 1)
    small.lethe.kernel.create_tenant(TenantId("other"))
    keep(small, 0)
    reader = Reader()
    reader.find(small, [0])
    assert on_device(small) == {0}
    other = shelf_of(small, TenantId("other"))
    assert not other.find(RECIPE, [passage(0)], reader.unpack)
    other.keep(RECIPE, passage(0), payload(0))
    assert not other.find(RECIPE, [passage(0)], reader.unpack)
    assert reader.find(small, [0], OTHER) == set()
    assert reader.find(small, [0], Recipe("kv", 2, RECIPE.parameters)) == set()
    told: Any = small.lethe.stats(TenantId("other"))["kv"]
    assert told["device"] == {"items": 0, "bytes": 0, "room": HELD * SIZE}
    assert small.lethe.shelves.count(TenantId("other"), {entry(0)}) == 0
    assert small.lethe.shelves.erase(TenantId("other"), {entry(0)}) == 0
    assert reader.find(small, [0]) == {0} and len(reader.made) == 1


def test_the_store_counts_it_and_takes_it_away(small: House) -> None:
    tell(small, 2)
    keep(small, 0, 1)
    reader = Reader()
    reader.find(small, [0, 1])
    store = next(store for store in small.lethe.stores if isinstance(store, ShelfStore))
    name = files_of(small)[0].name.split(".")[2]
    assert store.holds(TENANT, {name}) == 3, "on the device, in memory, on disk"
    assert store.erase(TENANT, {name}) == 3
    assert store.holds(TENANT, {name}) == 0
    assert reader.living == 1 and reader.find(small, [0, 1]) == {1}
    small.lethe.shelves.let_go_of_all()
    assert reader.living == 0


def test_what_cannot_be_unpacked_is_deleted(small: House) -> None:
    tell(small, 2)
    keep(small, 0, 1)
    reader = Reader()

    def unpack(held: bytes) -> torch.Tensor:
        if held == payload(0):
            raise CorruptionError("a memory that cannot be read")
        return reader.unpack(held)

    assert shelf_of(small).find(RECIPE, [passage(0), passage(1)], unpack).keys() == {passage(1)}
    assert on_device(small) == in_memory(small) == on_disk(small) == {1}


def test_what_is_made_anew_takes_the_place_of_what_was_there(small: House) -> None:
    tell(small, 1)
    shelf_of(small).keep(RECIPE, passage(0), b"of no use")
    assert shelf_of(small).find(RECIPE, [passage(0)], bytes) == {passage(0): b"of no use"}
    keep(small, 0)
    assert Reader().find(small, [0]) == {0}


def test_it_ends_with_the_service(small: House) -> None:
    tell(small, 1)
    keep(small, 0)
    reader = Reader()
    reader.find(small, [0])
    small.lethe.stop()
    assert reader.living == 0
    small.open()


@pytest.mark.parametrize("cuda", [True, False])
def test_it_has_room_by_default_where_there_is_a_cuda_device(
    cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert count_device_bytes(Settings(reader="some")) == (DEVICE_BYTES if cuda else 0)
    assert count_device_bytes(Settings(reader="extractive")) == 0
    assert count_device_bytes(Settings(reader="some", kv_device_bytes=5)) == 5
    assert count_device_bytes(Settings(reader="some", engine_url="http://127.0.0.1:1")) == 0


on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_a_model_answers_from_the_device_as_from_memory(
    device: str, tmp_path: Path, encoder: TextEncoder
) -> None:
    """The whole way: made, found in memory, found on the device, forgotten."""
    model = tiny_model().to(device)
    writer = LanguageModelWriter(model, tiny_tokenizer(), name="t", most_new_tokens=20, mark="m4rk")
    house = House(tmp_path / "data", encoder, CheckedReader(writer), kv_device_bytes=1 << 20)
    house.remember("The harbour bridge opened in 1932.", subjects=("person:mara",))
    shelves = house.lethe.shelves
    told, lookups = [], []
    for _ in range(3):
        before = looked_up("device")
        answered = house.lethe.answer(TENANT, "When did the harbour bridge open?")
        told.append(([claim.text for claim in answered.claims], answered.tokens))
        lookups.append(looked_up("device") - before)
    assert told[0] == told[1] == told[2]
    assert lookups == [0, 0, 1]
    ((_, memory),) = [(kept, shelves._device.get(kept)) for kept, _ in shelves._device.sizes()]
    parts = [memory.keys, memory.key_low, memory.key_step, memory.values, memory.value_low, memory.value_step]
    assert {part.device.type for part in parts} == {device}
    held = sum(part.nbytes for part in parts)
    assert held <= shelves.device_bytes < held + 1_000, "what lies there is counted by its payload"
    freed = weakref.ref(memory.keys)
    del memory, parts

    house.lethe.forget(TENANT, Scope(subjects=("person:mara",)), preview=False)

    assert freed() is None and shelves.device_bytes == 0
    house.close()
