"""Security groups, and the groups of a port."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "security_group",
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stateful", sa.Boolean, nullable=False),
        sa.Column("rules", sa.JSON, nullable=False),
        sa.Column("members_at", sa.BigInteger, nullable=False),
        sa.Column("version_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_security_group"),
        sa.UniqueConstraint("name", name="uq_security_group_name"),
    )
    op.add_column("port", sa.Column("security_groups", sa.JSON, nullable=False, server_default="[]"))
    if op.get_bind().dialect.name != "sqlite":  # SQLite needs the default to add the column, and can't drop it after
        op.alter_column("port", "security_groups", server_default=None)
