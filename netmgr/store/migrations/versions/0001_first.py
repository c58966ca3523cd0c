"""Zones, switches, hosts, networks, ports, locations, tokens, freed segments, the change log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _uuid(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(36), nullable=nullable)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False)


def _list(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON, nullable=False)


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=False)


def _version() -> sa.Column[Any]:
    return sa.Column("version_revision", sa.BigInteger, nullable=False)


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=f"fk_{table}_{column}", deferrable=True, initially="DEFERRED"
    )


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def upgrade() -> None:
    op.create_table(
        "zone",
        _uuid("uuid"),
        _text("name"),
        _text("kind"),
        _version(),
        _key("zone", "uuid"),
        _unique("zone", "name"),
    )
    op.create_table(
        "switch",
        _uuid("uuid"),
        _text("name"),
        _list("zone_uuids"),
        _list("pnic_globs"),
        _int("mtu"),
        _text("vtep_pool"),
        _text("teaming"),
        _version(),
        _key("switch", "uuid"),
        _unique("switch", "name"),
    )
    op.create_table(
        "host",
        _uuid("uuid"),
        _text("name"),
        _list("zone_uuids"),
        _list("vteps"),
        _list("pnics"),
        _text("view_address"),
        _text("boot_id"),
        _list("past_boot_ids"),
        _text("certificate_sha256"),
        _text("public_key_sha256"),
        _text("joined_at"),
        _version(),
        _key("host", "uuid"),
        _unique("host", "name"),
    )
    op.create_table(
        "network",
        _uuid("uuid"),
        _text("name"),
        _text("type"),
        _uuid("zone_uuid"),
        _uuid("switch_uuid"),
        _int("segment_id"),
        _text("attach_mode"),
        _int("mtu"),
        _list("subnets"),
        _version(),
        _key("network", "uuid"),
        _refers("network", "zone_uuid", "zone.uuid"),
        _refers("network", "switch_uuid", "switch.uuid"),
        _unique("network", "name"),
        _unique("network", "switch_uuid", "segment_id"),
        sa.CheckConstraint("segment_id BETWEEN 1 AND 16777215", name=op.f("ck_network_segment_id_range")),
    )
    op.create_table(
        "port",
        _uuid("uuid"),
        _text("name"),
        _uuid("network_uuid"),
        _uuid("vif_uuid", nullable=True),
        _text("mac"),
        _list("ips"),
        sa.Column("admin_up", sa.Boolean, nullable=False),
        _version(),
        _key("port", "uuid"),
        _refers("port", "network_uuid", "network.uuid"),
        _unique("port", "network_uuid", "name"),
        _unique("port", "network_uuid", "mac"),
        _unique("port", "vif_uuid"),
    )
    op.create_table(
        "location",
        _uuid("port_uuid"),
        _uuid("network_uuid"),
        _uuid("holder_host", nullable=True),
        _text("holder_vtep"),
        _uuid("incoming_host", nullable=True),
        _text("incoming_vtep"),
        sa.Column("parked", sa.Boolean, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        _text("mac"),
        _version(),
        _key("location", "port_uuid"),
        _refers("location", "port_uuid", "port.uuid"),
        _refers("location", "network_uuid", "network.uuid"),
        _refers("location", "holder_host", "host.uuid"),
        _refers("location", "incoming_host", "host.uuid"),
    )
    op.create_table(
        "token",
        _uuid("uuid"),
        _text("secret_sha256"),
        _text("expires_at"),
        _text("host_name"),
        _list("zone_uuids"),
        _uuid("used_by", nullable=True),
        _version(),
        _key("token", "uuid"),
    )
    op.create_table(
        "freed_segment",
        _uuid("uuid"),
        _text("network_name"),
        _uuid("switch_uuid"),
        _int("segment_id"),
        _list("host_uuids"),
        _version(),
        _key("freed_segment", "uuid"),
    )
    op.create_table(
        "change",
        sa.Column("revision", sa.BigInteger, nullable=False),
        _int("seq"),
        _text("kind"),
        _uuid("uuid"),
        sa.Column("row", sa.JSON(none_as_null=True), nullable=True),
        _key("change", "revision", "seq"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), nullable=False),
        _text("value"),
        _key("meta", "key"),
    )
