"""Sub-ports: the parent whose VIF carries a port's frames, and their tag."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("port", sa.Column("parent_port", sa.String(36), nullable=True))
    op.add_column("port", sa.Column("tag", sa.Integer, nullable=False, server_default="0"))
    if op.get_bind().dialect.name != "sqlite":  # SQLite needs the default to add the column, and can't drop it after
        op.alter_column("port", "tag", server_default=None)
    op.create_index("uq_port_parent_port_tag", "port", ["parent_port", "tag"], unique=True)
