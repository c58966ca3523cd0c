"""What the network benchmark compares: a deployment is one way to give hosts virtual networks.

A deployment answers the same verbs in the same way: by a connection to its manager that is open already, without the
start of a command-line program on either side. What it promises, each verb has done when it returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from scripts.benchkit.inside import Inside
from scripts.benchkit.subject import Port
from scripts.labkit import Lab, LabError
from scripts.labkit.processes import ProcessId

__all__ = ["AGENT_S", "ELSEWHERE", "PORTS_S", "RATES_PORT", "Carrier", "Deployment", "resident_kib"]

AGENT_S = 60.0
"""How long an agent may take to be in sync."""
ELSEWHERE = "10.200.0.250"
"""VTEP of the host that is not there."""
PORTS_S = 180.0
"""How long a thousand ports may take to be up."""
RATES_PORT = 5201
"""Where iperf3 listens."""


class Carrier(ABC):
    """What carries frames between VIFs: one lab of three hosts or more. Every wait is bounded; what takes too long is a
    LabError."""

    name: str
    hosts: ClassVar[int] = 3

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.open = ExitStack()
        """Closed with the deployment: threads on hosts, connections."""
        self.on = {host: Inside(lab.node(host)) for host in lab.hosts}
        for inside in self.on.values():
            self.open.callback(inside.close)

    @classmethod
    @abstractmethod
    def make_lab(cls) -> Lab:
        """A lab with what this deployment needs on its hosts, not yet up."""

    @abstractmethod
    def build(self) -> None:
        """Manager and agents run, hosts know each other; there is no network yet."""

    @abstractmethod
    def create_network(self, name: str) -> None:
        """Make a network; returns when every host has confirmed it."""

    @abstractmethod
    def delete_network(self, name: str) -> None:
        """Remove a network, from every host."""

    @abstractmethod
    def create_ports(self, network: str, ports: Sequence[Port]) -> None:
        """Make ports that allow their MAC and address and nothing else, with their VIFs attached."""

    @abstractmethod
    def delete_ports(self, network: str, ports: Sequence[Port]) -> None:
        """Remove ports whose VIFs are unplugged."""

    @abstractmethod
    def bridge(self, host: str) -> str:
        """Where VIFs are plugged in; once there is a network."""

    def listening(self, host: str, device: str, *, speaker: str) -> None:  # noqa: B027
        """The tap *device*, which listens to VIFs of *speaker*, is plugged on *host*."""

    def attached(self, ports: Mapping[str, tuple[str, Port]]) -> None:  # noqa: B027
        """These VIFs are plugged, by host with the name of the tap; returns when they may speak."""

    def ovsdb(self, host: str) -> Path:
        """The socket of the host's database."""
        return self.lab.path(host, "/run/openvswitch/db.sock")

    def memory_of(self, node: str, pidfile: str) -> int:
        """KiB that the daemon of this pid file has resident."""
        return resident_kib(self.daemon_of(node, pidfile).pid)

    def daemon_of(self, node: str, pidfile: str) -> ProcessId:
        """The running daemon of this pid file.

        Raises:
            LabError: it does not run.
        """
        process = self.lab.node(node).daemon(pidfile)
        if process is None:
            raise LabError(f"{self.name}: no daemon of {pidfile} runs on {node}")
        return process


class Deployment(Carrier):
    """A carrier with a manager and agents."""

    @abstractmethod
    def protect(self, ports: Sequence[Port]) -> None:
        """From and to these ports, whose VIFs are not plugged yet, pass pings, TCP and UDP to the port `RATES_PORT`,
        and answers to these, by one stateful set of rules; nothing else of IP does."""

    @abstractmethod
    def announce(self, host: str, network: str, ports: Sequence[Port]) -> None:
        """What a compute manager says before it makes a guest's taps: these VIFs are about to be plugged into *host*.
        Returns when all hosts have taken it in."""

    @abstractmethod
    def put_elsewhere(self, network: str, ports: Sequence[Port], *, hearers: Sequence[str]) -> None:
        """Make ports that are on a host which is not there: written where the manager keeps them, as nobody has ten
        thousand guests here. Agents are told of them as of any others; returns when *hearers*, hosts with a VIF on the
        network, know them all."""

    @abstractmethod
    def await_ports(self, ports: Sequence[Port]) -> None:
        """Return when these ports, whose VIFs are plugged, are up, and every host knows of it."""

    @abstractmethod
    def kill_agent(self, host: str) -> None:
        """SIGKILL, and it is gone."""

    @abstractmethod
    def start_agent(self, host: str) -> None:
        """Start it; returns when the host is in sync again."""

    @abstractmethod
    def agent_memory_kib(self) -> list[int]:
        """Resident memory of each agent."""

    @abstractmethod
    def manager_memory_kib(self) -> int:
        """Resident memory of all that the manager consists of."""


def resident_kib(pid: int) -> int:
    """VmRSS of a process (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LabError(f"process {pid} has no memory: it has ended")
