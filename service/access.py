"""API keys: 256 random bits, stored as a keyed SHA-256, so that checking one needs no slow hash."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from memory.errors import ForbiddenError
from memory.faults import point
from memory.kernel import Kernel
from memory.tables import api_keys
from memory.values import TenantId
from service.views import Principal, Role

ALL_ROLES: tuple[Role, ...] = ("read", "write", "forget", "admin")
KEY_PREFIX = "lethe_"


class Access:
    """Issues and checks keys."""

    def __init__(self, kernel: Kernel, pepper: bytes) -> None:
        self.kernel = kernel
        self._pepper = pepper

    def _digest(self, key: str) -> str:
        return hmac.digest(self._pepper, key.encode(), "sha256").hex()

    def issue(self, tenant_id: TenantId, roles: Iterable[Role], key: str | None = None) -> str:
        """Make a key for a tenant and return it; only its digest is kept."""
        key = key or KEY_PREFIX + secrets.token_urlsafe(32)
        with self.kernel.database.write() as connection:
            connection.execute(
                api_keys.insert().values(
                    digest=self._digest(key),
                    tenant_id=tenant_id,
                    roles=" ".join(sorted(roles)),
                    created_us=self.kernel.clock(),
                )
            )
        return key

    def authenticate(self, key: str) -> Principal:
        """Return who a key belongs to; ``ForbiddenError`` for an unknown one."""
        with self.kernel.database.read() as connection:
            row = connection.execute(
                sa.select(api_keys).where(api_keys.c.digest == self._digest(key))
            ).one_or_none()
        if row is None:
            raise ForbiddenError("the API key is not known here")
        return Principal(TenantId(row.tenant_id), frozenset(row.roles.split()))

    def ensure_admin_key(self, tenant_id: TenantId, path: Path) -> None:
        """Make the first key, readable by its owner alone, unless the file is there and its key works."""
        if path.exists():
            key = path.read_text().strip()
            with self.kernel.database.read() as connection:
                known = connection.scalar(
                    sa.select(api_keys.c.digest).where(api_keys.c.digest == self._digest(key))
                )
            if known is None:
                self.issue(tenant_id, ALL_ROLES, key)
            return
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        write_private(path, key.encode() + b"\n")
        self.issue(tenant_id, ALL_ROLES, key)


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
