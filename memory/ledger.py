"""The ledger: every artifact, sealed, and one edge per (artifact, input).

An artifact's name is an HMAC, under the tenant's key, of its recipe and its inputs: making it
again gives the same name. Forgetting walks the edges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import sqlalchemy as sa
import zstandard

from memory.canonical import canonical_json
from memory.database import chunked
from memory.errors import ForgottenError
from memory.tables import artifacts, edges
from memory.values import ArtifactName, JsonValue, TenantId
from memory.vault import Vault


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made: anything that changes the result changes ``digest``."""

    name: str
    version: int
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the canonical JSON of name, version and parameters."""
        value: JsonValue = {"name": self.name, "version": self.version, "parameters": dict(self.parameters)}
        return hashlib.sha256(canonical_json(value)).digest()


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something derived. ``sealed_under`` is the one entry it came from, or empty for several.

    ``inputs`` are entry ids or artifact names.
    """

    name: ArtifactName
    recipe: str
    inputs: tuple[str, ...]
    payload: bytes
    sealed_under: str = ""


def artifact_name(vault: Vault, tenant_id: TenantId, recipe: Recipe, inputs: Iterable[str]) -> ArtifactName:
    """Return the name that this recipe gives to what it makes from these inputs."""
    value = recipe.digest + b"".join(bytes.fromhex(name) for name in sorted(set(inputs)))
    return ArtifactName(vault.name(tenant_id, "artifact", value))


def put(connection: sa.Connection, vault: Vault, tenant_id: TenantId, made: Sequence[Artifact]) -> None:
    """Store artifacts with their edges, replacing those of the same name (which are equal)."""
    delete(connection, tenant_id, [artifact.name for artifact in made])
    opener = vault.opener(tenant_id, [a.sealed_under for a in made if a.sealed_under])  # type: ignore[misc]
    rows = [
        {
            "name": artifact.name,
            "tenant_id": tenant_id,
            "recipe": artifact.recipe,
            "sealed_under": artifact.sealed_under,
            "payload": opener.seal(
                artifact.sealed_under, f"artifact:{artifact.name}", zstandard.compress(artifact.payload)
            ),
        }
        for artifact in made
    ]
    links = [
        {"artifact": artifact.name, "input": name, "tenant_id": tenant_id}
        for artifact in made
        for name in sorted(set(artifact.inputs))
    ]
    if rows:
        connection.execute(artifacts.insert(), rows)
    if links:
        connection.execute(edges.insert(), links)


def add_edges(connection: sa.Connection, tenant_id: TenantId, links: Sequence[tuple[str, str]]) -> None:
    """Record (artifact, input) edges that may be there already."""
    for chunk in chunked(links):
        there = connection.execute(
            sa.select(edges.c.artifact, edges.c.input).where(
                edges.c.input.in_([name for _, name in chunk]), edges.c.tenant_id == tenant_id
            )
        )
        known = {(row.artifact, row.input) for row in there}
        rows = [
            {"artifact": artifact, "input": name, "tenant_id": tenant_id}
            for artifact, name in chunk
            if (artifact, name) not in known
        ]
        if rows:
            connection.execute(edges.insert(), rows)


def drop_edges_from(connection: sa.Connection, tenant_id: TenantId, names: Collection[str]) -> None:
    """Delete the edges that lead from these inputs to whatever was made of them."""
    for chunk in chunked(sorted(names)):
        connection.execute(edges.delete().where(edges.c.tenant_id == tenant_id, edges.c.input.in_(chunk)))


def iter_payloads(
    connection: sa.Connection, vault: Vault, tenant_id: TenantId, names: Sequence[ArtifactName]
) -> Iterator[tuple[ArtifactName, bytes]]:
    """Yield the opened payloads of those artifacts that are there and not being forgotten just now."""
    for chunk in chunked(names):
        rows = connection.execute(
            sa.select(artifacts.c.name, artifacts.c.sealed_under, artifacts.c.payload).where(
                artifacts.c.name.in_(chunk), artifacts.c.tenant_id == tenant_id
            )
        ).all()
        opener = vault.opener(tenant_id, [row.sealed_under for row in rows if row.sealed_under])
        for row in rows:
            try:
                sealed = opener.open(row.sealed_under, f"artifact:{row.name}", row.payload)
            except ForgottenError:
                continue  # its key was destroyed after the row was read
            yield ArtifactName(row.name), zstandard.decompress(sealed)


def list_artifacts(
    connection: sa.Connection, tenant_id: TenantId, recipe: str
) -> list[tuple[ArtifactName, str]]:
    """Return (name, sealed_under) of every artifact of one recipe, by name."""
    rows = connection.execute(
        sa.select(artifacts.c.name, artifacts.c.sealed_under)
        .where(artifacts.c.tenant_id == tenant_id, artifacts.c.recipe == recipe)
        .order_by(artifacts.c.name)
    )
    return [(ArtifactName(row.name), row.sealed_under) for row in rows]


def list_links(
    connection: sa.Connection,
    tenant_id: TenantId,
    recipe: str,
    *,
    over: str | None = None,
    below: str | None = None,
) -> list[tuple[ArtifactName, str]]:
    """Return (artifact, input) of the edges from what a recipe made.

    With ``below`` those to that one input, with ``over`` those from that artifact, else those to what the
    same recipe made.
    """
    made = artifacts.alias("made")
    mine = (edges.c.tenant_id == tenant_id) & (made.c.recipe == recipe) & (made.c.tenant_id == tenant_id)
    query = sa.select(edges.c.artifact, edges.c.input).join(made, made.c.name == edges.c.artifact).where(mine)
    if below is not None:
        query = query.where(edges.c.input == below)
    elif over is not None:
        query = query.where(edges.c.artifact == over)
    else:
        inner = artifacts.alias("inner")
        query = query.join(inner, inner.c.name == edges.c.input).where(
            inner.c.recipe == recipe, inner.c.tenant_id == tenant_id
        )
    rows = connection.execute(query.order_by(edges.c.artifact, edges.c.input))
    return [(ArtifactName(row.artifact), row.input) for row in rows]


def find_closure(connection: sa.Connection, tenant_id: TenantId, roots: Collection[str]) -> set[ArtifactName]:
    """Return every artifact that any of the roots went into, however indirectly."""
    closure: set[ArtifactName] = set()
    frontier = sorted(roots)
    while frontier:
        reached: set[ArtifactName] = set()
        for chunk in chunked(frontier):
            found = connection.scalars(
                sa.select(edges.c.artifact).where(edges.c.input.in_(chunk), edges.c.tenant_id == tenant_id)
            )
            reached |= {ArtifactName(name) for name in found}
        frontier = sorted(reached - closure)
        closure |= reached
    return closure


def delete(connection: sa.Connection, tenant_id: TenantId, names: Collection[str]) -> int:
    """Delete artifacts and the edges to what they were made from; return how many artifacts went.

    Edges from them to artifacts further on go with those artifacts, which are in the same closure.
    """
    deleted = 0
    for chunk in chunked(sorted(names)):
        mine = artifacts.c.name.in_(chunk) & (artifacts.c.tenant_id == tenant_id)
        deleted += connection.execute(artifacts.delete().where(mine)).rowcount
        connection.execute(edges.delete().where(edges.c.artifact.in_(chunk), edges.c.tenant_id == tenant_id))
    return deleted
