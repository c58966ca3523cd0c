"""Withdrawals; shadow ports, which have the MAC of another port."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NO_SHADOW = sa.text("shadow_of IS NULL")


def upgrade() -> None:
    op.create_table(
        "withdrawal",
        _uuid("uuid"),
        _uuid("network_uuid"),
        _uuid("host_uuid", nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("since", sa.Text, nullable=False),
        sa.Column("version_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_withdrawal"),
        _refers("withdrawal", "network_uuid", "network.uuid"),
        _refers("withdrawal", "host_uuid", "host.uuid"),
        sa.UniqueConstraint("network_uuid", "host_uuid", name="uq_withdrawal_network_uuid_host_uuid"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_ports()
    else:
        op.add_column("port", _uuid("shadow_of", nullable=True))
        op.create_foreign_key(
            "fk_port_shadow_of", "port", "port", ["shadow_of"], ["uuid"], deferrable=True, initially="DEFERRED"
        )
        op.drop_constraint("uq_port_network_uuid_mac", "port", type_="unique")
    op.create_index(
        "uq_port_network_uuid_mac",
        "port",
        ["network_uuid", "mac"],
        unique=True,
        sqlite_where=_NO_SHADOW,
        postgresql_where=_NO_SHADOW,
    )


def _rebuild_ports() -> None:
    """SQLite can't drop a constraint, so the table is made anew.

    The locations step aside meanwhile: to drop a table that rows refer to would count as so many broken references,
    and foreign keys can't be switched off within a transaction.
    """
    op.execute("CREATE TABLE old_location AS SELECT * FROM location")
    op.execute("DELETE FROM location")
    op.execute("CREATE TABLE old_port AS SELECT * FROM port")
    op.drop_table("port")
    op.create_table(
        "port",
        _uuid("uuid"),
        sa.Column("name", sa.Text, nullable=False),
        _uuid("network_uuid"),
        _uuid("vif_uuid", nullable=True),
        sa.Column("mac", sa.Text, nullable=False),
        sa.Column("ips", sa.JSON, nullable=False),
        sa.Column("admin_up", sa.Boolean, nullable=False),
        _uuid("shadow_of", nullable=True),
        sa.Column("version_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_port"),
        _refers("port", "network_uuid", "network.uuid"),
        _refers("port", "shadow_of", "port.uuid"),
        sa.UniqueConstraint("network_uuid", "name", name="uq_port_network_uuid_name"),
        sa.UniqueConstraint("vif_uuid", name="uq_port_vif_uuid"),
    )
    columns = "uuid, name, network_uuid, vif_uuid, mac, ips, admin_up, version_revision"
    op.execute(f"INSERT INTO port ({columns}) SELECT {columns} FROM old_port")
    op.execute("INSERT INTO location SELECT * FROM old_location")
    op.drop_table("old_port")
    op.drop_table("old_location")


def _uuid(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(36), nullable=nullable)


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=f"fk_{table}_{column}", deferrable=True, initially="DEFERRED"
    )
