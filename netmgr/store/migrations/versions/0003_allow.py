"""What a port's guest may say that no other may."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("port", sa.Column("allow", sa.JSON, nullable=False, server_default="[]"))
    if op.get_bind().dialect.name != "sqlite":  # SQLite needs the default to add the column, and can't drop it after
        op.alter_column("port", "allow", server_default=None)
