"""The tables: one a kind with typed columns, the change log, and facts about the database itself.

Glossary. A *row* is one value of `netmgr.model`; its columns have its field names. A *change* is one row as of one
committed transaction, or its removal. A *revision* numbers transactions without gaps.

The rules of the model are enforced by `netmgr.rules` before anything is written. Unique constraints and foreign keys
here are the second line of defence: they hold even against a bug in the first. Foreign keys are checked at commit, so
that one transaction may replace rows that refer to each other. Lists are JSON columns: they are read and written whole.

Migrations in `migrations/versions` build these tables; a test compares both, so that neither can drift.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from netmgr.contract.types import Kind
from netmgr.model import FREED_SEGMENT, PORT_HISTORY, TOKEN

__all__ = ["TABLES", "change", "meta", "metadata"]

metadata = MetaData(
    naming_convention={
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _uuid(name: str, *, refers: str | None = None, primary_key: bool = False, nullable: bool = False) -> Column[Any]:
    key = [ForeignKey(refers, deferrable=True, initially="DEFERRED")] if refers else []
    return Column(name, String(36), *key, primary_key=primary_key, nullable=nullable)


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _list(name: str) -> Column[Any]:
    return Column(name, JSON, nullable=False)


zone = Table("zone", metadata, _uuid("uuid", primary_key=True), _text("name"), _text("kind"), UniqueConstraint("name"))

switch = Table(
    "switch",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("name"),
    _list("zone_uuids"),
    _list("pnic_globs"),
    Column("mtu", Integer, nullable=False),
    _text("vtep_pool"),
    _text("teaming"),
    Column("traffic_classes", JSON, nullable=False),
    UniqueConstraint("name"),
)

host = Table(
    "host",
    metadata,
    _uuid("uuid", primary_key=True),
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
    UniqueConstraint("name"),
)

network = Table(
    "network",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("name"),
    _text("type"),
    _uuid("zone_uuid", refers="zone.uuid"),
    _uuid("switch_uuid", refers="switch.uuid"),
    Column("segment_id", Integer, nullable=False),
    _text("attach_mode"),
    Column("mtu", Integer, nullable=False),
    _list("subnets"),
    UniqueConstraint("name"),
    UniqueConstraint("switch_uuid", "segment_id"),
    CheckConstraint("segment_id BETWEEN 1 AND 16777215", name="segment_id_range"),
)

port = Table(
    "port",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("name"),
    _uuid("network_uuid", refers="network.uuid"),
    _uuid("vif_uuid", nullable=True),
    _text("mac"),
    _list("ips"),
    Column("admin_up", Boolean, nullable=False),
    _uuid("shadow_of", refers="port.uuid", nullable=True),
    _list("allow"),
    _list("nested"),
    Column("egress_kbps", BigInteger, nullable=False),
    Column("ingress_kbps", BigInteger, nullable=False),
    _list("security_groups"),
    _uuid("parent_port", nullable=True),  # no reference: SQLite adds none to a table that is there
    Column("tag", Integer, nullable=False),
    UniqueConstraint("network_uuid", "name"),
    UniqueConstraint("vif_uuid"),
)
Index("uq_port_parent_port_tag", port.c.parent_port, port.c.tag, unique=True)  # without a parent any number
_NO_SHADOW = text("shadow_of IS NULL")  # a shadow has its primary's MAC
Index(
    "uq_port_network_uuid_mac",
    port.c.network_uuid,
    port.c.mac,
    unique=True,
    sqlite_where=_NO_SHADOW,
    postgresql_where=_NO_SHADOW,
)

# Not more than one a network and host; that there is one from all hosts at most is the matter of `unique_keys`.
withdrawal = Table(
    "withdrawal",
    metadata,
    _uuid("uuid", primary_key=True),
    _uuid("network_uuid", refers="network.uuid"),
    _uuid("host_uuid", refers="host.uuid", nullable=True),
    _text("reason"),
    _text("by"),
    _text("since"),
    UniqueConstraint("network_uuid", "host_uuid"),
)

# Which ports have a group, and so whether it may go, is the matter of the rules: both sides are lists.
security_group = Table(
    "security_group",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("name"),
    Column("stateful", Boolean, nullable=False),
    _list("rules"),
    Column("members_at", BigInteger, nullable=False),
    UniqueConstraint("name"),
)

location = Table(
    "location",
    metadata,
    _uuid("port_uuid", refers="port.uuid", primary_key=True),
    _uuid("network_uuid", refers="network.uuid"),
    _uuid("holder_host", refers="host.uuid", nullable=True),
    _text("holder_vtep"),
    _uuid("incoming_host", refers="host.uuid", nullable=True),
    _text("incoming_vtep"),
    Column("parked", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    _text("mac"),
)

learned = Table(
    "learned",
    metadata,
    _uuid("port_uuid", refers="port.uuid", primary_key=True),
    _uuid("network_uuid", refers="network.uuid"),
    _list("addresses"),
    _list("macs"),
)

token = Table(
    "token",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("secret_sha256"),
    _text("expires_at"),
    _text("host_name"),
    _list("zone_uuids"),
    _uuid("used_by", nullable=True),
)

freed_segment = Table(
    "freed_segment",
    metadata,
    _uuid("uuid", primary_key=True),
    _text("network_name"),
    _uuid("switch_uuid"),
    Column("segment_id", Integer, nullable=False),
    _list("host_uuids"),
)

port_history = Table(
    "port_history",
    metadata,
    _uuid("port_uuid", refers="port.uuid", primary_key=True),
    _uuid("made_by", nullable=True),
    _uuid("vm_uuid", nullable=True),
)

change = Table(
    "change",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    _text("kind"),
    _uuid("uuid"),
    Column("row", JSON(none_as_null=True), nullable=True),
)

# store_id: random, made with the database.
meta = Table("meta", metadata, Column("key", String(64), primary_key=True), _text("value"))

TABLES: dict[str, Table] = {
    Kind.ZONE: zone,
    Kind.SWITCH: switch,
    Kind.HOST: host,
    Kind.NETWORK: network,
    Kind.WITHDRAWAL: withdrawal,
    Kind.SECURITY_GROUP: security_group,
    Kind.PORT: port,
    Kind.LOCATION: location,
    Kind.LEARNED: learned,
    TOKEN: token,
    FREED_SEGMENT: freed_segment,
    PORT_HISTORY: port_history,
}

# Where a row's version is kept: each table needs it to be loaded without reading the log from its beginning.
for _table in TABLES.values():
    _table.append_column(Column("version_revision", BigInteger, nullable=False))
del _table
