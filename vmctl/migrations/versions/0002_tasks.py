"""Tasks and events; moves with their kind, policy and what the destination had before; links of known speed.

A VM may begin another move once the last one is settled, although something is still to be cleaned up. The row that
told the version before there were migrations goes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("DROP TABLE IF EXISTS vmctl_schema"))
    op.add_column("hosts", sa.Column("migration_mbps", sa.Integer, nullable=False, server_default="0"))
    op.add_column("migrations", sa.Column("kind", sa.Text, nullable=False, server_default="live"))
    op.add_column("migrations", sa.Column("policy", sa.Text, nullable=False, server_default="{}"))
    op.add_column("migrations", sa.Column("had_copy", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("migrations", sa.Column("gap_ms", sa.Integer))
    op.add_column("migrations", sa.Column("task_id", sa.Integer))
    op.execute(sa.text("UPDATE migrations SET state = 'reserved' WHERE state = 'checked'"))
    op.drop_index("one_open_move_a_vm", "migrations")
    is_open = sa.column("state").not_in(["committed", "undoing", "done", "failed"])
    op.create_index(
        "one_open_move_a_vm", "migrations", ["vm_uuid"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Integer),
        sa.Column("migration_id", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("ref", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_ref", "events", ["ref"])
