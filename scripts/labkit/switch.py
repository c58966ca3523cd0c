"""Open vSwitch of a host: its own ovsdb-server and ovs-vswitchd, at the paths that every OVS tool takes by default.

A lab forwards in the kernel (`system`) where that has Open vSwitch, else in user space (`netdev`, and the daemon is
told not to look for the other): bridges need the datapath's name as `datapath_type`. Few threads, because many hosts
share one machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from scripts.labkit.errors import LabError
from scripts.labkit.node import Node
from scripts.labkit.patience import patient

__all__ = ["DAEMONS", "DATAPATHS", "choose_datapath", "start_database", "start_switch"]

DAEMONS = ("ovsdb-server", "ovs-vswitchd")
DATAPATHS = ("system", "netdev")
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_DATABASE = "/etc/openvswitch/conf.db"

_START_DATABASE = f"""
[ -e {_DATABASE} ] || ovsdb-tool create {_DATABASE} {_SCHEMA}
exec ovsdb-server {_DATABASE} --remote=punix:/run/openvswitch/db.sock --pidfile --detach --no-chdir \
    --log-file --verbose=console:off --verbose=syslog:off
"""
_START_SWITCH = """
exec ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir \
    --log-file --verbose=console:off --verbose=syslog:off "$@"
"""


def choose_datapath(
    wanted: str | None, *, environment: Mapping[str, str] = os.environ, module: Path = Path("/sys/module/openvswitch")
) -> str:
    """One of DATAPATHS: *wanted*, else what OPLAB_DATAPATH says, else the kernel's where it has Open vSwitch.

    Raises LabError for another word, and for a kernel that does not have what is asked for.
    """
    named = wanted or environment.get("OPLAB_DATAPATH") or "auto"
    if named == "auto":
        return "system" if module.exists() else "netdev"
    if named not in DATAPATHS:
        raise LabError(f"datapath {named!r}: wanted auto, {' or '.join(DATAPATHS)}")
    if named == "system" and not module.exists():
        raise LabError(
            "datapath system: this kernel has no Open vSwitch; `modprobe openvswitch` loads it, `scripts/test-kernel`"
            " boots one that has it"
        )
    return named


def start_database(node: Node) -> None:
    """Start ovsdb-server, on the database that the host has or a new one; returns when it serves."""
    _run(node, "ovsdb-server", _START_DATABASE)
    settings = [
        "other_config:n-handler-threads=1",
        "other_config:n-revalidator-threads=1",
        f"external_ids:hostname={node.name}",
    ]
    node.exec(
        ["ovs-vsctl", f"--timeout={patient(10):.0f}", "--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings]
    )


def start_switch(node: Node, *, datapath: str, dummy_ports: bool = False) -> None:
    """Start ovs-vswitchd; returns when it has read its configuration. *dummy_ports*: see `LabSpec`."""
    options = {"--disable-system": datapath == "netdev", "--enable-dummy": dummy_ports}
    _run(node, "ovs-vswitchd", _START_SWITCH, *(option for option, wanted in options.items() if wanted))


def _run(node: Node, daemon: str, script: str, *options: str) -> None:
    try:
        node.exec(["/bin/sh", "-c", script, daemon, *options])
    except LabError as error:
        raise LabError(f"{error}\nLast words of {daemon}:\n{node.tail(f'/var/log/openvswitch/{daemon}.log')}") from None
