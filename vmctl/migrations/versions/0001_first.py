"""Hosts, VMs, the journal of moves: what vmctl kept before its store had migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("uuid", sa.Text, unique=True),
        sa.Column("libvirt_uri", sa.Text, nullable=False),
        sa.Column("peer_uri", sa.Text, nullable=False),
        sa.Column("migration_address", sa.Text, nullable=False),
        sa.Column("agent_address", sa.Text, nullable=False),
    )
    op.create_table(
        "vms",
        sa.Column("uuid", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("xml", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("ips", sa.Text, nullable=False),
    )
    table = op.create_table(
        "migrations",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("vm_uuid", sa.Text, nullable=False),
        sa.Column("vm_name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Text, nullable=False),
        sa.Column("total_ms", sa.Integer),
        sa.Column("downtime_ms", sa.Integer),
        sa.Column("transferred_mib", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_migrations_vm_uuid", "migrations", ["vm_uuid"])
    is_open = table.c.state.not_in(["done", "failed"])
    op.create_index(
        "one_open_move_a_vm", "migrations", ["vm_uuid"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
