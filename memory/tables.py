"""The tables. Content stands only in sealed columns; everything else is random ids, times and keyed hashes.

Content plane: ``entries``, ``artifacts``, ``edges``, ``manifests``.
Control plane: the rest (epochs, tombstones of random ids, jobs, receipts, the transparency log).

No index on ``entries`` or ``artifacts`` begins with the tenant: SQLite, which keeps no statistics, would
take it before the primary key for ``id IN (…) AND tenant_id = …`` and read a whole tenant for a few rows.
No column counts upwards in the content plane: a high-water mark would outlive what it counted.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
key_metadata = sa.MetaData(naming_convention=metadata.naming_convention)

Id = sa.String(64)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("digest", Id, primary_key=True),
    sa.Column("id", Id, nullable=False),
    sa.Column("tenant_id", Id, nullable=False),
    # A label for people; like a tenant's id it is named by who runs the service, and is no content.
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("roles", sa.String(64), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=True),
    sa.Column("revoked_us", sa.BigInteger, nullable=True),
    sa.Column("replaced_by", Id, nullable=True),
    sa.UniqueConstraint("id"),
    sa.Index(None, "tenant_id", "created_us"),
)

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("source_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("external_key", Id, nullable=True),
    sa.Column("recorded_us", sa.BigInteger, nullable=False),
    sa.Column("content_key", Id, nullable=False),
    sa.Column("header", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    # A stream's own entry and its segments; a random id.
    sa.Column("stream_id", Id, nullable=True),
    sa.Index(None, "source_id"),
    sa.Index(None, "external_key"),
    sa.Index(None, "stream_id"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("name", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("recipe", sa.String(32), nullable=False),
    sa.Column("sealed_under", Id, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Index(None, "recipe", "tenant_id"),
)

edges = sa.Table(
    "edges",
    metadata,
    sa.Column("artifact", Id, primary_key=True),
    sa.Column("input", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Index(None, "input"),
)

manifests = sa.Table(
    "manifests",
    metadata,
    sa.Column("tenant_id", Id, primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("artifact", Id, nullable=False),
    sa.Column("folder", sa.String(160), nullable=False),
)

# How far streams have come: numbers of segments that were received, whatever became of them since.
streams = sa.Table(
    "streams",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("next_number", sa.BigInteger, nullable=False),
    # Those received out of turn, behind the next.
    sa.Column("ahead", sa.JSON, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("closed_us", sa.BigInteger, nullable=True),
    sa.Index(None, "tenant_id", "created_us"),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("tenant_id", Id, primary_key=True),
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("entry_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("target", Id, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("lease_token", Id, nullable=True),
    sa.Column("lease_until_us", sa.BigInteger, nullable=False),
    sa.Column("not_before_us", sa.BigInteger, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Index(None, "status", "tenant_id", "created_us"),
    sa.Index(None, "tenant_id", "created_us"),
    sa.Index(None, "target"),
)

denied = sa.Table(
    "denied",
    metadata,
    sa.Column("tenant_id", Id, primary_key=True),
    sa.Column("entry_id", Id, primary_key=True),
    sa.Column("forget_id", Id, nullable=False),
    # A source named by an external id has an id made from that name; its tombstone keeps none.
    sa.Column("source_id", Id, nullable=True),
    sa.Index(None, "forget_id"),
    sa.Index(None, "tenant_id", "source_id"),
)

forgets = sa.Table(
    "forgets",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("scope_digest", Id, nullable=False),
    sa.Column("requested_us", sa.BigInteger, nullable=False),
    sa.Column("fenced_us", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("remaining", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON, nullable=True),
    # Counts and the scan's report, written down before what they tell of is gone.
    sa.Column("evidence", sa.JSON, nullable=True),
    sa.Index(None, "tenant_id", "requested_us"),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("forget_id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, autoincrement=False),
    sa.Column("entry_hash", Id, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    sa.UniqueConstraint("position"),
)

# Which processes have a tenant's index open, none of it older than the epoch, until when.
searchers = sa.Table(
    "searchers",
    metadata,
    sa.Column("process", Id, primary_key=True),
    sa.Column("tenant_id", Id, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
)

keys = sa.Table(
    "keys",
    key_metadata,
    sa.Column("name", sa.String(160), primary_key=True),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)

key_uses = sa.Table(
    "key_uses",
    key_metadata,
    sa.Column("entry_id", Id, primary_key=True),
    sa.Column("subject_key", sa.String(160), primary_key=True),
    sa.Index(None, "subject_key"),
)
