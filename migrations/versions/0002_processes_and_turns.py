"""Who searches, so that a forget knows whom to wait for; tenants take turns"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "searchers",
        sa.Column("process", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("process", "tenant_id", name=op.f("pk_searchers")),
    )
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_index("ix_jobs_status_kind_created_us")
        jobs.create_index("ix_jobs_status_tenant_id_created_us", ["status", "tenant_id", "created_us"])


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_index("ix_jobs_status_tenant_id_created_us")
        jobs.create_index("ix_jobs_status_kind_created_us", ["status", "kind", "created_us"])
    op.drop_table("searchers")
