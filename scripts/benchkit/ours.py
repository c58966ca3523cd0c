"""`ours`: netmgr and hostagents, the whole of it; the guest is moved by plain virsh, which knows nothing of us."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import uuid4

from scripts.benchkit.subject import NETWORK_MTU, Port, Subject
from scripts.labkit import Lab
from scripts.labkit.state import MANAGER

__all__ = ["Ours"]

_APPLY = f"""
switches:
  - name: bench-switch
    zones: [a]
    pnic_globs: ["pnic*"]
    mtu: 1650
    vtep_pool: 10.200.0.0/24
networks:
  - name: bench
    type: vxlan
    zone: a
    mtu: {NETWORK_MTU}
    subnets: [10.30.0.0/24]
"""


class Ours(Subject):
    """Ports are made with their address, so that all anti-spoof flows are in the way, as they would be in earnest."""

    name = "ours"

    @staticmethod
    def make_lab(progress: Callable[[str], None]) -> Lab:
        return Lab(hosts=3, zones=dict.fromkeys(("h1", "h2", "h3"), "a"), with_vmctl=False, progress=progress)

    def build(self) -> None:
        self.lab.exec(MANAGER, ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=_APPLY)

    def port(self, name: str, address: str) -> Port:
        vif = str(uuid4())
        create = ["netmgr", "port", "create", name, "--network", self.network, "--ip", address, "--vif", vif]
        made = json.loads(self.lab.exec(MANAGER, [*create, "-o", "json"]).stdout)
        return Port(vif_uuid=vif, mac=made["mac"], address=address)

    def bridge(self, host: str) -> str:
        words = self.lab.exec(host, ["virsh", "net-info", self.network]).stdout.split()
        return words[words.index("Bridge:") + 1]
