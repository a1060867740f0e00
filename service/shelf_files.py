"""The disk's part of the shelf: sealed files, one a passage and recipe, whose names say what they are.

``kv/TENANT/ENTRY.INDEX.NAME.kv``, the name by the ledger's rule; a file's time of change is when it was last
used. So the folder is all there is to know, for every process and after any end: nothing is written down
beside it. A cache: nothing is synced; what is torn does not open, and is deleted by who finds it so.

The least recently used go when there are too many. Nothing here knows keys, the fence or what was forgotten.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from memory.clock import Clock
from memory.faults import point
from memory.values import ArtifactName, EntryId, TenantId

SHELF_FOLDER = "kv"
FULL_EIGHTHS = 7
"""What is not known to be used again is written up to so many eighths of the room, and so much is left when
room is made: so that looking through the folder, which that takes, is done for many files at once."""

_NAME = re.compile(r"([0-9a-f]+)\.(\d+)\.([0-9a-f]{64})\.kv")
_PART = re.compile(r"([0-9a-f]+)\.\d+\.[0-9a-f]{64}\.([0-9a-f]{16})[0-9a-f]+\.part")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one passage by one recipe: its lineage, and its name as an artifact."""

    tenant_id: TenantId
    entry_id: EntryId
    index: int
    name: ArtifactName


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is there. ``kept`` is ``None`` of one that was not finished, and of a foreign one."""

    path: str
    entry_id: EntryId | None
    kept: Kept | None


class SealedFiles:
    """Files of ``room`` bytes in all, of all tenants. Safe to share between threads and processes.

    Processes that write at once may together go over the room by an eighth each.
    """

    def __init__(self, data: Path, room: int, clock: Clock, process: str) -> None:
        self.folder = data / SHELF_FOLDER
        self.room = room
        self._clock = clock
        self._process = process
        self._lock = threading.Lock()
        """Of the two counts; never held while the folder is looked through."""
        self._looking = threading.Lock()
        """Of who makes room, which takes time; who writes does not wait for it."""
        self._held = 0
        """Bytes that are there, as far as this process knows."""
        self._since = 0
        """Bytes written by it since it last looked."""

    def read(self, kept: Kept) -> bytes | None:
        """Return what is in a file; ``None`` where there is none."""
        try:
            return self._path(kept).read_bytes()
        except FileNotFoundError:
            return None

    def touch(self, kept: Kept) -> bool:
        """Say that what is in a file is used now; return whether it is there."""
        try:
            self._stamp(self._path(kept))
        except FileNotFoundError:
            return False
        return True

    def has_room(self, size: int) -> bool:
        """Say whether so much more fits without room being made for it."""
        return 8 * (self._held + size) <= FULL_EIGHTHS * self.room

    def write(self, kept: Kept, sealed: bytes) -> None:
        """Write a file, whole or not at all. ``tend`` makes the room that it takes too much."""
        if 8 * len(sealed) > FULL_EIGHTHS * self.room:
            return
        path = self._path(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{self._process}{secrets.token_hex(4)}.part")
        try:
            point("kv.write")
            part.write_bytes(sealed)
            self._stamp(part)
            point("kv.rename")
            part.replace(path)
        except OSError:
            _delete(part)
            raise
        with self._lock:
            self._held += len(sealed)
            self._since += len(sealed)

    def discard(self, kept: Kept) -> None:
        """Delete a file that does not open."""
        _delete(self._path(kept))

    def tend(self) -> None:
        """Make room where too much was written, by this process or maybe by others."""
        if self._held > self.room or 8 * self._since > self.room:
            self.make_room()

    def make_room(self) -> None:
        """Look what is there, and delete the least recently used where that is more than the room."""
        with self._looking:
            with self._lock:
                self._since = 0
            there: list[tuple[int, str, str, int]] = []
            for tenant_id in self.list_tenants():
                for one in self._iter_entries(tenant_id):
                    with suppress(FileNotFoundError):
                        told = one.stat(follow_symlinks=False)
                        there.append((told.st_mtime_ns, one.name, one.path, told.st_size))
            held = sum(size for *_, size in there)
            if held > self.room:
                for _, _, path, size in sorted(there):
                    if 8 * held <= FULL_EIGHTHS * self.room:
                        break
                    _delete(Path(path))
                    held -= size
            with self._lock:
                self._held = held + self._since  # what was written meanwhile was maybe not seen

    def list_tenants(self) -> list[TenantId]:
        """Return whose folders there are."""
        if not self.folder.exists():
            return []
        return sorted(TenantId(path.name) for path in self.folder.iterdir() if path.is_dir())

    def iter_files(self, tenant_id: TenantId) -> Iterator[Found]:
        """Yield a tenant's files, foreign ones among them, but no folders."""
        for one in self._iter_entries(tenant_id):
            if (told := _NAME.fullmatch(one.name)) is not None:
                entry_id, index, name = EntryId(told[1]), int(told[2]), ArtifactName(told[3])
                yield Found(one.path, entry_id, Kept(tenant_id, entry_id, index, name))
            elif (part := _PART.fullmatch(one.name)) is not None:
                yield Found(one.path, EntryId(part[1]), None)
            else:
                yield Found(one.path, None, None)

    def _iter_entries(self, tenant_id: TenantId) -> Iterator[os.DirEntry[str]]:
        with suppress(FileNotFoundError), os.scandir(self.folder / tenant_id) as there:
            yield from (one for one in there if not one.is_dir(follow_symlinks=False))

    def measure(self, tenant_id: TenantId) -> list[tuple[EntryId, int]]:
        """Return the bytes of each finished file of a tenant, and which entry it came from."""
        sizes: list[tuple[EntryId, int]] = []
        for found in self.iter_files(tenant_id):
            if found.kept is not None:
                with suppress(FileNotFoundError):
                    sizes.append((found.kept.entry_id, Path(found.path).stat().st_size))
        return sizes

    def delete(self, tenant_id: TenantId, is_doomed: Callable[[Found], bool]) -> int:
        """Delete a tenant's files for which this holds; return how many there were."""
        doomed = [Path(found.path) for found in self.iter_files(tenant_id) if is_doomed(found)]
        for path in doomed:
            _delete(path)
        return len(doomed)

    def clear_up(self, processes: Collection[str]) -> None:
        """Delete foreign files, and what processes other than these did not finish writing."""
        for tenant_id in self.list_tenants():
            self.delete(tenant_id, lambda found: _is_left_behind(found, processes))

    def _path(self, kept: Kept) -> Path:
        return self.folder / kept.tenant_id / f"{kept.entry_id}.{kept.index}.{kept.name}.kv"

    def _stamp(self, path: Path) -> None:
        now_ns = self._clock() * 1_000
        os.utime(path, ns=(now_ns, now_ns))

    @staticmethod
    def owns(path: PurePosixPath) -> bool:
        """Say whether a file, relative to the data folder, bears a name of these."""
        if len(path.parts) != 3 or path.parts[0] != SHELF_FOLDER:
            return False
        return bool(_NAME.fullmatch(path.name) or _PART.fullmatch(path.name))


def _is_left_behind(found: Found, processes: Collection[str]) -> bool:
    if found.kept is not None:
        return False
    part = _PART.fullmatch(Path(found.path).name)
    return part is None or part[2] not in processes


def _delete(path: Path) -> None:
    point("kv.unlink")
    path.unlink(missing_ok=True)
