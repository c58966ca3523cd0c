"""Hosts made of namespaces, for demos, tests and trying things out: see docs/lab.md.

from scripts.labkit import Lab

with Lab(hosts=2, with_manager=False, with_agents=False, with_libvirt=False) as lab:
    print(lab.exec("h1", ["ovs-vsctl", "show"]).stdout)
"""

from scripts.labkit.errors import LabError
from scripts.labkit.lab import Lab

__all__ = ["Lab", "LabError"]
