"""Cables and the two networks they lead to: management, and the underlay that carries the tunnels.

Each network is a Linux bridge in a node of its own, the fabric. A host has `mgmt0`, with an address, and `pnic0`
(or more), without: the agent decides what becomes of a PNIC. The fabric lets frames through as they are (no multicast
snooping, no spanning tree). On the userspace datapath checksum offload is off on PNICs and endpoints, because it passes
frames on without completing them; on the kernel's they offload what veth offers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from scripts.labkit.node import Node
from scripts.labkit.patience import patient
from scripts.labkit.state import MANAGER, Endpoint

__all__ = ["build_fabric", "management_address", "plug_endpoint", "pnic_names", "unplug_endpoint", "wire"]

MANAGEMENT = ipaddress.IPv4Network("10.255.0.0/24")


def management_address(node: str) -> str:
    """10.255.0.1 for the manager's node, 10.255.0.10 + i for the host h<i>."""
    return str(MANAGEMENT[1] if node == MANAGER else MANAGEMENT[10 + int(node.removeprefix("h"))])


def pnic_names(count: int) -> list[str]:
    """`pnic0`, `pnic1`, …; in the fabric their cables end at `h1-pnic0`, `h1-pnic1`, …"""
    return [f"pnic{number}" for number in range(count)]


def build_fabric(fabric: Node, *, underlay_mtu: int) -> None:
    """The two bridges."""
    _ip(
        fabric,
        "link add name mgmt type bridge mcast_snooping 0",
        "link set mgmt up",
        f"link add name underlay mtu {underlay_mtu} type bridge mcast_snooping 0",
        "link set underlay up",
    )


def wire(node: Node, *, fabric: Node, underlay_mtu: int | None, pnics: int = 1, offload: bool = False) -> None:
    """Connect *node*: `mgmt0` with its address and, where *underlay_mtu* is given, its PNICs without one."""
    assert node.init is not None
    space, address = node.init.pid, management_address(node.name)
    outside = [
        f"link add name {node.name}-mgmt type veth peer name mgmt0 netns {space}",
        f"link set {node.name}-mgmt master mgmt up",
    ]
    inside = [f"address add {address}/{MANAGEMENT.prefixlen} dev mgmt0", "link set mgmt0 up"]
    names = pnic_names(pnics) if underlay_mtu is not None else []
    for pnic in names:
        mtu, cable = f"mtu {underlay_mtu}", f"{node.name}-{pnic}"
        outside += [
            f"link add name {cable} {mtu} type veth peer name {pnic} {mtu} netns {space}",
            f"link set {cable} master underlay up",
        ]
        inside += [f"link set {pnic} addrgenmode none", f"link set {pnic} up"]
    _pull(fabric, f"{node.name}-mgmt", *(f"{node.name}-{pnic}" for pnic in names))
    _ip(fabric, *outside, machine_pids=True)
    _ip(node, *inside)
    for pnic in () if offload else names:
        node.exec(["ethtool", "-K", pnic, "tx", "off"])


def _pull(fabric: Node, *cables: str) -> None:
    """Take cables of an earlier boot away: the kernel dismantles a dead host's namespace in its own time."""
    for cable in cables:
        fabric.exec(["ip", "link", "delete", cable], check=False)  # mostly it is gone already


def plug_endpoint(
    endpoint: Endpoint, *, host: Node, node: Node, addresses: Sequence[str], mtu: int, offload: bool = False
) -> None:
    """Join *node* to the host's bridge: `eth0` with MAC and addresses there, the port with its iface-id here."""
    assert node.init is not None
    _ip(
        host,
        f"link add name {endpoint.device} mtu {mtu} type veth peer name eth0 mtu {mtu}"
        f" address {endpoint.mac} netns {node.init.pid}",
        f"link set {endpoint.device} addrgenmode none up",
        machine_pids=True,
    )
    _ip(node, *(f"address add {a} dev eth0 {'nodad' if ':' in a else ''}" for a in addresses), "link set eth0 up")
    if not offload:
        node.exec(["ethtool", "-K", "eth0", "tx", "off"])
        host.exec(["ethtool", "-K", endpoint.device, "tx", "off"])
    ids = {"iface-id": endpoint.vif_uuid, "attached-mac": endpoint.mac, "iface-status": "active"}
    host.exec(
        [
            "ovs-vsctl",
            f"--timeout={patient(10):.0f}",
            "add-port",
            endpoint.bridge,
            endpoint.device,
            "--",
            "set",
            "Interface",
            endpoint.device,
        ]
        + [f'external_ids:{key}="{value}"' for key, value in ids.items()]
    )


def unplug_endpoint(endpoint: Endpoint, *, host: Node) -> None:
    """Take the port off the bridge and remove its cable."""
    host.exec(["ovs-vsctl", f"--timeout={patient(10):.0f}", "--if-exists", "del-port", endpoint.device])
    host.exec(["ip", "link", "delete", endpoint.device], check=False)  # gone already when the endpoint's node died


def _ip(node: Node, *commands: str, machine_pids: bool = False) -> None:
    """Run `ip` commands as one batch in the node; *machine_pids* when they name a namespace by a pid of the machine."""
    node.exec(["ip", "-batch", "-"], input="\n".join(commands) + "\n", network_only=machine_pids)
