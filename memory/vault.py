"""The vault: content is sealed under a data key per journal entry, and forgetting destroys the key.

Keys live in a database of their own, which no backup of the data contains. A data key is wrapped
under a key made from its tenant's key and the keys of all its subjects, so that destroying any of
them makes the content unreadable, wherever a copy of the sealed bytes may lie.
Sealing is AES-256-GCM (NIST SP 800-38D) with random 96-bit nonces; wrapping keys and name keys
are derived by HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memory.database import Database, chunked
from memory.errors import CorruptionError, ForgottenError
from memory.tables import key_uses, keys
from memory.values import EntryId, TenantId

KEY_BYTES = 32
NONCE_BYTES = 12
WRITERS = "keys"
TABLES = ("keys", "key_uses")


class Vault(Protocol):
    """Seals bytes under an entry's key, or under the tenant's where several entries made them."""

    def name(self, tenant_id: TenantId, purpose: str, value: bytes) -> str:
        """Return the HMAC-SHA256 of a value under the tenant's key for one purpose, in hex."""

    def create_keys(self, tenant_id: TenantId, subjects: Mapping[EntryId, Collection[str]]) -> None:
        """Make a data key for each new entry, bound to its subjects."""

    def opener(self, tenant_id: TenantId, entry_ids: Iterable[EntryId]) -> Opener:
        """Fetch the data keys of these entries once; those destroyed stay unknown to the opener."""

    def destroy_keys(self, tenant_id: TenantId, entry_ids: Collection[EntryId]) -> int:
        """Destroy the data keys, and subject keys that nothing uses any more; return how many."""

    def count_keys(self, tenant_id: TenantId, entry_ids: Collection[EntryId]) -> int:
        """Return how many of these entries still have a data key."""

    def list_entry_ids(self, tenant_id: TenantId) -> list[EntryId]:
        """Return the entries that have a data key."""

    def is_empty(self) -> bool:
        """Say whether no entry of any tenant has a key."""

    def close(self) -> None:
        """Let go of the key store."""


class Opener(Protocol):
    """The keys of a few entries, held in memory for one piece of work."""

    def seal(self, key_of: str, label: str, plaintext: bytes) -> bytes: ...

    def open(self, key_of: str, label: str, sealed: bytes) -> bytes: ...


class KeyRing:
    """An ``Opener`` over data keys. The empty ``key_of`` means the tenant's own key."""

    def __init__(self, data_keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_of: AESGCM(key) for key_of, key in data_keys.items()}

    def seal(self, key_of: str, label: str, plaintext: bytes) -> bytes:
        """Return nonce and ciphertext; the label must be given again to open."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(key_of).encrypt(nonce, plaintext, label.encode())

    def open(self, key_of: str, label: str, sealed: bytes) -> bytes:
        """Return the plaintext; ``ForgottenError`` without a key, ``CorruptionError`` when altered."""
        cipher = self._cipher(key_of)
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label.encode())
        except InvalidTag as error:
            raise CorruptionError(f"sealed bytes of {label} do not open: they were altered") from error

    def _cipher(self, key_of: str) -> AESGCM:
        try:
            return self._ciphers[key_of]
        except KeyError:
            raise ForgottenError(key_of) from None


class SealedVault:
    """The vault over a key database, its rows wrapped under a root key from outside it."""

    def __init__(self, database: Database, root_key: bytes) -> None:
        if len(root_key) != KEY_BYTES:
            raise CorruptionError(f"the root key must have {KEY_BYTES} bytes, not {len(root_key)}")
        self.database = database
        self._root = AESGCM(root_key)
        self._tenant_keys: dict[TenantId, bytes] = {}

    def _tenant_key(self, tenant_id: TenantId) -> bytes:
        key = self._tenant_keys.get(tenant_id)
        if key is None:
            name = f"tenant:{tenant_id}"
            with self.database.write(alone=WRITERS) as connection:
                wrapped = connection.scalar(sa.select(keys.c.wrapped).where(keys.c.name == name))
                if wrapped is None:
                    key = os.urandom(KEY_BYTES)
                    _insert_key(connection, tenant_id, name, _wrap(self._root, name, key))
                else:
                    key = _unwrap(self._root, name, wrapped)
            self._tenant_keys[tenant_id] = key
        return key

    def adopt_tenant_key(self, tenant_id: TenantId, key: bytes) -> None:
        """Give a new tenant a key made elsewhere, so that two stores name the same things alike."""
        name = f"tenant:{tenant_id}"
        with self.database.write(alone=WRITERS) as connection:
            _insert_key(connection, tenant_id, name, _wrap(self._root, name, key))
        self._tenant_keys[tenant_id] = key

    def secret(self, name: str) -> bytes:
        """Return the service's own secret of this name (32 random bytes), made at first use."""
        row = f"secret:{name}"
        with self.database.write(alone=WRITERS) as connection:
            wrapped = connection.scalar(sa.select(keys.c.wrapped).where(keys.c.name == row))
            if wrapped is not None:
                return _unwrap(self._root, row, wrapped)
            made = os.urandom(KEY_BYTES)
            _insert_key(connection, TenantId(""), row, _wrap(self._root, row, made))
            return made

    def name(self, tenant_id: TenantId, purpose: str, value: bytes) -> str:
        """Return the HMAC-SHA256 of a value under the tenant's key for one purpose, in hex."""
        purpose_key = hmac.digest(self._tenant_key(tenant_id), purpose.encode(), "sha256")
        return hmac.new(purpose_key, value, hashlib.sha256).hexdigest()

    def create_keys(self, tenant_id: TenantId, subjects: Mapping[EntryId, Collection[str]]) -> None:
        """Make a data key for each new entry, bound to its subjects."""
        names = {
            subject: f"subject:{self.name(tenant_id, 'subject-key', subject.encode())}"
            for given in subjects.values()
            for subject in given
        }
        tenant_key = self._tenant_key(tenant_id)
        with self.database.write(alone=WRITERS) as connection:
            subject_keys = self._subject_keys(connection, tenant_id, sorted(set(names.values())))
            rows, uses = [], []
            for entry_id, given in subjects.items():
                used = sorted({names[subject] for subject in given})
                cipher = _wrapping_cipher(tenant_key, [subject_keys[name] for name in used])
                name = f"entry:{entry_id}"
                wrapped = _wrap(cipher, name, os.urandom(KEY_BYTES))
                rows.append({"name": name, "tenant_id": tenant_id, "wrapped": wrapped})
                uses += [{"entry_id": entry_id, "subject_key": subject_key} for subject_key in used]
            if rows:
                connection.execute(keys.insert(), rows)
            if uses:
                connection.execute(key_uses.insert(), uses)

    def _subject_keys(
        self, connection: sa.Connection, tenant_id: TenantId, names: Sequence[str]
    ) -> dict[str, bytes]:
        """Return the subjects' keys, making those that are missing."""
        cipher = _wrapping_cipher(self._tenant_key(tenant_id), [])
        found = {name: _unwrap(cipher, name, wrapped) for name, wrapped in _fetch_keys(connection, names)}
        for name in names:
            if name not in found:
                found[name] = os.urandom(KEY_BYTES)
                _insert_key(connection, tenant_id, name, _wrap(cipher, name, found[name]))
        return found

    def opener(self, tenant_id: TenantId, entry_ids: Iterable[EntryId]) -> Opener:
        """Fetch the data keys of these entries once; those destroyed stay unknown to the opener."""
        wanted = list(dict.fromkeys(entry_ids))
        tenant_key = self._tenant_key(tenant_id)
        content_key = hmac.digest(tenant_key, b"content", "sha256")
        data_keys: dict[str, bytes] = {"": content_key}
        with self.database.read() as connection:
            wrapped = dict(_fetch_keys(connection, [f"entry:{entry_id}" for entry_id in wanted]))
            used: dict[str, list[str]] = {}
            for ids in chunked(wanted):
                rows = connection.execute(sa.select(key_uses).where(key_uses.c.entry_id.in_(ids)))
                for entry_id, subject_key in rows:
                    used.setdefault(entry_id, []).append(subject_key)
            names = sorted({name for names in used.values() for name in names})
            plain = _wrapping_cipher(tenant_key, [])
            subject_keys = {
                name: _unwrap(plain, name, sealed) for name, sealed in _fetch_keys(connection, names)
            }
        for entry_id in wanted:
            name = f"entry:{entry_id}"
            needed = sorted(used.get(entry_id, ()))
            if name in wrapped and all(subject in subject_keys for subject in needed):
                cipher = (
                    plain if not needed else _wrapping_cipher(tenant_key, [subject_keys[s] for s in needed])
                )
                data_keys[entry_id] = _unwrap(cipher, name, wrapped[name])
        return KeyRing(data_keys)

    def destroy_keys(self, tenant_id: TenantId, entry_ids: Collection[EntryId]) -> int:
        """Destroy the data keys, and subject keys that nothing uses any more; return how many."""
        destroyed = 0
        with self.database.write(alone=WRITERS) as connection:
            touched: set[str] = set()
            for ids in chunked(_list_held(connection, tenant_id, entry_ids)):
                mine = key_uses.c.entry_id.in_(ids)
                touched |= set(connection.scalars(sa.select(key_uses.c.subject_key).where(mine)))
                connection.execute(key_uses.delete().where(mine))
                names = [f"entry:{entry_id}" for entry_id in ids]
                destroyed += connection.execute(keys.delete().where(keys.c.name.in_(names))).rowcount
            for chunk in chunked(sorted(touched)):
                still = sa.select(key_uses.c.subject_key)
                unused = keys.c.name.in_(chunk) & keys.c.name.not_in(still)
                destroyed += connection.execute(keys.delete().where(unused)).rowcount
        return destroyed

    def count_keys(self, tenant_id: TenantId, entry_ids: Collection[EntryId]) -> int:
        """Return how many of these entries still have a data key."""
        with self.database.read() as connection:
            return len(_list_held(connection, tenant_id, entry_ids))

    def list_entry_ids(self, tenant_id: TenantId) -> list[EntryId]:
        """Return the entries that have a data key."""
        with self.database.read() as connection:
            names = connection.scalars(
                sa.select(keys.c.name).where(keys.c.tenant_id == tenant_id, keys.c.name.startswith("entry:"))
            )
            return [EntryId(name.removeprefix("entry:")) for name in names]

    def is_empty(self) -> bool:
        """Say whether no entry of any tenant has a key."""
        with self.database.read() as connection:
            any_entry = sa.select(keys.c.name).where(keys.c.name.startswith("entry:")).limit(1)
            return connection.scalar(any_entry) is None

    def close(self) -> None:
        """Close the key database and drop the keys held in memory."""
        self._tenant_keys.clear()
        self.database.close()


def _list_held(
    connection: sa.Connection, tenant_id: TenantId, entry_ids: Collection[EntryId]
) -> list[EntryId]:
    """Return which of these entries have a data key of this tenant: no tenant reaches another's keys."""
    held: list[EntryId] = []
    for chunk in chunked(sorted(entry_ids)):
        names = [f"entry:{entry_id}" for entry_id in chunk]
        mine = keys.c.name.in_(names) & (keys.c.tenant_id == tenant_id)
        found = connection.scalars(sa.select(keys.c.name).where(mine))
        held += [EntryId(name.removeprefix("entry:")) for name in found]
    return held


def _fetch_keys(connection: sa.Connection, names: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    for chunk in chunked(names):
        rows = connection.execute(sa.select(keys.c.name, keys.c.wrapped).where(keys.c.name.in_(chunk)))
        yield from ((row.name, row.wrapped) for row in rows)


def _insert_key(connection: sa.Connection, tenant_id: TenantId, name: str, wrapped: bytes) -> None:
    connection.execute(keys.insert().values(name=name, tenant_id=tenant_id, wrapped=wrapped))


def _wrapping_cipher(tenant_key: bytes, subject_keys: Sequence[bytes]) -> AESGCM:
    material = tenant_key + b"".join(subject_keys)
    return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"lethe wrap").derive(material))


def _wrap(cipher: AESGCM, name: str, key: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, key, name.encode())


def _unwrap(cipher: AESGCM, name: str, wrapped: bytes) -> bytes:
    try:
        return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], name.encode())
    except InvalidTag as error:
        raise CorruptionError(f"key {name} does not unwrap: wrong root key or altered row") from error
