"""Tenants and their API keys: 256 random bits, stored as a keyed SHA-256.

Checking a key is one lookup by digest, in the database each time: what is revoked is refused by every
process from its next request on. No slow hash is needed, as nobody can guess 256 bits, and no comparison
tells by its time how near a guess was, as digests under a secret key share no prefix with what was sent.
When a key was last used is not written down: that would be a write per read. The request log names its id.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from memory.clock import to_datetime
from memory.errors import ConflictError, ForbiddenError, NotFoundError
from memory.faults import point
from memory.kernel import Kernel
from memory.tables import api_keys, tenants
from memory.values import TenantId
from service.cursor import make_cursor, read_cursor
from service.views import ALL_ROLES, KeyView, NewKey, Page, Principal, Role, TenantView

KEY_PREFIX = "lethe_"
FIRST_KEY_NAME = "the first key"
SECOND = 1_000_000


class Access:
    """Issues, checks, rotates and revokes keys. Admins of the ``operator`` tenant may make tenants."""

    def __init__(self, kernel: Kernel, pepper: bytes, operator: TenantId) -> None:
        self.kernel = kernel
        self._pepper = pepper
        self._operator = operator

    def digest(self, key: str) -> str:
        """Return what is kept of a key: HMAC-SHA-256 under a secret of the vault, as hex."""
        return hmac.digest(self._pepper, key.encode(), "sha256").hex()

    def authenticate(self, key: str) -> Principal:
        """Return who a key belongs to; ``ForbiddenError`` for one that is unknown, expired or revoked."""
        with self.kernel.database.read() as connection:
            row = connection.execute(
                sa.select(api_keys).where(api_keys.c.digest == self.digest(key))
            ).one_or_none()
        if row is None or _has_ended(row, self.kernel.clock()):
            raise ForbiddenError("the API key is unknown, expired or revoked")
        roles = cast("frozenset[Role]", frozenset(row.roles.split()))
        tenant_id = TenantId(row.tenant_id)
        operator = tenant_id == self._operator and "admin" in roles
        return Principal(tenant_id, roles, row.id, operator)

    # Keys

    def issue(
        self,
        tenant_id: TenantId,
        roles: Iterable[Role],
        *,
        name: str,
        lifetime_seconds: int | None = None,
    ) -> NewKey:
        """Make a key; without a lifetime it lasts until it is revoked."""
        with self.kernel.database.write() as connection:
            _lock_tenant(connection, tenant_id)
            expires_us = self._end_of(lifetime_seconds)
            return self._add(connection, tenant_id, roles, name=name, expires_us=expires_us)

    def issue_first(
        self,
        tenant_id: TenantId,
        roles: Sequence[Role],
        *,
        name: str,
        lifetime_seconds: int | None = None,
    ) -> NewKey:
        """Make an admin key for a tenant that has none that works; the operator's only way into a tenant."""
        if "admin" not in roles:
            raise ConflictError(
                "for another tenant only its first admin key can be made: give the role admin"
            )
        with self.kernel.database.write() as connection:
            _lock_tenant(connection, tenant_id)
            if self._has_admin(connection, tenant_id):
                raise ConflictError(f"tenant {tenant_id!r} has an admin key; its admin makes further ones")
            expires_us = self._end_of(lifetime_seconds)
            return self._add(connection, tenant_id, roles, name=name, expires_us=expires_us)

    def list_keys(self, tenant_id: TenantId, *, cursor: str | None, limit: int) -> Page[KeyView]:
        """Return a page of a tenant's keys, ended ones too, newest first."""
        query = sa.select(api_keys).where(api_keys.c.tenant_id == tenant_id)
        rows, following = self._page(query, api_keys, cursor, limit)
        return Page(tuple(_view(row) for row in rows), following)

    def rotate(
        self, tenant_id: TenantId, key_id: str, *, overlap_seconds: int, lifetime_seconds: int | None = None
    ) -> NewKey:
        """Make a key of the same name and roles; the old one works for the overlap, then no more.

        The new key ends when the old one would have, unless it is given a lifetime.
        """
        with self.kernel.database.write() as connection:
            _lock_tenant(connection, tenant_id)
            old = _get_key(connection, tenant_id, key_id)
            now = self.kernel.clock()
            if _has_ended(old, now):
                raise ConflictError(f"key {key_id!r} has expired or was revoked; make a new one")
            if old.replaced_by is not None:
                raise ConflictError(f"key {key_id!r} was rotated already, to {old.replaced_by!r}")
            expires_us = old.expires_us if lifetime_seconds is None else self._end_of(lifetime_seconds)
            new = self._add(connection, tenant_id, old.roles.split(), name=old.name, expires_us=expires_us)
            ends_us = now + overlap_seconds * SECOND
            if old.expires_us is not None:
                ends_us = min(ends_us, old.expires_us)
            connection.execute(
                api_keys.update()
                .where(api_keys.c.id == key_id)
                .values(expires_us=ends_us, replaced_by=new.view.id)
            )
        return new

    def revoke(self, tenant_id: TenantId, key_id: str) -> KeyView:
        """End a key now; ``ConflictError`` when the tenant would be left without an admin key that lasts."""
        with self.kernel.database.write() as connection:
            _lock_tenant(connection, tenant_id)
            row = _get_key(connection, tenant_id, key_id)
            if row.revoked_us is not None:
                return _view(row)
            works = not _has_ended(row, self.kernel.clock())
            is_admin = "admin" in row.roles.split()
            if works and is_admin and not self._has_admin(connection, tenant_id, besides=key_id):
                raise ConflictError("this is the tenant's last admin key; make another one first")
            connection.execute(
                api_keys.update().where(api_keys.c.id == key_id).values(revoked_us=self.kernel.clock())
            )
            return _view(_get_key(connection, tenant_id, key_id))

    def ensure_admin_key(self, tenant_id: TenantId, path: Path) -> None:
        """Make the first key, readable by its owner alone; the one in the file is taken where it is unknown.

        A key that was revoked is known, and stays revoked.
        """
        if path.exists():
            key = path.read_text().strip()
        else:
            key = _random_key()
            write_private(path, key.encode() + b"\n")
        with self.kernel.database.write() as connection:
            known = sa.select(api_keys.c.id).where(api_keys.c.digest == self.digest(key))
            if connection.scalar(known) is None:
                self._add(connection, tenant_id, ALL_ROLES, name=FIRST_KEY_NAME, expires_us=None, key=key)

    def _add(
        self,
        connection: sa.Connection,
        tenant_id: TenantId,
        roles: Iterable[str],
        *,
        name: str,
        expires_us: int | None,
        key: str | None = None,
    ) -> NewKey:
        key = key or _random_key()
        key_id = self.kernel.new_id()
        connection.execute(
            api_keys.insert().values(
                digest=self.digest(key),
                id=key_id,
                tenant_id=tenant_id,
                name=name,
                roles=" ".join(sorted(set(roles))),
                created_us=self.kernel.clock(),
                expires_us=expires_us,
            )
        )
        return NewKey(_view(_get_key(connection, tenant_id, key_id)), key)

    def _end_of(self, lifetime_seconds: int | None) -> int | None:
        return None if lifetime_seconds is None else self.kernel.clock() + lifetime_seconds * SECOND

    def _has_admin(self, connection: sa.Connection, tenant_id: TenantId, besides: str = "") -> bool:
        """Say whether the tenant has another admin key that works and is not on its way out."""
        rows = connection.execute(
            sa.select(api_keys).where(
                api_keys.c.tenant_id == tenant_id,
                api_keys.c.id != besides,
                api_keys.c.revoked_us.is_(None),
                api_keys.c.replaced_by.is_(None),
            )
        )
        now = self.kernel.clock()
        return any("admin" in row.roles.split() and not _has_ended(row, now) for row in rows)

    # Tenants

    def create_tenant(self, tenant_id: TenantId) -> TenantView:
        """Make a tenant; ``ConflictError`` when there is one of this name."""
        try:
            made = self.kernel.create_tenant(tenant_id)
        except sa.exc.IntegrityError:  # another process was quicker
            made = False
        if not made:
            raise ConflictError(f"there is a tenant {tenant_id!r} already")
        with self.kernel.database.read() as connection:
            created_us = connection.scalar(sa.select(tenants.c.created_us).where(tenants.c.id == tenant_id))
        return TenantView(tenant_id, to_datetime(created_us or 0))

    def list_tenants(self, *, cursor: str | None, limit: int) -> Page[TenantView]:
        """Return a page of all tenants, newest first."""
        rows, following = self._page(sa.select(tenants), tenants, cursor, limit)
        views = (TenantView(TenantId(row.id), to_datetime(row.created_us)) for row in rows)
        return Page(tuple(views), following)

    def _page(
        self, query: sa.Select[Any], table: sa.Table, cursor: str | None, limit: int
    ) -> tuple[Sequence[sa.Row[Any]], str | None]:
        """Return one page of a table's rows, newest first, and the cursor behind it."""
        after = read_cursor(cursor)
        order = sa.tuple_(table.c.created_us, table.c.id)
        if after is not None:
            query = query.where(order < sa.tuple_(*after))
        query = query.order_by(table.c.created_us.desc(), table.c.id.desc()).limit(limit + 1)
        with self.kernel.database.read() as connection:
            rows = connection.execute(query).all()
        more = len(rows) > limit
        following = make_cursor(rows[limit - 1].created_us, rows[limit - 1].id) if more else None
        return rows[:limit], following


def _random_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _has_ended(row: sa.Row[Any], now_us: int) -> bool:
    return row.revoked_us is not None or (row.expires_us is not None and row.expires_us <= now_us)


def _lock_tenant(connection: sa.Connection, tenant_id: TenantId) -> None:
    """Let one transaction at a time change a tenant's keys (SQLite has one writer anyway)."""
    held = sa.select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update()
    if connection.scalar(held) is None:
        raise NotFoundError("tenant", tenant_id)


def _get_key(connection: sa.Connection, tenant_id: TenantId, key_id: str) -> sa.Row[Any]:
    row = connection.execute(
        sa.select(api_keys).where(api_keys.c.id == key_id, api_keys.c.tenant_id == tenant_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError("key", key_id)
    return row


def _view(row: sa.Row[Any]) -> KeyView:
    return KeyView(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        name=row.name,
        roles=tuple(row.roles.split()),
        created_at=to_datetime(row.created_us),
        expires_at=None if row.expires_us is None else to_datetime(row.expires_us),
        revoked_at=None if row.revoked_us is None else to_datetime(row.revoked_us),
        replaced_by=row.replaced_by,
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        point("private.sync")
        os.fsync(file.fileno())
    point("private.rename")
    temporary.replace(path)
    point("private.renamed")
