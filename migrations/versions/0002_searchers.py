"""Who searches, so that a forget knows whom to wait for"""

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


def downgrade() -> None:
    """Take back."""
    op.drop_table("searchers")
