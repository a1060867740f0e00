"""Keys that end: ids, names, expiry, revocation and rotation of API keys"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FIRST_KEY = "made before keys had names"

api_keys = sa.table(
    "api_keys", sa.column("digest"), sa.column("id"), sa.column("name"), sa.column("expires_us"),
    sa.column("revoked_us"),
)  # fmt: skip


def upgrade() -> None:
    """Add the columns; the keys that are there go on working, under ids made here."""
    with op.batch_alter_table("api_keys") as batch:
        batch.add_column(sa.Column("id", sa.String(64), nullable=True))
        batch.add_column(sa.Column("name", sa.String(200), nullable=True))
        batch.add_column(sa.Column("expires_us", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("revoked_us", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("replaced_by", sa.String(64), nullable=True))
    connection = op.get_bind()
    for digest in connection.scalars(sa.select(api_keys.c.digest)).all():
        connection.execute(
            api_keys.update().where(api_keys.c.digest == digest).values(id=uuid4().hex, name=FIRST_KEY)
        )
    with op.batch_alter_table("api_keys") as batch:
        batch.alter_column("id", existing_type=sa.String(64), nullable=False)
        batch.alter_column("name", existing_type=sa.String(200), nullable=False)
        batch.create_unique_constraint(batch.f("uq_api_keys_id"), ["id"])
        batch.create_index(batch.f("ix_api_keys_tenant_id_created_us"), ["tenant_id", "created_us"])


def downgrade() -> None:
    """Take back. Before, no key could end: keys that have ended or will are deleted, lest they live on."""
    op.get_bind().execute(
        api_keys.delete().where(api_keys.c.revoked_us.is_not(None) | api_keys.c.expires_us.is_not(None))
    )
    with op.batch_alter_table("api_keys") as batch:
        batch.drop_index(batch.f("ix_api_keys_tenant_id_created_us"))
        batch.drop_constraint(batch.f("uq_api_keys_id"), type_="unique")
        for column in ("replaced_by", "revoked_us", "expires_us", "name", "id"):
            batch.drop_column(column)
