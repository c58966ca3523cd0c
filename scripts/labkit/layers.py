"""The daemons of a lab, layer by layer: how each is started, and known to be ready.

Daemons of ours are started as systemd would start them, with NOTIFY_SOCKET: they are ready when they say READY=1, and
not when some port happens to be open. hostagent has no more capabilities than its unit grants. They may be stopped and
started again one by one (`lab stop`, `lab start`).
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.labkit import hypervisor, processes, switch, wires
from scripts.labkit.errors import LabError
from scripts.labkit.node import Node
from scripts.labkit.state import MANAGER

if TYPE_CHECKING:
    from scripts.labkit.lab import Lab

__all__ = ["DAEMONS", "Daemon", "join_host", "register_host", "start_daemon", "stop_daemon"]

_READY_S = 30.0
_VIEW_PORT = 7445
_VIEWER = "/var/lib/vmctl/identity"
_UNIT = Path(__file__).parents[1] / "systemd" / "hostagent.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """How the lab runs a daemon. Paths are those inside the node."""

    name: str
    pidfile: str
    log: str
    start: Callable[[Lab, Node], None]


def start_daemon(lab: Lab, node: Node, name: str) -> None:
    """Start the daemon on the node; returns when it is ready. LabError when it runs already or does not come up."""
    daemon = _known(name)
    if node.daemon(daemon.pidfile) is not None:
        raise LabError(f"{name} runs on {node.name} already; `lab stop {node.name} {name}` ends it")
    daemon.start(lab, node)


def stop_daemon(node: Node, name: str, *, number: signal.Signals = signal.SIGTERM, timeout_s: float = 15.0) -> None:
    """Send a signal to the daemon and wait for its end. Raises LabError when it does not run or does not end."""
    daemon = _known(name)
    process = node.daemon(daemon.pidfile)
    if process is None:
        raise LabError(f"{name} does not run on {node.name}")
    processes.send(process, number)
    if processes.ended([process], timeout_s=timeout_s):
        raise LabError(
            f"{name} on {node.name} goes on {timeout_s:g} s after {number.name}. Last words:\n{node.tail(daemon.log)}"
        )


def join_host(lab: Lab, name: str) -> None:
    """Make the host a transport node: a token from the manager, `hostagent join` with it on the host."""
    zones = [zone for zone in lab.spec.zones.get(name, "").split(",") if zone]
    options = [option for zone in zones for option in ("--zone", zone)]
    token = lab.node(MANAGER).exec(["netmgr", "host", "token", "--name", name, *options]).stdout.split()[-1]
    manager = wires.management_address(MANAGER)
    offer = ["--name", name, *(option for pnic in wires.pnic_names(lab.spec.pnics) for option in ("--pnic", pnic))]
    path = ["--datapath", lab.spec.datapath]
    lab.node(name).exec(["hostagent", "join", "--manager", manager, "--token", token, *offer, *path])


def register_host(lab: Lab, name: str) -> None:
    """Make the host known to vmctl: libvirt by TCP, networks from the host's own view."""
    address = wires.management_address(name)
    view = f"{address}:{_VIEW_PORT}"
    options = ["--libvirt", hypervisor.remote_uri(address), "--migration-address", address, "--agent", view]
    lab.node(MANAGER).exec(["vmctl", "host", "add", name, *options])


def _known(name: str) -> Daemon:
    try:
        return DAEMONS[name]
    except KeyError:
        raise LabError(f"no daemon {name!r}; there are {', '.join(DAEMONS)}") from None


def _start_database(lab: Lab, node: Node) -> None:
    switch.start_database(node)


def _start_switch(lab: Lab, node: Node) -> None:
    switch.start_switch(node, datapath=lab.spec.datapath, dummy_ports=lab.spec.dummy_ports)


def _start_libvirtd(lab: Lab, node: Node) -> None:
    hypervisor.start_libvirtd(node, address=wires.management_address(node.name))


def _start_netmgr(lab: Lab, node: Node) -> None:
    _start_notifying(node, "netmgr", ["netmgr", "run", *(["--store", lab.spec.store] if lab.spec.store else [])])


def _start_hostagent(lab: Lab, node: Node) -> None:
    settings = dict(lab.spec.agent_settings)
    if not lab.spec.libvirt:
        settings["HOSTAGENT_LIBVIRT_URI"] = "none"
    _start_notifying(node, "hostagent", [*_confined(_UNIT.read_text()), "hostagent", "run"], settings)


def _confined(unit: str) -> list[str]:
    """A command's beginning that leaves it the capabilities of a systemd unit: what lacks one fails in the lab too."""
    found = re.search(r"^CapabilityBoundingSet=(.+)$", unit, re.MULTILINE)
    assert found is not None
    names = [name.removeprefix("CAP_").lower() for name in found[1].split()]
    return ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in names)])]


def _start_vmctl(lab: Lab, node: Node) -> None:
    if not node.path(_VIEWER).exists():
        node.exec(["netmgr", "cert", "issue", "--role", "viewer", "--name", "vmctl", "--out", _VIEWER])
    # Guests of a lab run without KVM: a machine that is itself virtual may offer it and then hang in it.
    settings = {"VMCTL_IDENTITY": _VIEWER, "VMCTL_MANAGER": "127.0.0.1:7444", "VMCTL_VIRT": "qemu"}
    _start_notifying(node, "vmctl", ["vmctl", "serve"], settings)


def _start_notifying(node: Node, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
    """Start a daemon of ours and wait for its READY=1 (sd_notify(3))."""
    inside = f"/run/lab/{name}.notify"
    outside, daemon = node.path(inside), DAEMONS[name]
    outside.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(os.fspath(outside))
        notices.setblocking(False)
        node.spawn(name, command, log=daemon.log, env={"NOTIFY_SOCKET": inside, **(env or {})})
        node.await_(name, lambda: _said_ready(notices), pidfile=daemon.pidfile, log=daemon.log, timeout_s=_READY_S)
    # The socket's name stays, with nobody behind it: later notices (WATCHDOG=1) are refused, as without systemd.


def _said_ready(notices: socket.socket) -> bool:
    try:
        while True:
            if b"READY=1" in notices.recv(4096).split(b"\n"):
                return True
    except BlockingIOError:
        return False


def _ours(name: str, start: Callable[[Lab, Node], None]) -> Daemon:
    return Daemon(name=name, pidfile=f"/run/lab/{name}.pid", log=f"/var/log/{name}.log", start=start)


def _open_vswitch(name: str, start: Callable[[Lab, Node], None]) -> Daemon:
    return Daemon(
        name=name, pidfile=f"/run/openvswitch/{name}.pid", log=f"/var/log/openvswitch/{name}.log", start=start
    )


DAEMONS = {
    daemon.name: daemon
    for daemon in (
        _open_vswitch("ovsdb-server", _start_database),
        _open_vswitch("ovs-vswitchd", _start_switch),
        Daemon(name="libvirtd", pidfile=hypervisor.PIDFILE, log=hypervisor.LOG, start=_start_libvirtd),
        _ours("hostagent", _start_hostagent),
        _ours("netmgr", _start_netmgr),
        _ours("vmctl", _start_vmctl),
    )
}
