"""Placement: needs of VMs, rules, settings, hosts in maintenance."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "placement_needs",
        sa.Column("vm_uuid", sa.Text, primary_key=True),
        sa.Column("disk_mib", sa.Integer, nullable=False),
        sa.Column("bandwidth_mbps", sa.Integer, nullable=False),
    )
    op.create_table(
        "placement_rules",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
    )
    op.create_table(
        "placement_members",
        sa.Column("rule", sa.Text, sa.ForeignKey("placement_rules.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("vm_uuid", sa.Text, primary_key=True),
    )
    op.create_table(
        "placement_settings",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "maintenance",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("since", sa.Text, nullable=False),
        sa.Column("evacuating", sa.Boolean, nullable=False),
    )
