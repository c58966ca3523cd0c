"""Fifty hosts that carry a thousand ports: the same deployments, larger.

Hosts are emulated as far as nobody looks: no libvirt, and ports whose VIFs are dummies, which Open vSwitch plugs
without a device. Agents, manager, databases and switches are what they are on three hosts.
"""

from __future__ import annotations

from scripts.benchkit.deployment_ours import OursDeployment
from scripts.benchkit.deployment_ovn import OvnDeployment

__all__ = ["PORTS", "ManyOurs", "ManyOvn"]

PORTS = 1000


class ManyOurs(OursDeployment):
    hosts = 50
    dummies = True


class ManyOvn(OvnDeployment):
    hosts = 50
