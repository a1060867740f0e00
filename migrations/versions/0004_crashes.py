"""Jobs that end their workers are told from jobs that wait for something"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count from now on; what was tried before may have ended a worker, and is not done with others."""
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
    jobs = sa.table("jobs", sa.column("attempts"), sa.column("crashes"))
    op.get_bind().execute(jobs.update().where(jobs.c.attempts > 0).values(crashes=1))
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("crashes", existing_type=sa.Integer(), server_default=None)


def downgrade() -> None:
    """Forget who ended whom."""
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("crashes")
