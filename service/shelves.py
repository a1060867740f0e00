"""Shelves: what readers computed of passages, on their device, in memory and on disk, found until forgotten.

In memory lie payloads as they are, and on the device what was asked for again, as its reader unpacks it: as
many bytes as may; which stay is told by ``memory.fifo``. On disk each lies in a file, sealed under its
entry's key: what is new is written while there is room, and once the room is taken only what is used a second
time, since one passage read once would push out another (as S3-FIFO's authors filter what goes to flash).
What is there least recently used makes room.

Nothing of this is in the content plane: it is filled by reads, so twins may differ in it. Its lineage is in
each name: one entry, the parse artifact made of it, and the recipe.

Every look and every writing holds the fence shared and asks the deny-set first, so that nothing of an entry
comes here once that is denied. What was here before goes from this process's memory and its device before
the process says that it holds nothing older (``service.presence``), and from the disk with the request that
forgets it. Readers hold nothing themselves but for the time of a reading.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from memory.errors import CorruptionError, ForgottenError, InvalidInputError
from memory.fence import shared
from memory.fifo import Fifo
from memory.kernel import Kernel, find_denied, find_entries
from memory.ledger import Recipe, artifact_name
from memory.ports import Ready, Shelf
from memory.values import EntryId, JsonValue, PassageId, TenantId
from service.index import Indexes
from service.metrics import kv_lookups_total
from service.shelf_files import Found, Kept, SealedFiles
from service.state import State

log = structlog.get_logger()

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TenantShelf:
    """One tenant's shelf, as readers know it: implements ``memory.ports.Shelf``."""

    shelves: Shelves
    tenant_id: TenantId

    def find(
        self, recipe: Recipe, passages: Collection[PassageId], unpack: Callable[[bytes], Ready]
    ) -> Mapping[PassageId, Ready]:
        """Return those that are held and may be read now, unpacked."""
        return self.shelves.find(self.tenant_id, recipe, passages, unpack)

    def keep(self, recipe: Recipe, passage: PassageId, payload: bytes) -> None:
        """Keep what was computed, unless there is no room for it or the passage was forgotten meanwhile."""
        self.shelves.keep(self.tenant_id, recipe, passage, payload)


class Shelves:
    """What this process keeps of all tenants. Without room in memory and on disk nothing is kept.

    ``off`` says why, where that is no matter of room. What is on the device may be let go of by any thread:
    all that compute there queue their work in one order, and none is given that memory before.
    """

    def __init__(
        self,
        kernel: Kernel,
        indexes: Indexes,
        *,
        device_bytes: int = 0,
        ram_bytes: int,
        disk_bytes: int,
        off: str | None = None,
    ) -> None:
        self.kernel = kernel
        self.indexes = indexes
        if off is None and not (ram_bytes or disk_bytes):
            off = "no room is given in memory or on disk, from where the device's is filled"
        self.off = off
        self.files = SealedFiles(
            kernel.data, 0 if off else disk_bytes, kernel.clock, indexes.presence.process
        )
        self._memory: Fifo[Kept, bytes] = Fifo(0 if off else ram_bytes)
        self._device: Fifo[Kept, Any] = Fifo(0 if off else device_bytes)
        self._lock = threading.Lock()
        self._emptied = 0
        """How often everything in memory and on the device was let go of."""
        indexes.presence.holders.append(self)

    def of(self, tenant_id: TenantId) -> Shelf:
        """Return a tenant's shelf."""
        return TenantShelf(self, tenant_id)

    def open(self) -> None:
        """Delete what a process that ended left half written, what is foreign, and what is too much."""
        self.files.clear_up(self.indexes.presence.list_living())
        for tenant_id in self.files.list_tenants():
            there = {found.entry_id for found in self.files.iter_files(tenant_id) if found.entry_id}
            with self.kernel.database.read() as connection:
                gone = there - find_entries(connection, tenant_id, there)
            self.files.delete(tenant_id, partial(_lies_under, ids=gone))
        self.files.make_room()

    def retain(self, recipes: Collection[Recipe]) -> None:
        """Delete what none of these recipes makes: another model's, say, or of texts parsed by other rules.

        To be called by a process that reads, once it knows its recipes.
        """

        def is_stale(found: Found) -> bool:
            kept = found.kept
            if kept is None:
                return False
            return kept not in [
                self._name(kept.tenant_id, recipe, kept.entry_id, kept.index, timed=timed)
                for recipe in recipes
                for timed in (True, False)
            ]

        for tenant_id in self.files.list_tenants():
            self.files.delete(tenant_id, is_stale)
        self.files.make_room()

    # Readers

    def find(
        self,
        tenant_id: TenantId,
        recipe: Recipe,
        passages: Collection[PassageId],
        unpack: Callable[[bytes], Ready],
    ) -> dict[PassageId, Ready]:
        """Return what is held of those passages that may be read now, unpacked."""
        if self.off is not None or not passages:
            return {}
        emptied, state = self._follow(tenant_id)
        wanted = {passage: self._parse(tenant_id, recipe, passage, state) for passage in passages}
        with shared(self.kernel.fence, tenant_id):
            readable = self._list_readable(tenant_id, {kept.entry_id for kept in wanted.values()})
            asked = {passage: kept for passage, kept in wanted.items() if kept.entry_id in readable}
            with self._lock:
                ready: dict[Kept, Ready] = _get(self._device, asked.values())
                here = _get(self._memory, (kept for kept in asked.values() if kept not in ready))
            written = {kept for kept in asked.values() if self._touch(kept)}
            # A second use: from now on it is worth what it may push out.
            self._write({kept: payload for kept, payload in here.items() if kept not in written})
            held = ready.keys() | here.keys()
            read = self._read(
                tenant_id, [kept for kept in asked.values() if kept in written and kept not in held]
            )
            for kept, payload in read.items():
                self._hold(self._memory, kept, payload, len(payload), emptied)
        self._tend()
        for tier, count in (
            ("device", len(ready)),
            ("ram", len(here)),
            ("disk", len(read)),
            ("none", len(wanted) - len(ready) - len(here) - len(read)),
        ):
            kv_lookups_total.labels(tier).inc(count)
        ready |= self._unpack(tenant_id, here | read, unpack, emptied)
        return {passage: ready[kept] for passage, kept in asked.items() if kept in ready}

    def keep(self, tenant_id: TenantId, recipe: Recipe, passage: PassageId, payload: bytes) -> None:
        """Keep a payload in memory, and on disk where there is room or it was here a short while ago."""
        if self.off is not None:
            return
        emptied, state = self._follow(tenant_id)
        kept = self._parse(tenant_id, recipe, passage, state)
        with shared(self.kernel.fence, tenant_id):
            if not self._list_readable(tenant_id, {kept.entry_id}):
                return
            with self._lock:
                came_again = self._memory.has_left(kept)
                self._device.drop([kept])  # who makes it anew had no use for it
            self._hold(self._memory, kept, payload, len(payload), emptied)
            if (came_again or self.files.has_room(len(payload))) and not self._touch(kept):
                self._write({kept: payload})
        self._tend()

    def _unpack(
        self,
        tenant_id: TenantId,
        payloads: Mapping[Kept, bytes],
        unpack: Callable[[bytes], Ready],
        emptied: int,
    ) -> dict[Kept, Ready]:
        """Return payloads unpacked, held on the device from now on; what cannot be unpacked is deleted.

        Called without the fence, since a device may be busy for long; so the deny-set is asked again.
        """
        ready: dict[Kept, Ready] = {}
        for kept, payload in payloads.items():
            try:
                ready[kept] = unpack(payload)
            except CorruptionError:
                log.warning("a memory cannot be unpacked, and is deleted")
                with self._lock:
                    self._memory.drop([kept])
                with suppress(OSError):
                    self.files.discard(kept)
        if ready and self._device.room:
            with shared(self.kernel.fence, tenant_id):
                readable = self._list_readable(tenant_id, {kept.entry_id for kept in ready})
                for kept, made in ready.items():
                    if kept.entry_id in readable:
                        self._hold(self._device, kept, made, len(payloads[kept]), emptied)
        return ready

    def _parse(self, tenant_id: TenantId, recipe: Recipe, passage: PassageId, state: State) -> Kept:
        entry_id, _, index = passage.partition(".")
        if not (entry_id and index.isdecimal()):
            raise InvalidInputError(f"{passage!r} is no passage", where="passage")
        ordinal = state.ordinals.get(EntryId(entry_id))
        timed = ordinal is not None and state.cards[ordinal].timed
        return self._name(tenant_id, recipe, EntryId(entry_id), int(index), timed=timed)

    def _name(
        self, tenant_id: TenantId, recipe: Recipe, entry_id: EntryId, index: int, *, timed: bool
    ) -> Kept:
        """Return the name of what a recipe makes of a passage, which is a part of what was parsed."""
        vault = self.kernel.vault
        of_passage = Recipe(recipe.name, recipe.version, {"of": recipe.digest.hex(), "passage": index})
        recipes = self.indexes.recipes
        parsed = artifact_name(vault, tenant_id, recipes.timed if timed else recipes.parse, [entry_id])
        return Kept(tenant_id, entry_id, index, artifact_name(vault, tenant_id, of_passage, [parsed]))

    def _follow(self, tenant_id: TenantId) -> tuple[int, State]:
        """Count as a process that holds something of the tenant; return what ``_hold`` asks for, and the
        newest view.
        """
        emptied = self._emptied
        return emptied, self.indexes.get(tenant_id).state

    def _list_readable(self, tenant_id: TenantId, entry_ids: Set[EntryId]) -> set[EntryId]:
        """Return which of these entries are there and not denied. Called while the fence is held."""
        with self.kernel.database.read() as connection:
            there = find_entries(connection, tenant_id, entry_ids)
            return there - find_denied(connection, tenant_id, there)

    def _hold(self, tier: Fifo[Kept, Value], kept: Kept, value: Value, size: int, emptied: int) -> None:
        """Put something into memory or on the device, unless all was let go of since.

        Then others no longer count with this process. Called while the fence is held.
        """
        with self._lock:
            if emptied == self._emptied:
                tier.put(kept, value, size)

    # A disk that fails holds nothing and takes nothing: no answer is to fail for that.

    def _touch(self, kept: Kept) -> bool:
        """Say that what is on disk is used now; return whether it is there."""
        try:
            return bool(self.files.room) and self.files.touch(kept)
        except OSError as error:
            log.warning("a memory cannot be read", errno=error.errno)
            return False

    def _tend(self) -> None:
        """Make room on disk where it is needed; nobody waits for that with the fence held."""
        try:
            self.files.tend()
        except OSError as error:
            log.warning("room for memories cannot be made", errno=error.errno)

    def _read(self, tenant_id: TenantId, wanted: Sequence[Kept]) -> dict[Kept, bytes]:
        """Return what is on disk of a tenant's, and delete what is damaged."""
        if not wanted:
            return {}
        found: dict[Kept, bytes] = {}
        damaged: list[Kept] = []
        opener = self.kernel.vault.opener(tenant_id, {kept.entry_id for kept in wanted})
        for kept in wanted:
            try:
                sealed = self.files.read(kept)
                if sealed is not None:
                    found[kept] = opener.open(kept.entry_id, f"kv:{kept.name}", sealed)
            except (CorruptionError, ForgottenError):
                log.warning("a memory does not open, and is deleted")
                damaged.append(kept)
            except OSError as error:
                log.warning("a memory cannot be read", errno=error.errno)
        for kept in damaged:
            with suppress(OSError):
                self.files.discard(kept)
        return found

    def _write(self, payloads: Mapping[Kept, bytes]) -> None:
        """Seal and write payloads."""
        if not (payloads and self.files.room):
            return
        (tenant_id,) = {kept.tenant_id for kept in payloads}
        opener = self.kernel.vault.opener(tenant_id, {kept.entry_id for kept in payloads})
        for kept, payload in payloads.items():
            try:
                self.files.write(kept, opener.seal(kept.entry_id, f"kv:{kept.name}", payload))
            except OSError as error:
                log.warning("a memory is not written", errno=error.errno)

    # Forgetting

    def let_go(self, tenant_id: TenantId) -> None:
        """Drop from memory and device what is denied by now, and what is remembered of it."""
        with self._lock:
            known = {kept for tier in self._tiers for kept in (*_names(tier), *tier.list_left())}
        mine = [kept for kept in known if kept.tenant_id == tenant_id]
        if mine:
            with self.kernel.database.read() as connection:
                hidden = find_denied(connection, tenant_id, {kept.entry_id for kept in mine})
            with self._lock:
                for tier in self._tiers:
                    tier.drop([kept for kept in mine if kept.entry_id in hidden])

    def let_go_of_all(self) -> None:
        """Drop everything from memory and device."""
        with self._lock:
            self._emptied += 1
            for tier in self._tiers:
                tier.clear()

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Drop and delete everything held under entry ids or names; return how many items went."""
        dropped = 0
        with self._lock:
            for tier in self._tiers:
                dropped += tier.drop([kept for kept in _names(tier) if _is_under(kept, tenant_id, ids)])
                tier.drop([kept for kept in tier.list_left() if _is_under(kept, tenant_id, ids)])
        deleted = self.files.delete(tenant_id, partial(_lies_under, ids=ids))
        if self.files.room:  # without, another process may have some: the next start of this one deletes
            self.files.make_room()
        return dropped + deleted

    def count(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many items are held under entry ids or names, of this process and on disk."""
        with self._lock:
            here = sum(_is_under(kept, tenant_id, ids) for tier in self._tiers for kept in _names(tier))
        return here + sum(_lies_under(found, ids) for found in self.files.iter_files(tenant_id))

    @property
    def _tiers(self) -> tuple[Fifo[Kept, Any], Fifo[Kept, bytes]]:
        """What this process holds."""
        return self._device, self._memory

    # Operations

    @property
    def device_bytes(self) -> int:
        """How many bytes this process holds on its reader's device, of all tenants."""
        return self._device.size

    @property
    def ram_bytes(self) -> int:
        """How many bytes this process holds in memory, of all tenants."""
        return self._memory.size

    def measure(self, tenant_id: TenantId) -> dict[str, JsonValue]:
        """Return items and bytes of a tenant by tier, without those of denied entries, and each tier's room.

        Device and memory are this process's own; rooms are for all tenants together. ``off`` says why nothing
        is kept.
        """
        with self._lock:
            on_device, in_memory = (
                [(kept.entry_id, size) for kept, size in tier.sizes() if kept.tenant_id == tenant_id]
                for tier in self._tiers
            )
        on_disk = self.files.measure(tenant_id)
        everywhere = {entry_id for entry_id, _ in (*on_device, *in_memory, *on_disk)}
        with self.kernel.database.read() as connection:
            hidden = find_denied(connection, tenant_id, everywhere)
        said: dict[str, JsonValue] = {"off": self.off}
        for tier, held, room in (
            ("device", on_device, self._device.room),
            ("ram", in_memory, self._memory.room),
            ("disk", on_disk, self.files.room),
        ):
            shown = [size for entry_id, size in held if entry_id not in hidden]
            said[tier] = {"items": len(shown), "bytes": sum(shown), "room": room}
        return said


def _get(tier: Fifo[Kept, Value], asked: Iterable[Kept]) -> dict[Kept, Value]:
    """Return what a tier holds of these, each counted as used."""
    return {kept: value for kept in asked if (value := tier.get(kept)) is not None}


def _names(tier: Fifo[Kept, Any]) -> list[Kept]:
    return [kept for kept, _ in tier.sizes()]


def _is_under(kept: Kept, tenant_id: TenantId, ids: Set[str]) -> bool:
    return kept.tenant_id == tenant_id and (kept.entry_id in ids or kept.name in ids)


def _lies_under(found: Found, ids: Set[str]) -> bool:
    return found.entry_id in ids or (found.kept is not None and found.kept.name in ids)
