"""OVN from Debian's packages: northd and its two databases on h3, an ovn-controller on every host, Geneve.

Verbs go to an `ovn-nbctl` that runs as a daemon (ovn-nbctl(8), Daemon Mode), so it holds the database already and no
process is started for a verb. Each wait is bounded: some chassis of 23.03 acknowledge only with the next change.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scripts.benchkit.deployment import AGENT_S, ELSEWHERE, PORTS_S, RATES_PORT, Deployment
from scripts.benchkit.inside import rpc
from scripts.benchkit.ovn import CENTRAL, CONTROLLER, START_CONTROLLER, Ovn
from scripts.benchkit.ovn_rows import bind_elsewhere, delete_ports, insert_ports
from scripts.benchkit.plain import BRIDGE
from scripts.benchkit.subject import Port
from scripts.labkit import Lab, LabError, processes

__all__ = ["OvnDeployment"]

_NBCTL = "/run/ovn/nbctl.ctl"
_WAIT_S = 10
_GONE_S = 10.0
_TRIES = 3
_HEAR_ALL = ["ovs-vsctl", "--timeout=10", "set", "Open_vSwitch", ".", "external_ids:ovn-monitor-all=true"]
_PORT_S = 0.02  # for each of thousands of ports, until all know it


class OvnDeployment(Deployment):
    """Logical switches; ports with port security, as ours have."""

    name = "theirs"

    @classmethod
    def make_lab(cls) -> Lab:
        return Ovn.make_lab(lambda sentence: None, libvirt=False, hosts=cls.hosts)

    def build(self) -> None:
        self._subject = Ovn(self.lab)
        self._subject.build()
        self.lab.exec(CENTRAL, ["ovn-nbctl", "--detach", "--pidfile", f"--unixctl={_NBCTL}", "--log-file"])
        self._nb("ls-del", self._subject.switch)

    def create_network(self, name: str) -> None:
        self._nb("ls-add", name, hypervisors=True)

    def delete_network(self, name: str) -> None:
        self._nb("ls-del", name)
        self._settle(_WAIT_S)

    def create_ports(self, network: str, ports: Sequence[Port]) -> None:
        insert_ports(self._database("nb"), network, ports)
        self._settle(_WAIT_S + len(ports) * _PORT_S)

    def delete_ports(self, network: str, ports: Sequence[Port]) -> None:
        delete_ports(self._database("nb"), network, ports)
        self._settle(_WAIT_S + len(ports) * _PORT_S)

    def protect(self, ports: Sequence[Port]) -> None:
        self._nb("pg-add", "rates", *(port.vif_uuid for port in ports), hypervisors=True)
        for direction, end in (("from-lport", "inport"), ("to-lport", "outport")):
            for what in (f"tcp.dst == {RATES_PORT}", f"udp.dst == {RATES_PORT}", "icmp4"):
                self._nb("acl-add", "rates", direction, "1000", f"{end} == @rates && ip4 && {what}", "allow-related")
            self._nb("acl-add", "rates", direction, "900", f"{end} == @rates && ip", "drop", hypervisors=True)

    def announce(self, host: str, network: str, ports: Sequence[Port]) -> None:
        """As Nova and Neutron do: when a port is bound to a host, before its tap exists."""
        for port in ports:
            self._nb("lsp-set-options", port.vif_uuid, f"requested-chassis={host}")
        self._settle(_WAIT_S + len(ports) * _PORT_S)

    def bridge(self, host: str) -> str:
        return BRIDGE

    def put_elsewhere(self, network: str, ports: Sequence[Port], *, hearers: Sequence[str]) -> None:
        self.lab.exec(CENTRAL, ["ovn-sbctl", "chassis-add", "far", "geneve", ELSEWHERE])
        within_s = _WAIT_S + len(ports) * _PORT_S
        # A controller that hears of ports in thousands while it runs takes the square of their number (2,000: 8 s to
        # 25 s), and so does one that asks for a network only once it has seen its VIF. One that is sent all when it
        # starts does not.
        for host in self.lab.hosts:
            self.kill_agent(host)
            self.lab.exec(host, _HEAR_ALL)
        insert_ports(self._database("nb"), network, ports)
        bind_elsewhere(self._database("sb"), "far", ports, within_s=within_s)
        for host in self.lab.hosts:
            self._start_controller(host)
        self._settle(within_s)

    def await_ports(self, ports: Sequence[Port]) -> None:
        words = [
            word for port in ports for word in ("--", "wait-until", "Logical_Switch_Port", port.vif_uuid, "up=true")
        ]
        self._nb(*words[1:], timeout_s=PORTS_S)
        self._settle(AGENT_S)

    def kill_agent(self, host: str) -> None:
        process = self.daemon_of(host, CONTROLLER)
        processes.send(process, signal.SIGKILL)
        if processes.ended([process], timeout_s=_GONE_S):
            raise LabError(f"theirs: ovn-controller of {host} did not end within {_GONE_S:g} s of SIGKILL")

    def start_agent(self, host: str) -> None:
        self._start_controller(host)
        self._nb("sync", hypervisors=True, timeout_s=AGENT_S)

    def agent_memory_kib(self) -> list[int]:
        return [self.memory_of(host, CONTROLLER) for host in self.lab.hosts]

    def manager_memory_kib(self) -> int:
        parts = ("ovn-northd.pid", "ovnnb_db.pid", "ovnsb_db.pid")
        return sum(self.memory_of(CENTRAL, f"/run/ovn/{part}") for part in parts)

    def _start_controller(self, host: str) -> None:
        self.lab.exec(host, ["/bin/sh", "-c", START_CONTROLLER])

    def _settle(self, within_s: float) -> None:
        """Every chassis has confirmed the newest, which nobody measures: one that waits for the next change gets it."""
        for _ in range(_TRIES - 1):
            with suppress(LabError):
                self._nb("sync", hypervisors=True, timeout_s=within_s / _TRIES)
                return
        self._nb("sync", hypervisors=True, timeout_s=within_s / _TRIES)

    def _nb(self, *words: str, hypervisors: bool = False, timeout_s: float = _WAIT_S) -> None:
        """A verb of ovn-nbctl; with *hypervisors*, every chassis has confirmed it."""
        options = [f"--timeout={timeout_s:.0f}", *(["--wait=hv"] if hypervisors else [])]
        rpc(self._nbctl, "run", *options, *words, timeout_s=timeout_s + 1)

    def _database(self, which: str) -> Path:
        return self.lab.path(CENTRAL, f"/run/ovn/ovn{which}_db.sock")

    @property
    def _nbctl(self) -> Path:
        return self.lab.path(CENTRAL, _NBCTL)
