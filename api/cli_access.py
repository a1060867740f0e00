"""Commands that say who may do what: ``keys`` and ``tenants``.

A new key goes to standard output alone on its line, so that it can be piped into a file; all that is said
about it goes to standard error.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Column, Table
from rich.text import Text

from api.terminal import SERVICE_URL, Data, Key, Url, connect, errors, output, plain
from memory.errors import InvalidInputError

if TYPE_CHECKING:
    from api.replies import NewKeyReply
    from service.views import Role

keys = typer.Typer(help="API keys of your tenant.", no_args_is_help=True)
tenants = typer.Typer(help="Tenants, for who runs the service.", no_args_is_help=True)

_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class RoleName(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    FORGET = "forget"
    ADMIN = "admin"


KeyId = Annotated[str, typer.Argument(help="the id of a key, from: lethe keys list")]
Expires = Annotated[str | None, typer.Option(help="how long it lasts, such as 12h or 90d")]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="what it is for")],
    role: Annotated[list[RoleName], typer.Option(help="what it may do (repeatable)")],
    expires: Expires = None,
    tenant: Annotated[str | None, typer.Option(help="another tenant, for its first admin key")] = None,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Make a key, and print it this once."""
    lifetime = None if expires is None else duration_seconds(expires, "--expires")
    with connect(url, key, data) as client:
        roles = cast("list[Role]", [one.value for one in role])
        new = client.create_key(name, roles, expires_in_seconds=lifetime, tenant=tenant)
    _show(new)


@keys.command("list")
def list_keys(url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """List the keys of the tenant, those that ended too."""
    with connect(url, key, data) as client:
        found = client.list_keys()
    table = Table(Column("id", overflow="fold"), "name", "roles", "made", "until")
    for one in found:
        if one["revoked_at"] is not None:
            until = f"revoked {one['revoked_at']}"
        else:
            until = one["expires_at"] or "no end"
        if one["replaced_by"] is not None:
            until += f", replaced by {one['replaced_by']}"
        cells = (one["id"], one["name"], " ".join(one["roles"]), one["created_at"], until)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    output().print(table)


@keys.command("rotate")
def rotate_key(
    id: KeyId,
    overlap: Annotated[str, typer.Option(help="how long the old key goes on working, such as 1h")] = "0s",
    expires: Expires = None,
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Replace a key by a new one, and print that this once."""
    lifetime = None if expires is None else duration_seconds(expires, "--expires")
    seconds = duration_seconds(overlap, "--overlap")
    with connect(url, key, data) as client:
        _show(client.rotate_key(id, overlap_seconds=seconds, expires_in_seconds=lifetime))


@keys.command("revoke")
def revoke_key(id: KeyId, url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """End a key at once."""
    with connect(url, key, data) as client:
        client.revoke_key(id)
    output().print("revoked")


@tenants.command("create")
def create_tenant(
    tenant: Annotated[str, typer.Argument(help="its name: a-z, 0-9, - and _")],
    url: Url = SERVICE_URL,
    key: Key = None,
    data: Data = None,
) -> None:
    """Make a tenant, and its first admin key, which is printed this once."""
    with connect(url, key, data) as client:
        client.create_tenant(tenant)
        _show(client.create_key(f"first key of {tenant}", ["admin"], tenant=tenant))


@tenants.command("list")
def list_tenants(url: Url = SERVICE_URL, key: Key = None, data: Data = None) -> None:
    """List tenants."""
    with connect(url, key, data) as client:
        found = client.list_tenants()
    table = Table("tenant", "made")
    for one in found:
        table.add_row(Text(plain(one["id"])), one["created_at"])
    output().print(table)


def duration_seconds(text: str, where: str) -> int:
    """Return the seconds that ``90d``, ``12h``, ``5m`` or ``30s`` stand for."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text!r} is no duration such as 30s, 5m, 12h or 90d", where=where)
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _show(new: NewKeyReply) -> None:
    until = new["expires_at"] or "it is revoked"
    errors().print(
        f"key {new['id']} of tenant {new['tenant']} may {', '.join(new['roles'])} until {until}; "
        "it is shown this once:",
        markup=False,
        soft_wrap=True,
    )
    typer.echo(new["key"])
