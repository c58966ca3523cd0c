"""Who made a port, and for which VM."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "port_history",
        sa.Column("port_uuid", sa.String(36), nullable=False),
        sa.Column("made_by", sa.String(36), nullable=True),
        sa.Column("vm_uuid", sa.String(36), nullable=True),
        sa.Column("version_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("port_uuid", name="pk_port_history"),
        sa.ForeignKeyConstraint(
            ["port_uuid"],
            ["port.uuid"],
            name="fk_port_history_port_uuid",
            deferrable=True,
            initially="DEFERRED",
        ),
    )
