"""Streams: recordings and transcripts that come in segments, each an entry of its own"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No entry is a part of a stream yet."""
    op.create_table(
        "streams",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("next_number", sa.BigInteger(), nullable=False),
        sa.Column("ahead", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("closed_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
    )
    op.create_index("ix_streams_tenant_id_created_us", "streams", ["tenant_id", "created_us"])
    with op.batch_alter_table("entries") as batch:
        batch.add_column(sa.Column("stream_id", sa.String(64), nullable=True))
        batch.create_index("ix_entries_stream_id", ["stream_id"])


def downgrade() -> None:
    """Segments stay as entries that nothing knows the order of."""
    with op.batch_alter_table("entries") as batch:
        batch.drop_index("ix_entries_stream_id")
        batch.drop_column("stream_id")
    op.drop_table("streams")
