"""The vault: what is sealed opens only with its keys, and destroyed keys are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from memory.errors import CorruptionError, ForgottenError
from memory.tables import key_uses, keys
from memory.values import EntryId
from memory.vault import SealedVault
from tests.memory.harness import OTHER, ROOT_KEY, TENANT, open_vault

A, B, C = EntryId("a"), EntryId("b"), EntryId("c")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[SealedVault]:
    opened = open_vault(tmp_path / "keys.db")
    yield opened
    opened.close()


def list_key_names(vault: SealedVault) -> set[str]:
    with vault.database.read() as connection:
        return set(connection.scalars(sa.select(keys.c.name)))


def list_subject_keys(vault: SealedVault) -> set[str]:
    return {name for name in list_key_names(vault) if name.startswith("subject:")}


@pytest.mark.parametrize("key_of", ["", "a", "b"])
def test_what_is_sealed_opens_again(vault: SealedVault, key_of: str) -> None:
    """Under the tenant's key, a plain data key and one bound to subjects."""
    vault.create_keys(TENANT, {A: (), B: ("ada", "bo")})
    sealed = vault.opener(TENANT, [A, B]).seal(key_of, "label", b"Mara Lindqvist")

    assert b"Mara" not in sealed
    assert vault.opener(TENANT, [A, B]).open(key_of, "label", sealed) == b"Mara Lindqvist"


def test_the_same_bytes_never_seal_alike(vault: SealedVault) -> None:
    opener = vault.opener(TENANT, [])
    assert opener.seal("", "x", b"same") != opener.seal("", "x", b"same")


def test_altered_bytes_are_corruption(vault: SealedVault) -> None:
    """Every single byte counts, the nonce's included; so does the label."""
    opener = vault.opener(TENANT, [])
    sealed = opener.seal("", "x", b"content")
    for at in range(len(sealed)):
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(CorruptionError):
            opener.open("", "x", bytes(altered))
    with pytest.raises(CorruptionError):
        opener.open("", "y", sealed)
    with pytest.raises(CorruptionError):
        opener.open("", "x", sealed[:-1])


def test_destroyed_keys_forget(vault: SealedVault) -> None:
    vault.create_keys(TENANT, {A: (), B: ()})
    opener = vault.opener(TENANT, [A, B])
    sealed = {name: opener.seal(name, "x", b"content") for name in (A, B)}

    assert vault.destroy_keys(TENANT, [A]) == 1
    assert vault.destroy_keys(TENANT, [A]) == 0

    after = vault.opener(TENANT, [A, B])
    with pytest.raises(ForgottenError):
        after.open(A, "x", sealed[A])
    assert after.open(B, "x", sealed[B]) == b"content"
    assert vault.count_keys(TENANT, [A, B]) == 1
    assert vault.list_entry_ids(TENANT) == [B]


def test_subject_keys_are_shared_and_collected_with_their_last_entry(vault: SealedVault) -> None:
    vault.create_keys(TENANT, {A: ("ada", "bo"), B: ("ada",)})
    assert len(list_subject_keys(vault)) == 2
    vault.create_keys(TENANT, {C: ("bo", "bo")})
    assert len(list_subject_keys(vault)) == 2

    assert vault.destroy_keys(TENANT, [A]) == 1
    assert len(list_subject_keys(vault)) == 2
    assert vault.destroy_keys(TENANT, [B]) == 2
    assert len(list_subject_keys(vault)) == 1
    assert vault.destroy_keys(TENANT, [C]) == 2
    assert list_key_names(vault) == {f"tenant:{TENANT}"}
    with vault.database.read() as connection:
        assert connection.execute(sa.select(key_uses)).all() == []


def test_without_any_one_subject_key_the_entry_is_unreadable(vault: SealedVault) -> None:
    """Destroying one subject's key is enough, for every entry about them."""
    vault.create_keys(TENANT, {A: ("ada", "bo"), B: ("cy",)})
    opener = vault.opener(TENANT, [A, B])
    sealed = {name: opener.seal(name, "x", b"content") for name in (A, B)}
    bo = f"subject:{vault.name(TENANT, 'subject-key', b'bo')}"
    with vault.database.write() as connection:
        assert connection.execute(keys.delete().where(keys.c.name == bo)).rowcount == 1

    after = vault.opener(TENANT, [A, B])
    with pytest.raises(ForgottenError):
        after.open(A, "x", sealed[A])
    assert after.open(B, "x", sealed[B]) == b"content"


def test_no_tenant_reaches_another_tenants_keys(vault: SealedVault) -> None:
    vault.create_keys(TENANT, {A: ("ada",)})
    assert vault.count_keys(OTHER, [A]) == 0
    assert vault.destroy_keys(OTHER, [A]) == 0
    assert vault.count_keys(TENANT, [A]) == 1
    assert vault.name(TENANT, "p", b"v") != vault.name(OTHER, "p", b"v")


def test_names_are_stable_and_keyed_by_purpose(vault: SealedVault, tmp_path: Path) -> None:
    name = vault.name(TENANT, "external", b"doc-1")
    assert name != vault.name(TENANT, "source", b"doc-1")
    assert len(name) == 64
    again = open_vault(tmp_path / "keys.db")
    assert again.name(TENANT, "external", b"doc-1") == name
    elsewhere = open_vault(tmp_path / "elsewhere.db")
    assert elsewhere.name(TENANT, "external", b"doc-1") != name
    assert again.secret("s") == vault.secret("s") != vault.secret("z")
    again.close()
    elsewhere.close()


def test_a_wrong_root_key_is_corruption(vault: SealedVault, tmp_path: Path) -> None:
    vault.create_keys(TENANT, {A: ()})
    wrong = open_vault(tmp_path / "keys.db", bytes(32))
    with pytest.raises(CorruptionError):
        wrong.opener(TENANT, [A])
    with pytest.raises(CorruptionError):
        wrong.name(TENANT, "p", b"v")
    wrong.close()
    with pytest.raises(CorruptionError):
        SealedVault(vault.database, ROOT_KEY[:-1])


def test_the_key_store_alone_says_nothing(vault: SealedVault, tmp_path: Path) -> None:
    """Neither subjects nor any key stands in its files in the clear."""
    vault.create_keys(TENANT, {A: ("person:mara",)})
    ring = vault.opener(TENANT, [A])
    plain = [vault._tenant_key(TENANT), ROOT_KEY, b"person:mara", vault.secret("api-keys")]
    vault.database.close()

    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"entry:a" in stored  # the control: the search does find what is there
    assert ring.seal(A, "x", b"y")
    for secret in plain:
        assert secret not in stored
        assert secret.hex().encode() not in stored
