"""Keys: what is stored, when they end, and that a tenant is never left without an admin."""

from __future__ import annotations

import re
import threading

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from memory.tables import api_keys
from memory.values import TenantId
from service.access import Access
from service.cursor import make_cursor, read_cursor
from tests.service.harness import TENANT, House

OTHER = TenantId("other")


@pytest.fixture
def access(house: House) -> Access:
    house.lethe.access.create_tenant(OTHER)
    return house.lethe.access


def works(access: Access, key: str) -> bool:
    try:
        access.authenticate(key)
    except ForbiddenError:
        return False
    return True


def first_admin(house: House) -> str:
    """Return the id of the key in ``admin.key``."""
    return house.lethe.authenticate(house.lethe.admin_key_file.read_text().strip()).key_id


def test_only_a_keyed_digest_is_stored(house: House, access: Access) -> None:
    new = access.issue(TENANT, ("read",), name="web")
    house.lethe.kernel.database.purge(["api_keys"])

    assert re.fullmatch(r"lethe_[A-Za-z0-9_-]{43}", new.key)
    with house.lethe.kernel.database.read() as connection:
        [digest] = connection.scalars(sa.select(api_keys.c.digest).where(api_keys.c.id == new.view.id))
    assert digest == access.digest(new.key)
    assert Access(access.kernel, b"another pepper" * 3, TENANT).digest(new.key) != digest
    for path in house.data.rglob("*"):
        if path.is_file() and path.name != "admin.key":
            assert new.key.encode() not in path.read_bytes()


@pytest.mark.parametrize("house", ["sqlite"], indirect=True)  # whose plans are the same each time
def test_checking_a_key_is_one_lookup_by_its_primary_key(house: House, access: Access) -> None:
    key = access.issue(TENANT, ("read",), name="web").key
    statements: list[str] = []
    engine = house.lethe.kernel.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(event[2]))

    access.authenticate(key)

    [statement] = [one for one in statements if "SELECT" in one]
    with house.lethe.kernel.database.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("x",)).all()
    assert [row.detail for row in plan] == [
        "SEARCH api_keys USING INDEX sqlite_autoindex_api_keys_1 (digest=?)"
    ]


def test_a_key_ends_when_it_expires(house: House, access: Access) -> None:
    key = access.issue(TENANT, ("read",), name="web", lifetime_seconds=10).key
    house.clock.now_us += 9_999_999
    assert works(access, key)
    house.clock.now_us += 1
    assert not works(access, key)


def test_a_revoked_key_is_refused_by_another_process_at_once(house: House, access: Access) -> None:
    new = access.issue(TENANT, ("read",), name="web")
    elsewhere = Access(access.kernel, access._pepper, TENANT)
    assert works(elsewhere, new.key)

    access.revoke(TENANT, new.view.id)

    assert not works(elsewhere, new.key)


@pytest.mark.parametrize(("lifetime", "overlap", "ends_in"), [(None, 60, 60), (30, 60, 30), (None, 0, 0)])
def test_rotation_changes_the_secret_and_prolongs_nothing(
    house: House, access: Access, lifetime: int | None, overlap: int, ends_in: int
) -> None:
    old = access.issue(TENANT, ("read", "write"), name="web", lifetime_seconds=lifetime)
    new = access.rotate(TENANT, old.view.id, overlap_seconds=overlap)

    assert (new.view.roles, new.view.name, new.view.expires_at) == (
        old.view.roles, old.view.name, old.view.expires_at,
    )  # fmt: skip
    assert new.key != old.key
    assert works(access, old.key) == (ends_in > 0)
    house.clock.now_us += ends_in * 1_000_000
    assert not works(access, old.key)
    assert works(access, new.key) == (lifetime is None)


def test_a_key_is_rotated_once_and_while_it_works(house: House, access: Access) -> None:
    old = access.issue(TENANT, ("read",), name="web").view
    access.rotate(TENANT, old.id, overlap_seconds=60)
    with pytest.raises(ConflictError, match="rotated already"):
        access.rotate(TENANT, old.id, overlap_seconds=60)
    ended = access.issue(TENANT, ("read",), name="web", lifetime_seconds=1).view
    house.clock.now_us += 1_000_000
    with pytest.raises(ConflictError, match="expired or was revoked"):
        access.rotate(TENANT, ended.id, overlap_seconds=60)


def test_the_last_admin_key_is_not_revoked(house: House, access: Access) -> None:
    """Keys that have ended, are being replaced, may not administer or are another tenant's do not count."""
    last = first_admin(house)
    access.issue(OTHER, ("admin",), name="elsewhere")
    access.issue(TENANT, ("read", "write", "forget"), name="no admin")
    access.issue(TENANT, ("admin",), name="over", lifetime_seconds=1)
    house.clock.now_us += 1_000_000
    with pytest.raises(ConflictError, match="last admin key"):
        access.revoke(TENANT, last)

    successor = access.rotate(TENANT, last, overlap_seconds=3600).view.id
    with pytest.raises(ConflictError, match="last admin key"):
        access.revoke(TENANT, successor)
    access.revoke(TENANT, last)
    access.issue(TENANT, ("admin",), name="another")
    assert access.revoke(TENANT, successor).revoked_at is not None


def test_two_admins_who_revoke_each_other_at_once_do_not_both_succeed(house: House, access: Access) -> None:
    for _ in range(20):
        ids = [access.issue(OTHER, ("admin",), name="n").view.id for _ in range(2)]
        left = [
            view.id for view in access.list_keys(OTHER, cursor=None, limit=500).items if not view.revoked_at
        ]
        for id in set(left) - set(ids):
            access.revoke(OTHER, id)
        refused: list[str] = []

        def revoke(id: str, refused: list[str] = refused) -> None:
            try:
                access.revoke(OTHER, id)
            except ConflictError:
                refused.append(id)

        threads = [threading.Thread(target=revoke, args=(id,)) for id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1


def test_another_tenants_key_is_no_key(access: Access) -> None:
    theirs = access.issue(OTHER, ("admin",), name="n").view.id
    for attempt in (
        lambda: access.revoke(TENANT, theirs),
        lambda: access.rotate(TENANT, theirs, overlap_seconds=0),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert theirs not in [view.id for view in access.list_keys(TENANT, cursor=None, limit=500).items]


def test_the_operator_gets_into_a_tenant_only_where_nobody_can(house: House, access: Access) -> None:
    first = access.issue_first(OTHER, ("admin",), name="first", lifetime_seconds=10)
    with pytest.raises(ConflictError, match="has an admin key"):
        access.issue_first(OTHER, ("admin",), name="second")
    house.clock.now_us += 10_000_000
    assert not works(access, first.key)
    assert works(access, access.issue_first(OTHER, ("admin",), name="locked out").key)


def test_only_admins_of_the_default_tenant_are_operators(access: Access) -> None:
    kinds = [(TENANT, "admin"), (TENANT, "write"), (OTHER, "admin")]
    keys = [access.issue(tenant_id, (role,), name="n").key for tenant_id, role in kinds]
    assert [access.authenticate(key).operator for key in keys] == [True, False, False]


def test_a_revoked_first_key_stays_revoked_and_a_lost_one_is_made_anew(house: House, access: Access) -> None:
    """Who can write the data folder can always get in again: without ``admin.key`` a start makes one."""
    path = house.lethe.admin_key_file
    old = path.read_text().strip()
    access.issue(TENANT, ("admin",), name="another")
    access.revoke(TENANT, first_admin(house))
    house.restart()
    assert not works(house.lethe.access, old)

    path.unlink()
    house.restart()
    assert works(house.lethe.access, path.read_text().strip())
    assert path.stat().st_mode & 0o077 == 0


def test_keys_and_tenants_are_listed_by_pages(house: House, access: Access) -> None:
    """Of the same moment too: the clock stands still."""
    made = {access.issue(OTHER, ("read",), name=str(number)).view.id for number in range(7)}
    tenants = {access.create_tenant(TenantId(f"t{number}")).id for number in range(4)} | {TENANT, OTHER}
    for listed, wanted in (
        (lambda **page: access.list_keys(OTHER, **page), made),
        (access.list_tenants, tenants),
    ):
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = listed(cursor=cursor, limit=3)
            found += [view.id for view in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(found) == len(wanted)
        assert set(found) == wanted


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_cursor_comes_back_unless_no_database_could_take_it(micros: int, name: str) -> None:
    if "\0" in name:
        with pytest.raises(InvalidInputError):
            read_cursor(make_cursor(micros, name))
    else:
        assert read_cursor(make_cursor(micros, name)) == (micros, name)
