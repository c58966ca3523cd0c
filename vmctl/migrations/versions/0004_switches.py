"""Traditional switches, on which hosts they were realized as wanted, and local changes that were put back."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("switch_manager", sa.Column("uuid", sa.Text, primary_key=True))
    op.create_table(
        "switches",
        sa.Column("uuid", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
    )
    op.create_table(
        "switch_realized",
        sa.Column("switch", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
    )
    op.create_table(
        "switch_drifts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("switch", sa.Text, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_switch_drifts_switch", "switch_drifts", ["switch"])
