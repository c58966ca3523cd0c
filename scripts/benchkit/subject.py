"""What is compared: a subject is one way to give three hosts a common layer 2, in a lab of its own.

Everything but the network is the same for all subjects: the lab's hosts, its underlay and datapath, libvirt,
the guest, the peers, the command that moves the guest. A subject builds the network, says on which bridge and libvirt
network it is, and does before and after a move what its own orchestration would do.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from scripts.labkit import Lab, LabError

__all__ = [
    "GUEST",
    "GUEST_ADDRESS",
    "MOVERS",
    "NETWORK_MTU",
    "PEERS",
    "PREFIX",
    "Port",
    "Subject",
    "define_network",
    "eventually",
]

MOVERS = ("h1", "h2")
GUEST = "web"  # the domain
GUEST_ADDRESS = "10.30.0.10"
PEERS = {"h1": "10.30.0.11", "h2": "10.30.0.12", "h3": "10.30.0.13"}
PREFIX = 24
NETWORK_MTU = 1450


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A VIF on the subject's network."""

    vif_uuid: str
    mac: str
    address: str


class Subject(ABC):
    """One network, on one lab of three hosts. Every wait is bounded; what takes too long is a LabError."""

    name: str

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @staticmethod
    @abstractmethod
    def make_lab(progress: Callable[[str], None]) -> Lab:
        """A lab with what this subject needs on its hosts, not yet up."""

    @abstractmethod
    def build(self) -> None:
        """Make the network on all hosts, with a libvirt network on those the guest moves between."""

    @abstractmethod
    def port(self, name: str, address: str) -> Port:
        """A new port of the network."""

    @abstractmethod
    def bridge(self, host: str) -> str:
        """Where endpoints are plugged in."""

    @property
    def network(self) -> str:
        """Name of the libvirt network."""
        return "bench"

    # What most subjects have nothing to do at; each may be left as it is.

    def peer_attached(self, endpoint: str, host: str, port: Port) -> None:  # noqa: B027
        """A peer was plugged in."""

    def guest_started(self, host: str, port: Port) -> None:  # noqa: B027
        """The guest runs on *host*."""

    def before_move(self, port: Port, source: str, destination: str) -> None:  # noqa: B027
        """What the orchestration tells the network before a move."""

    def after_move(self, port: Port, source: str, destination: str) -> None:  # noqa: B027
        """What the orchestration tells the network after a move."""


def define_network(lab: Lab, host: str, *, name: str, bridge: str) -> None:
    """A libvirt network on an Open vSwitch bridge; nothing in a lab without libvirt."""
    if not lab.spec.libvirt:
        return
    xml = f"""<network><name>{name}</name><forward mode='bridge'/><bridge name={quoteattr(bridge)}/>
      <virtualport type='openvswitch'/></network>"""
    lab.exec(host, ["virsh", "net-define", "/dev/stdin"], input=xml)
    lab.exec(host, ["virsh", "net-start", name])


def eventually(true: Callable[[], bool], *, within_s: float, otherwise: str) -> None:
    """Return once *true*; LabError with *otherwise* after *within_s*."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"{otherwise} within {within_s:g} s")
        time.sleep(0.1)
