"""Addresses learned from guests."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "learned",
        _uuid("port_uuid"),
        _uuid("network_uuid"),
        sa.Column("addresses", sa.JSON, nullable=False),
        sa.Column("version_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("port_uuid", name="pk_learned"),
        _refers("port_uuid", "port.uuid"),
        _refers("network_uuid", "network.uuid"),
    )


def _uuid(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.String(36), nullable=False)


def _refers(column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=f"fk_learned_{column}", deferrable=True, initially="DEFERRED"
    )
