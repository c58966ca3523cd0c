"""`bare_bridge`: what Open vSwitch itself can do: a VXLAN tunnel and two static flows a host, nothing decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.benchkit.deployment import Carrier
from scripts.benchkit.plain import BRIDGE, bare_switches, build_tunnels, build_uplinks, tunnel
from scripts.benchkit.subject import Port
from scripts.labkit import Lab

__all__ = ["BareBridge"]


class BareBridge(Carrier):
    """Two VIFs, each host's own and the tunnel to the other's joined by flows."""

    name = "bare_bridge"

    @classmethod
    def make_lab(cls) -> Lab:
        return bare_switches(lambda sentence: None, libvirt=False)

    def build(self) -> None:
        build_uplinks(self.lab)
        build_tunnels(self.lab, ["fail_mode=secure"])

    def create_network(self, name: str) -> None:
        """It has one, from the beginning to the end."""

    def delete_network(self, name: str) -> None:
        """It keeps it."""

    def create_ports(self, network: str, ports: Sequence[Port]) -> None:
        """Whatever is plugged in may speak, once it is attached."""

    def delete_ports(self, network: str, ports: Sequence[Port]) -> None:
        """Flows name devices, and end with them."""

    def bridge(self, host: str) -> str:
        return BRIDGE

    def attached(self, ports: Mapping[str, tuple[str, Port]]) -> None:
        one, other = ports
        for host, peer in ((one, other), (other, one)):
            device, way = ports[host][0], tunnel(peer)
            flows = f"in_port={device},actions=output:{way}\nin_port={way},actions=output:{device}\n"
            self.lab.exec(host, ["ovs-ofctl", "--names", "replace-flows", BRIDGE, "-"], input=flows)
