"""`bare_bridge`: what Open vSwitch itself can do: a VXLAN tunnel and two static flows a host, nothing decided.

For the rates the flows join two VIFs. For a first frame they let everything from h1 through to the listener, so a VIF
is heard as soon as the switch has opened its device: no control plane can be sooner.
"""

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

    def listening(self, host: str, device: str, *, speaker: str) -> None:
        self._flows(host, f"in_port={tunnel(speaker)},actions=output:{device}")
        self._flows(speaker, f"actions=output:{tunnel(host)}")

    def bridge(self, host: str) -> str:
        return BRIDGE

    def attached(self, ports: Mapping[str, tuple[str, Port]]) -> None:
        one, other = ports
        for host, peer in ((one, other), (other, one)):
            device, way = ports[host][0], tunnel(peer)
            self._flows(host, f"in_port={device},actions=output:{way}", f"in_port={way},actions=output:{device}")

    def _flows(self, host: str, *flows: str) -> None:
        lines = "".join(f"{flow}\n" for flow in flows)
        self.lab.exec(host, ["ovs-ofctl", "--names", "replace-flows", BRIDGE, "-"], input=lines)
