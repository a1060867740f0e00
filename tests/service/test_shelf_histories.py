"""Random histories of a shelf against a dictionary: what is found is what was kept, and nothing forgotten.

Where there is room for all, everything is found but what a fault took; where there is little, a part of it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embedding.encoder import TextEncoder
from memory.faults import striking
from memory.ledger import Recipe
from memory.values import EntryId, PassageId, TenantId
from service.shelf_files import SHELF_FOLDER
from service.shelf_store import ShelfStore
from service.views import Scope
from tests.service.harness import House, text_content

RECIPE = Recipe("kv", 1, {"model": "sha256:one"})
ROOMS = {"large": (20_000, 20_000, 40_000), "small": (700, 1_200, 2_400)}
"""On the device, in memory, on disk."""
EXAMPLES = 12


class Killed(BaseException):
    """What the end of a process looks like from inside."""


def payload_of(passage: PassageId) -> bytes:
    return (f"computed of {passage} " * 30).encode()[: 100 + hash_of(passage) % 300]


def hash_of(passage: PassageId) -> int:
    return sum(map(ord, passage)) * 7919


_HOUSE: House | None = None
_SERIAL = 0


@pytest.fixture(params=ROOMS)
def house(encoder: TextEncoder, request: pytest.FixtureRequest) -> Iterator[House]:
    global _HOUSE
    rooms = dict(zip(("kv_device_bytes", "kv_ram_bytes", "kv_disk_bytes"), ROOMS[request.param], strict=True))
    # Hundreds of steps sync thousands of times; what a sync survives is tested elsewhere.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lethe-shelf-", dir=memory) as folder:
        _HOUSE = House(Path(folder) / "data", encoder, **rooms)
        yield _HOUSE
        _HOUSE.close()


class Histories(RuleBasedStateMachine):
    """One history on a tenant of its own."""

    @initialize()
    def begin(self) -> None:
        global _SERIAL
        _SERIAL += 1
        assert _HOUSE is not None
        self.house = _HOUSE
        self.tenant_id = TenantId(f"t{_SERIAL}")
        self.house.lethe.kernel.create_tenant(self.tenant_id)
        self.entries: list[str] = []
        self.names: dict[str, str] = {}
        self.kept: set[PassageId] = set()
        self.forgotten: set[str] = set()
        self.uncertified: list[str] = []

    @property
    def is_large(self) -> bool:
        return self.house.lethe.shelves.files.room == ROOMS["large"][-1]

    @property
    def folder(self) -> Path:
        return self.house.data / SHELF_FOLDER / self.tenant_id

    def shelf(self) -> Any:
        self.house.clock.now_us += 1_000
        return self.house.lethe.shelves.of(self.tenant_id)

    @precondition(lambda self: len(self.entries) < 12)
    @rule(count=st.integers(1, 4))
    def tell(self, count: int) -> None:
        for _ in range(count):
            entry_id = f"{_SERIAL:08x}{len(self.entries):08x}".rjust(32, "e")
            self.house.ids.given = [entry_id]
            name = f"ferry {len(self.entries)} of {_SERIAL}"
            content = text_content(f"The {name} leaves at noon.", external_id=name)
            self.house.lethe.remember(self.tenant_id, [content])
            self.entries.append(entry_id)
            self.names[entry_id] = name
        self.house.waker.drain()
        self.uncertified.clear()

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), index=st.integers(0, 1))
    def keep(self, data: Any, index: int) -> None:
        entry_id = data.draw(st.sampled_from(self.entries))
        passage = PassageId(f"{entry_id}.{index}")
        self.shelf().keep(RECIPE, passage, payload_of(passage))
        if entry_id not in self.forgotten:
            self.kept.add(passage)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def find(self, data: Any) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.entries), min_size=1, max_size=6))
        self._check([PassageId(f"{entry_id}.{index}") for entry_id in chosen for index in (0, 1)])

    def _check(self, passages: list[PassageId]) -> None:
        found = self.shelf().find(RECIPE, passages, bytes)
        assert found.keys() <= self.kept
        assert all(payload == payload_of(passage) for passage, payload in found.items())
        if self.is_large:
            assert found.keys() == self.kept & set(passages)
        shelves = self.house.lethe.shelves
        assert shelves.device_bytes <= shelves._device.room
        assert shelves.ram_bytes <= shelves._memory.room
        assert sum(path.stat().st_size for path in self.folder.glob("*")) <= shelves.files.room

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), drain=st.booleans())
    def forget(self, data: Any, drain: bool) -> None:
        entry_id = data.draw(st.sampled_from(self.entries))
        self.house.clock.now_us += 1_000
        scope = Scope(external_ids=(self.names[entry_id],))
        view = self.house.lethe.forget(self.tenant_id, scope, preview=False)
        self.forgotten.add(entry_id)
        self.uncertified.append(view.id)
        self.kept = {passage for passage in self.kept if not passage.startswith(entry_id)}
        if drain:
            self.drain()

    @rule()
    def drain(self) -> None:
        self.house.waker.drain()
        for forget_id in self.uncertified:
            assert self.house.lethe.get_forget(self.tenant_id, forget_id).state == "certified"
        self.uncertified.clear()
        store = next(store for store in self.house.lethe.stores if isinstance(store, ShelfStore))
        assert store.holds(self.tenant_id, self.forgotten) == 0
        assert not [path for path in self.folder.glob("*") if path.name.split(".")[0] in self.forgotten]

    @rule()
    def restart(self) -> None:
        self.house.restart()
        assert not list(self.folder.glob("*.part"))

    @precondition(lambda self: set(self.entries) - self.forgotten)
    @rule(data=st.data(), at=st.sampled_from(("kv.write", "kv.rename", "kv.unlink")))
    def crash(self, data: Any, at: str) -> None:
        """The process ends while it keeps something, and another is started."""
        entry_id = data.draw(st.sampled_from(sorted(set(self.entries) - self.forgotten)))
        passage = PassageId(f"{entry_id}.0")

        def strike(name: str) -> None:
            if name == at:
                raise Killed

        shelf = self.shelf()
        with striking(strike):
            try:
                shelf.keep(RECIPE, passage, payload_of(passage))
            except Killed:
                # While room was made, it had its name already.
                self.kept.discard(passage)
                if at == "kv.unlink":
                    self.kept.add(passage)
            else:
                self.kept.add(passage)
        self.restart()

    @rule(data=st.data(), bytes_left=st.integers(0, 60))
    def tear(self, data: Any, bytes_left: int) -> None:
        """The disk loses a part of a file while the process is away."""
        files = sorted(self.folder.glob("*.kv"))
        if files:
            self.house.lethe.stop()
            torn = data.draw(st.sampled_from(files))
            torn.write_bytes(torn.read_bytes()[:bytes_left])
            self.kept.discard(PassageId(".".join(torn.name.split(".")[:2])))
            self.house.open()

    def teardown(self) -> None:
        if not hasattr(self, "tenant_id"):
            return
        try:
            self.drain()
            self._check([PassageId(f"{entry_id}.{index}") for entry_id in self.entries for index in (0, 1)])
            held = {found.entry_id for found in self.house.lethe.shelves.files.iter_files(self.tenant_id)}
            assert held <= {EntryId(passage.split(".")[0]) for passage in self.kept}
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.house.lethe.shelves.let_go_of_all()
            self.house.lethe.shelves.files.make_room()


@pytest.mark.timeout(600)
def test_what_is_found_is_what_was_kept(house: House) -> None:
    run_state_machine_as_test(
        seed(1)(Histories),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
