"""Further MACs behind a port's VIF, defined and learned."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (("port", "nested"), ("learned", "macs")):
        op.add_column(table, sa.Column(column, sa.JSON, nullable=False, server_default="[]"))
        if (
            op.get_bind().dialect.name != "sqlite"
        ):  # SQLite needs the default to add the column, and can't drop it after
            op.alter_column(table, column, server_default=None)
