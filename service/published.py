"""Which index files are the tenant's now: the rows of the manifest, and the clearing away of all others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from memory.errors import CorruptionError
from memory.faults import point
from memory.kernel import Kernel
from memory.tables import manifests
from memory.values import ArtifactName, TenantId
from service.catalog import list_catalog_files

CATALOG = "index"
WORDS = "words"
COLLECTION = "collection"
ENGINE = "engine"
"""The collection that vectors may be in, from before the first goes there until it is seen to be gone."""
LIVE_FOLDER = "words"
"""Where the word indexes of running processes lie, in folders of their own."""


@dataclass(frozen=True, slots=True)
class Published:
    """The names of what is published: the catalog's file and the folder of the words saved with it.

    ``collection`` names the one in Milvus that holds the catalog's rows, too; ``None`` where none does.
    """

    catalog: str
    words: str
    collection: str | None = None


def find_published(kernel: Kernel, tenant_id: TenantId) -> Published | None:
    """Return what the manifest names; ``None`` before anything was saved."""
    with kernel.database.read() as connection:
        rows = connection.execute(
            sa.select(manifests.c.kind, manifests.c.folder).where(manifests.c.tenant_id == tenant_id)
        )
        named = {row.kind: str(row.folder) for row in rows}
    if not {CATALOG, WORDS} <= named.keys():
        return None
    return Published(named[CATALOG], named[WORDS], named.get(COLLECTION))


def publish(kernel: Kernel, tenant_id: TenantId, artifact: ArtifactName, published: Published) -> None:
    """Name what all processes open from now on."""
    named = {CATALOG: published.catalog, WORDS: published.words}
    if published.collection is not None:
        named[COLLECTION] = published.collection
    with kernel.database.write() as connection:
        mine = (manifests.c.tenant_id == tenant_id) & (manifests.c.kind != ENGINE)
        connection.execute(manifests.delete().where(mine))
        connection.execute(
            manifests.insert(),
            [
                {"tenant_id": tenant_id, "kind": kind, "artifact": artifact, "folder": name}
                for kind, name in named.items()
            ],
        )


def find_engine(kernel: Kernel, tenant_id: TenantId) -> str | None:
    """Return the collection that the tenant's vectors may be in, whether or not it is searched."""
    with kernel.database.read() as connection:
        return connection.scalar(
            sa.select(manifests.c.folder).where(
                manifests.c.tenant_id == tenant_id, manifests.c.kind == ENGINE
            )
        )


def note_engine(kernel: Kernel, tenant_id: TenantId, artifact: ArtifactName, name: str | None) -> None:
    """Write down the collection that the tenant's vectors may be in from now on; ``None``: in none."""
    with kernel.database.write() as connection:
        mine = (manifests.c.tenant_id == tenant_id) & (manifests.c.kind == ENGINE)
        connection.execute(manifests.delete().where(mine))
        if name is not None:
            row = {"tenant_id": tenant_id, "kind": ENGINE, "artifact": artifact, "folder": name}
            connection.execute(manifests.insert().values(row))


def delete_unnamed(
    folder: Path, published: Published | None, list_kept: Callable[[], Mapping[str, bool]]
) -> None:
    """Delete every file and word index in a tenant's folder that is not published and nobody's.

    ``list_kept`` tells of each living process's prefix, or of a whole folder's name, that it is to be kept.
    """
    if not folder.exists():
        return
    # In this order: a process says that it is there before it makes a word index, and deletes it before it
    # says that it left. So of those seen here the process is told below, or they are gone by then.
    live = list((folder / LIVE_FOLDER).glob("*"))
    keep = list_kept()
    named: set[str] = set()
    if published is not None:
        named = {published.words, published.catalog}
        # What a damaged one named is not to be had anyhow; it is remade from the ledger.
        with suppress(CorruptionError, FileNotFoundError):
            named |= list_catalog_files(folder, published.catalog)
    stale = [path for path in folder.iterdir() if path.name not in named and path.name != LIVE_FOLDER]
    for path in live:
        if path.exists() and not keep.get(path.name, keep.get(path.name.partition("-")[0], False)):
            stale.append(path)
    for path in stale:
        remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder of an index."""
    if path.is_file():
        point("index.unlink")
        path.unlink()
    else:
        point("index.rmtree")
        shutil.rmtree(path)
