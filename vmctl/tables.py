"""Tables of vmctl's store. `vmctl/migrations/` makes them; a change here needs a migration there.

What libvirt and the hosts can tell is not kept: where a VM is, which networks a host has. What is kept is what would be
lost with the process: which hosts there are, what is wanted of a VM, which moves and tasks were begun and how far they
came, and what happened lately.
"""

from __future__ import annotations

import sqlalchemy as sa

from vmctl.model import MigrationState

__all__ = [
    "events",
    "hosts",
    "maintenance",
    "metadata",
    "migrations",
    "placement_members",
    "placement_needs",
    "placement_rules",
    "placement_settings",
    "switch_drifts",
    "switch_manager",
    "switch_realized",
    "switches",
    "tasks",
    "vms",
]

metadata = sa.MetaData()


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("uuid", sa.Text, unique=True),
    _text("libvirt_uri"),
    _text("peer_uri"),
    _text("migration_address"),
    _text("agent_address"),
    sa.Column("migration_mbps", sa.Integer, nullable=False, server_default="0"),
)
vms = sa.Table(
    "vms",
    metadata,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _text("host"),
    _text("xml"),
    _text("wanted"),
    _text("ips"),
)
migrations = sa.Table(
    "migrations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("vm_uuid", sa.Text, nullable=False, index=True),
    _text("vm_name"),
    _text("source"),
    _text("destination"),
    _text("state"),
    _text("sentence"),
    _text("started_at"),
    _text("changed_at"),
    sa.Column("total_ms", sa.Integer),
    sa.Column("downtime_ms", sa.Integer),
    sa.Column("transferred_mib", sa.Integer),
    _text("kind", "live"),
    _text("policy", "{}"),
    sa.Column("had_copy", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("gap_ms", sa.Integer),
    sa.Column("task_id", sa.Integer),
    sqlite_autoincrement=True,
)
_closed = [state.value for state in MigrationState if state.settled]
_open = migrations.c.state.not_in(_closed)
sa.Index("one_open_move_a_vm", migrations.c.vm_uuid, unique=True, sqlite_where=_open, postgresql_where=_open)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("kind"),
    _text("subject"),
    _text("state"),
    _text("sentence"),
    _text("started_at"),
    _text("changed_at"),
    sa.Column("parent_id", sa.Integer),
    sa.Column("migration_id", sa.Integer),
    sqlite_autoincrement=True,
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("at"),
    _text("kind"),
    _text("subject"),
    _text("what"),
    _text("sentence"),
    sa.Column("ref", sa.Integer, index=True),
    sqlite_autoincrement=True,
)

switch_manager = sa.Table("switch_manager", metadata, sa.Column("uuid", sa.Text, primary_key=True))
switches = sa.Table(
    "switches",
    metadata,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("generation", sa.Integer, nullable=False),
    _text("definition"),
)
switch_realized = sa.Table(
    "switch_realized",
    metadata,
    sa.Column("switch", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
)
switch_drifts = sa.Table(
    "switch_drifts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("at"),
    _text("host"),
    sa.Column("switch", sa.Text, nullable=False, index=True),
    _text("sentence"),
    sqlite_autoincrement=True,
)
placement_needs = sa.Table(
    "placement_needs",
    metadata,
    sa.Column("vm_uuid", sa.Text, primary_key=True),
    sa.Column("disk_mib", sa.Integer, nullable=False),
    sa.Column("bandwidth_mbps", sa.Integer, nullable=False),
)
placement_rules = sa.Table("placement_rules", metadata, sa.Column("name", sa.Text, primary_key=True), _text("kind"))
placement_members = sa.Table(
    "placement_members",
    metadata,
    sa.Column("rule", sa.Text, sa.ForeignKey("placement_rules.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("vm_uuid", sa.Text, primary_key=True),
)
placement_settings = sa.Table(
    "placement_settings", metadata, sa.Column("key", sa.Text, primary_key=True), _text("value")
)
maintenance = sa.Table(
    "maintenance",
    metadata,
    sa.Column("host", sa.Text, primary_key=True),
    _text("since"),
    sa.Column("evacuating", sa.Boolean, nullable=False),
)
