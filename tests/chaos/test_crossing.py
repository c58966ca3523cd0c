"""A frame never crosses networks: not while agents and switches die and come back, not when a port goes from host to
host, not when a segment id is used again.

Guests of two networks, with the same MACs, on the same two hosts, shout the name of their network all the time: to
everybody, and to each other's MAC. What each has heard in the end is all that counts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from scripts.labkit.node import NodeProcess
from scripts.labkit.state import MANAGER
from tests.support import crossing
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import within

pytestmark = pytest.mark.lab

MACS = {"h1": "52:54:00:00:00:01", "h2": "52:54:00:00:00:02"}
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks:
- {name: blue, type: vxlan, zone: a, mtu: 1450, segment_id: 6001}
- {name: red, type: vxlan, zone: a, mtu: 1450, segment_id: 6002}
"""


class Streets:
    """The lab, and who shouts in it: a guest of each network on each host, named `blueh1` and so on."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.netmgr("apply", "-f", "/dev/stdin", "--wait", "realized", input=APPLY)
        shown = agent_shows(lab, "h1")
        self.bridge = shown["switches"][0]["bridge"]
        self._shouting: dict[str, NodeProcess] = {}
        self.vifs: dict[str, str] = {}

    def netmgr(self, *command: str, ok: bool = True, input: str | None = None) -> bool:
        done = self.lab.exec(MANAGER, ["netmgr", *command], check=ok, input=input)
        return done.returncode == 0

    def populate(self, network: str) -> None:
        for host, mac in MACS.items():
            name, vif = network + host, str(uuid4())
            self.vifs[name] = vif
            self.netmgr("port", "create", name, "--network", network, "--vif", vif, "--mac", mac)
            self._join(name, network, host, vif, mac)
        assert within(15, lambda: all(self._lit(network + host, host) for host in MACS))

    def move(self, network: str) -> None:
        """The port of h1 goes to h2, and straight back. A guest waits for it there, dark, and shouts all the time."""
        there, back, vif = f"{network}mv", f"{network}h1", self.vifs[f"{network}h1"]
        self._join(there, network, "h2", vif, MACS["h1"])
        self.lab.exec("h1", ["ovs-vsctl", "del-port", f"ep-{back}"])
        assert within(20, lambda: self._lit(there, "h2"))
        time.sleep(1)
        plug = ["add-port", self.bridge, f"ep-{back}", "--", "set", "Interface", f"ep-{back}"]
        self.lab.exec("h1", ["ovs-vsctl", *plug, f"external_ids:iface-id={vif}"])
        self.lab.exec("h2", ["ovs-vsctl", "del-port", f"ep-{there}"])
        assert within(20, lambda: self._lit(back, "h1"))

    def _join(self, name: str, network: str, host: str, vif: str, mac: str) -> None:
        self.lab.attach(host, name, bridge=self.bridge, vif_uuid=vif, mac=mac)
        shout = ["python3", str(Path(crossing.__file__)), "eth0", network, *MACS.values()]
        self._shouting[name] = self.lab.popen(name, shout, stdout=subprocess.PIPE, text=True)
        assert self._shouting[name].stdout.readline() == "ready\n"

    def heard(self) -> dict[str, dict[str, int]]:
        """By guest: frames by the name in them. Ends the shouting."""
        for shouter in self._shouting.values():
            shouter.terminate()
        return {name: json.loads(shouter.communicate(timeout=15)[0]) for name, shouter in self._shouting.items()}

    def settled(self) -> bool:
        return all(self.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0 for host in MACS)

    def _lit(self, endpoint: str, host: str) -> bool:
        vifs = agent_vifs(self.lab, host)
        return any(vif["ovs_port"] == f"ep-{endpoint}" and vif["state"] == "lit" for vif in vifs)


@pytest.fixture
def streets() -> Iterator[Streets]:
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        yield Streets(lab)


def test_nobody_hears_another_network_whatever_dies_moves_and_whose_segment_is_used_again(streets: Streets) -> None:
    lab = streets.lab
    streets.populate("blue")
    streets.populate("red")
    for host, daemon in (("h1", "hostagent"), ("h2", "ovs-vswitchd"), ("h1", "ovs-vswitchd"), ("h2", "hostagent")):
        lab.stop_daemon(host, daemon, number=signal.SIGKILL)
        time.sleep(0.3)
        lab.start_daemon(host, daemon)
    assert within(20, streets.settled)
    for network in ("blue", "red"):
        streets.move(network)

    # the guests of `red` stay plugged and go on shouting; its segment is another network's at once
    for host in MACS:
        streets.netmgr("port", "detach", "redh1" if host == "h1" else "redh2", "--force")
    streets.netmgr("network", "delete", "red")
    create = ("network", "create", "green", "--zone", "a", "--mtu", "1450", "--segment-id", "6002")
    assert within(15, lambda: streets.netmgr(*create, ok=False))
    streets.populate("green")
    lab.stop_daemon("h2", "ovs-vswitchd", number=signal.SIGKILL)
    lab.start_daemon("h2", "ovs-vswitchd")
    assert within(20, streets.settled)
    time.sleep(1)

    heard = streets.heard()
    for name, counts in heard.items():
        network = name.removesuffix("h1").removesuffix("h2").removesuffix("mv")
        assert set(counts) == {network}, f"{name} has heard {counts}"
        assert counts[network] > 100, f"{name} has heard {counts}: too little to prove anything"
