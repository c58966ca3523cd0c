"""A frame never crosses networks: not while agents and switches die and come back, not when a port goes from host to
host, not when a segment id is used again, not when a guest is given a port of another network.

Guests of two networks, with the same MACs, on the same two hosts, shout the name of their network all the time: to
everybody, and to each other's MAC. What each has heard in the end is all that counts. There are two networks of each
kind that a test is about, all at once.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from scripts.labkit.node import NodeProcess
from scripts.labkit.processes import send
from scripts.labkit.state import MANAGER
from tests.support import crossing
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import within

pytestmark = pytest.mark.lab

MACS = {"h1": "52:54:00:00:00:01", "h2": "52:54:00:00:00:02"}
APPLY = """
zones: [{name: four}, {name: six}, {name: street, kind: vlan}]
switches:
- {name: sw-four, zones: [four], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}
- {name: sw-six, zones: [six], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: "fd00:200::/64"}
- {name: sw-street, zones: [street], pnic_globs: ["pnic*"], mtu: 1500}
hosts: [{name: h1, zones: [four, six, street]}, {name: h2, zones: [four, six, street]}]
"""
# Type, zone and segment ids by the letter that names of such networks end with: tunnels over IPv4 and IPv6, and a VLAN.
KINDS = {
    "x": ("vxlan", "four", 6000),
    "n": ("nvgre", "four", 6000),
    "g": ("geneve", "six", 6000),
    "y": ("vxlan", "six", 7000),
    "v": ("vlan", "street", 100),
}
SEGMENTS = {"blue": 1, "red": 2, "green": 2}


class Streets:
    """The lab, and who shouts in it: a guest of each network on each host, named `bluexh1` and so on."""

    def __init__(self, lab: Lab, kinds: str) -> None:
        self.lab, self.kinds = lab, kinds
        self.enough = 100 if len(kinds) == 1 else 50  # frames that each guest must hear; many shout seldom
        self.netmgr("apply", "-f", "/dev/stdin", "--wait", "realized", input=APPLY)
        self.bridges = {one["name"].removeprefix("sw-"): one["bridge"] for one in agent_shows(lab, "h1")["switches"]}
        self._shouting: dict[str, NodeProcess] = {}
        self.vifs: dict[str, str] = {}

    def all(self, color: str) -> list[str]:
        """The networks of that name, one of each kind."""
        return [color + kind for kind in self.kinds]

    def bridge(self, network: str) -> str:
        """Where its guests are plugged, on each host."""
        return self.bridges[KINDS[network[-1]][1]]

    def create(self, network: str) -> bool:
        """Whether the network may have its segment already."""
        kind, zone, first = KINDS[network[-1]]
        segment = str(first + SEGMENTS[network[:-1]])
        words = ["--type", kind, "--zone", zone, "--mtu", "1450", "--segment-id", segment]
        return self.netmgr("network", "create", network, *words, ok=False)

    def netmgr(self, *command: str, ok: bool = True, input: str | None = None) -> bool:
        done = self.lab.exec(MANAGER, ["netmgr", *command], check=ok, input=input)
        return done.returncode == 0

    def populate(self, *colors: str) -> None:
        """Networks of these names, and a guest of each on each host."""
        for network in (network for color in colors for network in self.all(color)):
            assert within(15, lambda network=network: self.create(network))  # type: ignore[misc]
            for host, mac in MACS.items():
                name, vif = network + host, str(uuid4())
                self.vifs[name] = vif
                self.netmgr("port", "create", name, "--network", network, "--vif", vif, "--mac", mac)
                self._join(name, network, host, vif, mac)
        for host in MACS:
            ours = [network + host for color in colors for network in self.all(color)]
            assert within(15, lambda host=host, ours=ours: self._lit(host, *ours))  # type: ignore[misc]

    def move(self, color: str) -> None:
        """The ports of h1 go to h2, and straight back. Guests wait for them there, dark, and shout all the time."""
        networks = self.all(color)
        there, back = ([network + where for network in networks] for where in ("mv", "h1"))
        for network in networks:
            self._join(f"{network}mv", network, "h2", self.vifs[f"{network}h1"], MACS["h1"])
        for name in back:
            self.lab.exec("h1", ["ovs-vsctl", "del-port", f"ep-{name}"])
        assert within(20, lambda: self._lit("h2", *there))
        time.sleep(1)
        for network, name in zip(networks, back, strict=True):
            plug = ["add-port", self.bridge(network), f"ep-{name}", "--", "set", "Interface", f"ep-{name}"]
            self.lab.exec("h1", ["ovs-vsctl", *plug, f"external_ids:iface-id={self.vifs[name]}"])
        for name in there:
            self.lab.exec("h2", ["ovs-vsctl", "del-port", f"ep-{name}"])
        assert within(20, lambda: self._lit("h1", *back))

    def _join(self, name: str, network: str, host: str, vif: str, mac: str) -> None:
        self.lab.attach(host, name, bridge=self.bridge(network), vif_uuid=vif, mac=mac)
        self._shouting[name] = self.shout(name, network)

    def shout(self, endpoint: str, name: str) -> NodeProcess:
        """A guest that shouts *name* from now on."""
        interval_ms = 1 + len(self.kinds)  # many shout seldom: two cores carry so many frames, and no more
        command = ["python3", str(Path(crossing.__file__)), "eth0", name, str(interval_ms), *MACS.values()]
        shouter = self.lab.popen(endpoint, command, stdout=subprocess.PIPE, text=True)
        assert shouter.stdout is not None
        assert shouter.stdout.readline() == "ready\n"
        return shouter

    def heard(self) -> dict[str, dict[str, int]]:
        """By guest: frames by the name in them. Ends the shouting."""
        return {name: what[0] for name, what in heard_by(self._shouting).items()}

    def delete(self, color: str) -> None:
        """The networks go. Their guests stay plugged and go on shouting."""
        for network in self.all(color):
            for host in MACS:
                self.netmgr("port", "detach", network + host, "--force")
            self.netmgr("network", "delete", network)

    @contextmanager
    def slow(self, host: str) -> Iterator[None]:
        """The host's agent does nothing meanwhile; its switch does what it was told."""
        agent = self.lab.node(host).daemon("/run/lab/hostagent.pid")
        assert agent is not None
        assert send(agent, signal.SIGSTOP)
        try:
            yield
        finally:
            assert send(agent, signal.SIGCONT)

    def settled(self) -> bool:
        return all(self.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0 for host in MACS)

    def _lit(self, host: str, *endpoints: str) -> bool:
        lit = {vif["ovs_port"] for vif in agent_vifs(self.lab, host) if vif["state"] == "lit"}
        return lit >= {f"ep-{endpoint}" for endpoint in endpoints}


def heard_by(shouting: Mapping[str, NodeProcess]) -> dict[str, tuple[dict[str, int], list[str]]]:
    """What `crossing` prints, by the key that its process has in *shouting*; ends them."""
    for shouter in shouting.values():
        shouter.terminate()
    return {name: json.loads(shouter.communicate(timeout=15)[0]) for name, shouter in shouting.items()}


@pytest.fixture
def streets(request: pytest.FixtureRequest) -> Iterator[Streets]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False) as lab:
        yield Streets(lab, kinds=request.param)


@pytest.mark.parametrize("streets", ["x", "ngyv"], indirect=True, ids=["vxlan", "others"])
def test_nobody_hears_another_network_whatever_dies_moves_and_whose_segment_is_used_again(streets: Streets) -> None:
    lab = streets.lab
    streets.populate("blue", "red")
    for host, daemon in (("h1", "hostagent"), ("h2", "ovs-vswitchd"), ("h1", "ovs-vswitchd"), ("h2", "hostagent")):
        lab.stop_daemon(host, daemon, number=signal.SIGKILL)
        time.sleep(0.3)
        lab.start_daemon(host, daemon)
    assert within(20, streets.settled)
    for color in ("blue", "red"):
        streets.move(color)

    streets.delete("red")  # its segment is another network's at once
    streets.populate("green")
    lab.stop_daemon("h2", "ovs-vswitchd", number=signal.SIGKILL)
    lab.start_daemon("h2", "ovs-vswitchd")
    assert within(20, streets.settled)
    time.sleep(1)

    heard = streets.heard()
    for name, counts in heard.items():
        network = name[:-2]
        assert set(counts) == {network}, f"{name} has heard {counts}"
        assert counts[network] > streets.enough, f"{name} has heard {counts}: too little to prove anything"


@pytest.mark.parametrize("streets", ["x", "v"], indirect=True, ids=["vxlan", "vlan"])
def test_a_segment_is_nobody_elses_while_a_slow_host_may_carry_it(streets: Streets) -> None:
    """Its agent has not heard that the network is gone, and the guests there go on. That holds through the end of the
    manager, who remembers what hosts have said, and of the host's switch."""
    lab = streets.lab
    streets.populate("red")
    time.sleep(1)
    (green,) = streets.all("green")
    with streets.slow("h1"):
        streets.delete("red")
        for node, daemon in ((None, ""), (MANAGER, "netmgr"), ("h1", "ovs-vswitchd")):
            if node is not None:
                lab.stop_daemon(node, daemon, number=signal.SIGKILL)
                lab.start_daemon(node, daemon)
            assert within(10, lambda: agent_shows(lab, "h2")["sync"]["connected"])
            time.sleep(1)  # h2 says that it has nothing of the network any more
            assert not streets.create(green)
    streets.populate("green")
    time.sleep(1)
    for name, counts in streets.heard().items():
        network = name[:-2]
        assert set(counts) == {network}, f"{name} has heard {counts}"
        assert counts[network] > streets.enough, f"{name} has heard {counts}: too little to prove anything"


@pytest.mark.parametrize("streets", ["x"], indirect=True, ids=["vxlan"])
def test_a_vif_whose_port_is_made_anew_on_another_network_is_in_one_of_them_at_a_time(streets: Streets) -> None:
    """It stays plugged, and hears one network until it hears the other. What it says is for the one that it is in."""
    lab, vif, mac = streets.lab, str(uuid4()), "52:54:00:00:00:09"
    streets.populate("blue", "red")
    lab.attach("h1", "vm", bridge=streets.bridge("bluex"), vif_uuid=vif, mac=mac)
    throughout = streets.shout("vm", "vm")
    stays = ["bluex", "redx", "bluex", "redx", "bluex"]
    said = {}
    for number, network in enumerate(stays):
        with streets.slow("h1") if number % 2 else nullcontext():  # it hears of both changes at once
            if number:
                streets.netmgr("port", "detach", f"{stays[number - 1]}/vm", "--force")
                streets.netmgr("port", "delete", f"{stays[number - 1]}/vm")
            streets.netmgr("port", "create", "vm", "--network", network, "--vif", vif, "--mac", mac)
        assert within(
            15, lambda: any(one["ovs_port"] == "ep-vm" and one["state"] == "lit" for one in agent_vifs(lab, "h1"))
        )
        assert within(15, streets.settled)
        shouter = streets.shout("vm", f"vm{number}")
        time.sleep(0.5)
        said[f"vm{number}"] = set(heard_by({"vm": shouter})["vm"][0])
    _, order = heard_by({"vm": throughout})["vm"]
    assert order == stays
    assert list(said.values()) == [{network} for network in stays]
    for name, counts in streets.heard().items():
        network = name[:-2]
        there = {f"vm{number}" for number, one in enumerate(stays) if one == network}
        assert set(counts) == {network, "vm", *there}, f"{name} has heard {counts}"
