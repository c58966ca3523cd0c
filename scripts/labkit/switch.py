"""Open vSwitch of a host: its own ovsdb-server and ovs-vswitchd, at the paths that every OVS tool takes by default.

Userspace datapath only (`--disable-system`): bridges need `datapath_type=netdev`. Few threads, because many hosts share
one machine.
"""

from __future__ import annotations

from scripts.labkit.errors import LabError
from scripts.labkit.node import Node

__all__ = ["DAEMONS", "start_database", "start_switch"]

DAEMONS = ("ovsdb-server", "ovs-vswitchd")
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_DATABASE = "/etc/openvswitch/conf.db"

_START_DATABASE = f"""
[ -e {_DATABASE} ] || ovsdb-tool create {_DATABASE} {_SCHEMA}
exec ovsdb-server {_DATABASE} --remote=punix:/run/openvswitch/db.sock --pidfile --detach --no-chdir \
    --log-file --verbose=console:off --verbose=syslog:off
"""
_START_SWITCH = """
exec ovs-vswitchd unix:/run/openvswitch/db.sock --disable-system --pidfile --detach --no-chdir \
    --log-file --verbose=console:off --verbose=syslog:off "$@"
"""


def start_database(node: Node) -> None:
    """Start ovsdb-server, on the database that the host has or a new one; returns when it serves."""
    _run(node, "ovsdb-server", _START_DATABASE)
    settings = [
        "other_config:n-handler-threads=1",
        "other_config:n-revalidator-threads=1",
        f"external_ids:hostname={node.name}",
    ]
    node.exec(["ovs-vsctl", "--timeout=10", "--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings])


def start_switch(node: Node, *, dummy_ports: bool = False) -> None:
    """Start ovs-vswitchd; returns when it has read its configuration. *dummy_ports*: see `LabSpec`."""
    _run(node, "ovs-vswitchd", _START_SWITCH, *(["--enable-dummy"] if dummy_ports else []))


def _run(node: Node, daemon: str, script: str, *words: str) -> None:
    try:
        node.exec(["/bin/sh", "-c", script, daemon, *words])
    except LabError as error:
        raise LabError(f"{error}\nLast words of {daemon}:\n{node.tail(f'/var/log/openvswitch/{daemon}.log')}") from None
