"""How much a tenant holds: counts from the databases and the index, and bytes tier by tier."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from memory.kernel import Kernel, get_position
from memory.tables import artifacts, certificates, denied, entries, forgets
from memory.values import JsonValue, TenantId
from service.generation import Generation


def measure(kernel: Kernel, generation: Generation, tenant_id: TenantId) -> dict[str, JsonValue]:
    """Return counts and sizes of what a tenant holds, and how far the work is."""
    state = generation.state
    hidden = sa.select(denied.c.entry_id).where(denied.c.tenant_id == tenant_id)
    mine = (entries.c.tenant_id == tenant_id) & entries.c.id.not_in(hidden)
    shown = state.valid_until > 0
    with kernel.database.read() as connection:
        position = get_position(connection, tenant_id)
        sealed = sa.func.sum(sa.func.length(entries.c.header) + sa.func.length(entries.c.body))
        held, journal = connection.execute(sa.select(sa.func.count(), sealed).where(mine)).one()
        kinds = connection.execute(
            sa.select(artifacts.c.recipe, sa.func.count(), sa.func.sum(sa.func.length(artifacts.c.payload)))
            .where(artifacts.c.tenant_id == tenant_id, artifacts.c.sealed_under.not_in(hidden))
            .group_by(artifacts.c.recipe)
        ).all()
        states = connection.execute(
            sa.select(forgets.c.state, sa.func.count())
            .where(forgets.c.tenant_id == tenant_id)
            .group_by(forgets.c.state)
        ).all()
        certified = connection.scalar(
            sa.select(sa.func.count()).select_from(certificates).where(certificates.c.tenant_id == tenant_id)
        )
    visible = int(state.list_visible(None).sum())
    return {
        "epoch": position.epoch,
        "entries": held,
        "sources": visible,
        "passages": int(state.passages[shown].sum()),
        "nodes": int(state.nodes[shown].sum()),
        "tiers": _tiers(generation, int(journal or 0) + sum(int(size or 0) for _, _, size in kinds)),
        "artifacts": {recipe: {"count": count, "bytes": int(size or 0)} for recipe, count, size in kinds},
        "jobs": dict(kernel.jobs.count_open(tenant_id)),
        "forgets": {name: int(count) for name, count in states},
        "certificates": certified or 0,
    }


def _tiers(generation: Generation, sealed: int) -> dict[str, JsonValue]:
    """Return the bytes of what is not hidden, tier by tier, and of each passage: codes in memory, rows of
    bytes and of half precision in files, those of what is new whole in memory, and the sealed content.
    """
    state, dimension = generation.state, generation.vectors.dimension
    shown = state.valid_until > 0
    rows = (state.passages + state.nodes)[shown]
    in_files = int(rows[: np.count_nonzero(shown[: state.saved_entries])].sum())
    coded = in_files if generation.vectors.has_codes else 0
    passages = max(1, int(state.passages[shown].sum()))
    tiers = {
        "codes": coded * (-(-dimension // 8) + 8),
        "int8_vectors": coded * (dimension + 4),
        "vectors": in_files * dimension * 2,
        "new_vectors": (int(rows.sum()) - coded) * dimension * 4,
        "content": sealed,
    }
    return {name: {"bytes": size, "per_passage": round(size / passages, 1)} for name, size in tiers.items()}
