"""Open vSwitch without a network manager: `mac_learning`, and the `floor` that no network can beat.

Both have what ours has: an uplink bridge with the PNIC and the VTEP address on its LOCAL port, a bridge for VIFs, VXLAN
between all hosts, the datapath of the lab.

`mac_learning` forwards by NORMAL. Its tunnels are *protected* ports (ovs-vswitchd.conf.db(5)): nothing goes from one
to another, or the mesh would be a loop.

`floor` has the answer before the question: peers send what is for the guest to both hosts between which it moves, by
flows laid by hand before the first move. The source delivers it all the time, the destination from the guest's pause
on: at QEMU's STOP one message, encoded beforehand, opens the last flow there (`gate`). No manager and no agent decides
or computes anything, no path is longer than it must be, and nothing that the source still answered waits in the tap.
(It is no way to run a network: the memory copy shares the hosts with a clone of all the guest receives.)
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from uuid import uuid4

from scripts.benchkit.subject import GUEST, MOVERS, Port, Subject, define_network
from scripts.labkit import Lab, LabError
from scripts.labkit.node import REPOSITORY, NodeProcess

__all__ = ["Floor", "MacLearning", "bare_switches", "build_tunnels", "build_uplinks", "random_port", "tunnel", "vtep"]

BRIDGE, UPLINK, VNI = "br-int", "br-uplink", 5001
_ACQUAINTED = 3  # hosts between which frames are measured
_GATE = 1  # the table that delivers to the guest, or does not
_MULTICAST = "01:00:00:00:00:00/01:00:00:00:00:00"


class MacLearning(Subject):
    """NORMAL on every bridge."""

    name = "mac_learning"

    @staticmethod
    def make_lab(progress: Callable[[str], None]) -> Lab:
        return bare_switches(progress)

    def build(self) -> None:
        self._bridges(["fail_mode=standalone"])
        for host in self.lab.hosts:
            for peer in self.lab.hosts:
                if peer != host:
                    self.lab.exec(host, ["ovs-vsctl", "--timeout=10", "set", "Port", tunnel(peer), "protected=true"])

    def port(self, name: str, address: str) -> Port:
        return random_port(address)

    def bridge(self, host: str) -> str:
        return BRIDGE

    def _bridges(self, settings: list[str]) -> None:
        build_uplinks(self.lab)
        build_tunnels(self.lab, settings)
        for host in MOVERS:
            define_network(self.lab, host, name=self.network, bridge=BRIDGE)


class Floor(MacLearning):
    """Flows by hand. FLOOD reaches the taps of guests and nothing else: tunnels and peers are set *no-flood*.

    What is for the guest passes table 1, which is empty where the guest is not and not yet to be.
    """

    name = "floor"

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._peers: dict[str, tuple[str, Port]] = {}
        self._gate: NodeProcess | None = None

    def build(self) -> None:
        self._bridges(["fail_mode=secure"])
        for host in self.lab.hosts:
            for peer in self.lab.hosts:
                if peer != host:
                    self._no_flood(host, tunnel(peer))

    def peer_attached(self, endpoint: str, host: str, port: Port) -> None:
        device = f"ep-{endpoint}"
        self._no_flood(host, device)
        self._peers[host] = (device, port)

    def guest_started(self, host: str, port: Port) -> None:
        for each in self.lab.hosts:
            self._lay(each, port, here=each == host)

    def before_move(self, port: Port, source: str, destination: str) -> None:
        """The flows as they must be, whatever became of the last move; then the destination's gate is armed."""
        self._disarm()
        for mover in MOVERS:
            self._lay(mover, port, here=mover == source)
        switch = str(self.lab.path(destination, f"/run/openvswitch/{BRIDGE}.mgmt"))
        command = [sys.executable, "-m", "scripts.benchkit.gate", GUEST, switch, str(_GATE), port.mac]
        gate = self._gate = self.lab.popen(
            source, command, cwd=str(REPOSITORY), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        if gate.stdout is None or gate.stdout.readline() != "armed\n":
            raise LabError(f"the gate of lab {self.lab.name} on {source} ended before the move")

    def after_move(self, port: Port, source: str, destination: str) -> None:
        self._disarm()

    def _disarm(self) -> None:
        if self._gate is not None:
            self._gate.kill()
            self._gate.communicate()
            self._gate = None

    def _lay(self, host: str, port: Port, *, here: bool) -> None:
        flows = [
            *self._flows(host, port.mac),
            *([f"table={_GATE},{_flow(10, f'dl_dst={port.mac}', ['FLOOD'])}"] * here),
        ]
        command = ["ovs-ofctl", "-OOpenFlow13", "replace-flows", BRIDGE, "-"]
        self.lab.exec(host, command, input="\n".join(flows) + "\n")

    def _flows(self, host: str, guest: str) -> Iterator[str]:
        number = {name: self._ofport(host, name) for name in self._ports(host)}
        tunnels = {peer: number[tunnel(peer)] for peer in self.lab.hosts if peer != host}
        own = number[self._peers[host][0]]
        taps, gate = (["FLOOD"], [f"resubmit(,{_GATE})"]) if host in MOVERS else ([], [])
        for way_in in tunnels.values():
            yield _flow(100, f"in_port={way_in},dl_dst={guest}", gate)
            yield _flow(100, f"in_port={way_in},dl_dst={self._peers[host][1].mac}", [own])
            yield _flow(100, f"in_port={way_in},dl_dst={_MULTICAST}", [*taps, own])
            yield _flow(90, f"in_port={way_in}", [])
        yield _flow(50, f"dl_dst={guest}", [*gate, *(tunnels[mover] for mover in MOVERS if mover != host)])
        yield _flow(50, f"dl_dst={_MULTICAST}", [*taps, own, *tunnels.values()])
        for peer, (_, port) in self._peers.items():
            yield _flow(50, f"dl_dst={port.mac}", [own if peer == host else tunnels[peer]])

    def _ports(self, host: str) -> list[str]:
        return [*(tunnel(peer) for peer in self.lab.hosts if peer != host), self._peers[host][0]]

    def _ofport(self, host: str, name: str) -> str:
        return self.lab.exec(host, ["ovs-vsctl", "--timeout=10", "get", "Interface", name, "ofport"]).stdout.strip()

    def _no_flood(self, host: str, port: str) -> None:
        self.lab.exec(host, ["ovs-ofctl", "mod-port", BRIDGE, port, "no-flood"])


def bare_switches(progress: Callable[[str], None], *, libvirt: bool = True, hosts: int = 3) -> Lab:
    """A lab of hosts with Open vSwitch and, where wanted, libvirt; no manager and no agent."""
    return Lab(
        hosts=hosts,
        with_manager=False,
        with_agents=False,
        with_libvirt=libvirt,
        dummy_ports=not libvirt,
        progress=progress,
    )


def build_uplinks(lab: Lab) -> None:
    """On every host a bridge with the PNIC, and the VTEP address on it; then the first hosts know each other's MACs."""
    for host in lab.hosts:
        words = [
            "add-br",
            UPLINK,
            "--",
            "set",
            "Bridge",
            UPLINK,
            f"datapath_type={lab.datapath}",
            "--",
            "add-port",
            UPLINK,
            "pnic0",
        ]
        lab.exec(host, ["ovs-vsctl", "--timeout=10", *words])
        lab.exec(host, ["ip", "address", "add", f"{vtep(host)}/24", "dev", UPLINK])
        lab.exec(host, ["ip", "link", "set", UPLINK, "up"])
    for host in lab.hosts[:_ACQUAINTED]:
        for peer in lab.hosts[:_ACQUAINTED]:
            if peer != host:
                lab.exec(host, ["ping", "-c", "3", "-i", "0.2", "-W", "2", vtep(peer)])


def build_tunnels(lab: Lab, settings: list[str]) -> None:
    """On every host the bridge for VIFs, with these columns, and a VXLAN tunnel to every other host."""
    for host in lab.hosts:
        words = ["add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, f"datapath_type={lab.datapath}", *settings]
        for peer in lab.hosts:
            if peer != host:
                options = {"remote_ip": vtep(peer), "local_ip": vtep(host), "key": str(VNI)}
                words += ["--", "add-port", BRIDGE, tunnel(peer)]
                words += ["--", "set", "Interface", tunnel(peer), "type=vxlan"]
                words += [f"options:{key}={value}" for key, value in options.items()]
        lab.exec(host, ["ovs-vsctl", "--timeout=10", *words])


def vtep(host: str) -> str:
    """Underlay address of h<i>: 10.200.0.10 + i."""
    return f"10.200.0.{10 + int(host.removeprefix('h'))}"


def tunnel(peer: str) -> str:
    """Name of the tunnel port to a host."""
    return f"vx-{peer}"


def random_port(address: str) -> Port:
    """A port that needs nobody's consent."""
    return Port(vif_uuid=str(uuid4()), mac="02:" + secrets.token_bytes(5).hex(":"), address=address)


def _flow(priority: int, match: str, outputs: list[str]) -> str:
    actions = ",".join(f"output:{out}" if out.isdigit() else out for out in outputs)
    return f"priority={priority},{match},actions={actions or 'drop'}"
