"""Who searches: the processes that have a tenant's index open, and how new what they hold is.

A forget is certified when no living process holds an index from before it, nor in memory anything else that
was made of an entry: its holders let go before it says so. A process that did not renew its presence in time
counts as ended: its files are deleted, and should it wake up again it opens everything anew.
Where a database belongs to one process alone, there is nobody to tell.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

import sqlalchemy as sa

from memory.kernel import Kernel, get_position
from memory.tables import searchers
from memory.values import TenantId
from service.repeating import Repeating

PRESENT_SECONDS = 30.0
RENEW_SECONDS = 5.0
FARTHEST_US = 240_000_000
"""No presence lasts longer ahead, not even by the clock of another host that is minutes ahead."""


class Holder(Protocol):
    """Something of this process that holds in memory what was made of entries."""

    def let_go(self, tenant_id: TenantId) -> None:
        """Drop what is denied by now."""

    def let_go_of_all(self) -> None:
        """Drop everything."""


class Presence:
    """This process's entries in the table of searchers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.process = secrets.token_hex(8)
        self.holders: list[Holder] = []
        self._renewed_at = time.monotonic()
        self._renewing: Repeating | None = None

    def start(self) -> None:
        """Renew from now on, in a thread of its own: opening an index may take longer than that lasts."""
        if self.is_told:
            self._renewing = Repeating("presence", RENEW_SECONDS, self.renew)
            self._renewing.start()

    def stop(self) -> None:
        """Renew no more."""
        if self._renewing is not None:
            self._renewing.stop()

    @property
    def is_told(self) -> bool:
        """Whether there may be other processes to tell."""
        return self.kernel.database.is_shared

    @property
    def has_lapsed(self) -> bool:
        """Whether others may take this process for ended: what it holds must be opened anew."""
        return self.is_told and time.monotonic() - self._renewed_at > PRESENT_SECONDS / 2

    def enter(self, tenant_id: TenantId) -> int:
        """Say that an index is opened from now on, before anything is read for it; return the epoch.

        Until ``hold`` it counts as one from before every request.
        """
        if not self.is_told:
            with self.kernel.database.read() as connection:
                return get_position(connection, tenant_id).epoch
        with self.kernel.database.write(alone=tenant_id) as connection:
            epoch = get_position(connection, tenant_id).epoch
            mine = (searchers.c.process == self.process) & (searchers.c.tenant_id == tenant_id)
            # While the new one is opened, the old one is still held.
            known = connection.scalar(sa.select(searchers.c.epoch).where(mine))
            if known is None:
                connection.execute(
                    searchers.insert().values(
                        process=self.process, tenant_id=tenant_id, epoch=0, until_us=self._until_us()
                    )
                )
        return epoch

    def hold(self, tenant_id: TenantId, epoch: int) -> None:
        """Let go of what was denied, then say that nothing older than an epoch is held of a tenant."""
        for holder in self.holders:
            holder.let_go(tenant_id)
        if self.is_told:
            mine = (searchers.c.process == self.process) & (searchers.c.tenant_id == tenant_id)
            with self.kernel.database.write() as connection:
                connection.execute(searchers.update().where(mine).values(epoch=epoch))

    def renew(self) -> None:
        """Say that this process lives, and forget those that have not said so for long.

        Once lapsed it stays so until everything was let go: others no longer count with this process.
        """
        if not self.is_told or self.has_lapsed:
            return
        now = time.monotonic()
        with self.kernel.database.write() as connection:
            mine = searchers.c.process == self.process
            connection.execute(searchers.update().where(mine).values(until_us=self._until_us()))
            connection.execute(searchers.delete().where(sa.not_(self._is_living())))
        self._renewed_at = now

    def leave(self) -> None:
        """Let go of everything, and say that this process holds nothing any more."""
        for holder in self.holders:
            holder.let_go_of_all()
        if self.is_told:
            with self.kernel.database.write() as connection:
                connection.execute(searchers.delete().where(searchers.c.process == self.process))
        self._renewed_at = time.monotonic()

    def list_behind(self, tenant_id: TenantId, epoch: int) -> list[str]:
        """Return the living processes that hold an index of the tenant from before an epoch."""
        behind = sa.select(searchers.c.process).where(
            searchers.c.tenant_id == tenant_id,
            searchers.c.epoch < epoch,
            self._is_living(),
        )
        with self.kernel.database.read() as connection:
            return sorted(connection.scalars(behind))

    def list_living(self) -> set[str]:
        """Return all living processes, this one among them."""
        living = sa.select(searchers.c.process).where(self._is_living())
        with self.kernel.database.read() as connection:
            return {self.process, *connection.scalars(living)}

    def _is_living(self) -> sa.ColumnElement[bool]:
        """Say who renewed in time; what would last longer was said before the clock was set back."""
        now_us = self.kernel.clock()
        return searchers.c.until_us.between(now_us, now_us + FARTHEST_US)

    def _until_us(self) -> int:
        return self.kernel.clock() + int(PRESENT_SECONDS * 1_000_000)
