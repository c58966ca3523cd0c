"""Networks on VLANs, on hosts with agents and real Open vSwitch.

h1 and h2 carry switch sw-a, with tunnels, and switch sw-street, on VLANs of the same PNIC. h3 is the rest of the world:
a bridge of its own on its PNIC, with machine m1 on VLAN 100 and m2 on VLAN 200, of which no manager knows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.tcp_copy import copies
from tests.support.waiting import within

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).parents[2] / "examples" / "vlan.yaml"
HOSTS = "\nhosts: [{name: h1, zones: [a, street]}, {name: h2, zones: [a, street]}]\n"


class Street:
    """Endpoints e1 (h1) and e2 (h2) on office, g1 and g2 on guests, t1 and t2 on blue, addresses alike."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.netmgr("apply", "-f", "/dev/stdin", "--wait", "realized", input=EXAMPLE.read_text() + HOSTS)
        datapath = f"datapath_type={lab.datapath}"
        lab.exec("h3", ["ovs-vsctl", "add-br", "phys", "--", "set", "bridge", "phys", datapath])
        lab.exec("h3", ["ovs-vsctl", "add-port", "phys", "pnic0"])
        for number, (name, vlan) in enumerate((("m1", 100), ("m2", 200)), 51):
            ids = {"vif_uuid": str(uuid4()), "mac": f"52:54:00:00:09:{number:02x}"}
            lab.attach("h3", name, bridge="phys", addresses=["10.20.0.51/24"], mtu=1500, **ids)
            lab.exec("h3", ["ovs-vsctl", "set", "port", f"ep-{name}", f"tag={vlan}"])
        for prefix, network in (("e", "office"), ("g", "guests"), ("t", "blue")):
            for number, host in ((1, "h1"), (2, "h2")):
                self.plug(f"{prefix}{number}", host, network, number)
        assert within(10, lambda: self.reach("e1", "10.20.0.2") and self.reach("t1", "10.20.0.2"))

    def plug(self, name: str, host: str, network: str, number: int) -> None:
        vif, mac = str(uuid4()), f"52:54:00:00:0{'egt'.index(name[0])}:{number:02x}"
        self.netmgr("port", "create", name, "--network", network, "--vif", vif, "--mac", mac)
        mtu = 1450 if network == "blue" else 1500
        address = f"10.20.0.{number}/24"  # the same on each network: frames that cross would be answered
        self.lab.attach(
            host, name, bridge=self.bridge(host, network), vif_uuid=vif, mac=mac, addresses=[address], mtu=mtu
        )

    def netmgr(self, *words: str, input: str | None = None, code: int = 0) -> str:
        done = self.lab.exec("mgr", ["netmgr", *words], input=input, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def show(self, host: str) -> dict[str, Any]:
        return agent_shows(self.lab, host)

    def bridge(self, host: str, network: str) -> str:
        name = "sw-a" if network == "blue" else "sw-street"
        found: str = next(one["bridge"] for one in self.show(host)["switches"] if one["name"] == name)
        return found

    def verified(self, host: str) -> bool:
        return self.lab.exec(host, ["hostagent", "verify"], check=False).returncode == 0

    def vsctl(self, host: str, *words: str) -> str:
        return self.lab.exec(host, ["ovs-vsctl", *words]).stdout

    def uplink(self, host: str) -> str:
        return next(one for one in self.vsctl(host, "list-br").split() if one.startswith("upl-"))

    def trunk(self, host: str) -> str:
        return next(
            one for one in self.vsctl(host, "list-ports", self.uplink(host)).split() if one.startswith("trunk-")
        )

    def reach(self, endpoint: str, address: str, *more: str) -> bool:
        return self.lab.exec(endpoint, ["ping", "-c1", "-W1", *more, address], check=False).returncode == 0


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    settings = {"HOSTAGENT_RUN_MTU_EVERY": "3"}
    with Lab(hosts=3, with_libvirt=False, with_vmctl=False, agent_settings=settings) as lab:
        yield Street(lab)


@pytest.mark.datapath
def test_a_vlan_network_is_realized_and_seen_as_one(street: Street) -> None:
    shown = street.show("h1")
    assert {one["name"]: (one["status"], one["vteps"]) for one in shown["switches"]} == {
        "sw-a": ("up", ["10.200.0.1"]),
        "sw-street": ("up", []),
    }
    assert {(one["name"], one["type"], one["segment"]) for one in shown["networks"]} >= {
        ("office", "vlan", 100),
        ("guests", "vlan", 200),
    }
    assert street.verified("h1")
    assert street.vsctl("h1", "get", "port", street.trunk("h1"), "trunks").strip() == "[100, 200]"


@pytest.mark.datapath
def test_ports_reach_each_other_and_the_machines_of_their_vlan_at_full_size(street: Street) -> None:
    for endpoint in ("e1", "e2", "g1", "g2"):
        assert within(3, lambda name=endpoint: street.reach(name, "10.20.0.51", "-s", "1472", "-M", "do"))
    assert street.reach("e1", "10.20.0.2", "-s", "1472", "-M", "do")
    assert street.reach("m1", "10.20.0.1")
    assert copies(street.lab, "e2", "e1", "10.20.0.2")
    assert copies(street.lab, "m1", "e1", "10.20.0.51")


@pytest.mark.datapath
def test_each_hears_of_its_own_network_only(street: Street) -> None:
    """All three networks have the same addresses: whose MAC comes with the answer tells who answered."""
    for endpoint, answering in (("e1", "52:54:00:00:00:02"), ("g1", "52:54:00:00:01:02"), ("t1", "52:54:00:00:02:02")):
        assert within(3, lambda name=endpoint: street.reach(name, "10.20.0.2"))
        assert answering in street.lab.exec(endpoint, ["ip", "neigh", "show", "10.20.0.2"]).stdout
    assert not street.reach("t1", "10.20.0.51")
    for endpoint, machine in (("e1", "52:54:00:00:09:33"), ("g1", "52:54:00:00:09:34")):
        assert machine in street.lab.exec(endpoint, ["ip", "neigh", "show", "10.20.0.51"]).stdout


@pytest.mark.datapath
@pytest.mark.parametrize("what", ["trunk", "patch", "trunk's VLANs", "trunk's mode", "peer"])
def test_what_somebody_breaks_is_mended_and_what_is_his_stays(street: Street, what: str) -> None:
    trunk, uplink = street.trunk("h1"), street.uplink("h1")
    street.vsctl(
        "h1", "add-port", uplink, "theirs", "trunks=7,100", "--", "set", "interface", "theirs", "type=internal"
    )
    command = {
        "trunk": ["del-port", trunk],
        "patch": ["del-port", trunk.replace("trunk-", "patch-")],
        "trunk's VLANs": ["set", "port", trunk, "trunks=1,2,3"],
        "trunk's mode": ["set", "port", trunk, "vlan_mode=access", "tag=200"],
        "peer": ["set", "interface", trunk, "options:peer=nobody"],
    }[what]
    try:
        street.vsctl("h1", *command)
        assert within(3, lambda: street.verified("h1"))
        assert within(3, lambda: street.reach("e1", "10.20.0.2"))
        assert within(3, lambda: street.reach("g1", "10.20.0.51"))
        assert street.vsctl("h1", "get", "port", "theirs", "trunks").strip() == "[7, 100]"
    finally:
        street.vsctl("h1", "del-port", "theirs")


LIAR = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
own, local, peer = s.getsockname()[4], bytes.fromhex(sys.argv[1].replace(":", "")), socket.inet_aton(sys.argv[2])
for to in 10 * (local, b"\\xff" * 6):
    s.send(to + own + bytes.fromhex("08060001080006040002") + own + peer + local + socket.inet_aton(sys.argv[3]))
    time.sleep(0.02)
"""


@pytest.mark.datapath
def test_a_guest_on_a_vlan_cannot_speak_for_the_peer_of_a_tunnel(street: Street) -> None:
    """It says that it has h2's VTEP, to the host that it is on."""
    uplink, vteps = street.uplink("h1"), {}
    for host in ("h1", "h2"):
        (switch,) = [one for one in street.show(host)["switches"] if one["name"] == "sw-a"]
        vteps[host] = switch["vteps"][0].split("/")[0]
    local = street.vsctl("h1", "get", "interface", uplink, "mac_in_use").strip().strip('"')
    street.lab.exec("e1", [sys.executable, "-c", LIAR, local, vteps["h2"], vteps["h1"]])
    known = street.lab.exec("h1", ["ovs-appctl", "tnl/neigh/show"]).stdout
    assert not [line for line in known.splitlines() if vteps["h2"] + " " in line and "52:54:00:00:00:01" in line]
    assert street.reach("t1", "10.20.0.2")


def test_trace_follows_a_frame_over_the_vlan(street: Street) -> None:
    street.netmgr("port", "set", "office/e2", "--ip", "10.20.0.2")
    said = street.netmgr("trace", "--from", "office/e1", "--to", "office/e2", "--source-ip", "10.20.0.1")
    assert "to the uplink by patch-" in said
    assert "h2, from VLAN 100 of the uplink" in said
    assert said.splitlines()[-1].endswith("on host h2.")


def test_a_vlan_that_another_switch_has_on_the_same_pnic_is_refused_with_its_network(street: Street) -> None:
    said = street.netmgr("network", "create", "clash", "--zone", "street", "--segment-id", "100", code=2)
    assert "segment id 100 is that of network office on switch sw-street" in said
    street.netmgr("zone", "create", "alley", "--kind", "vlan")
    street.netmgr("switch", "create", "sw-alley", "--zone", "alley", "--pnic", "pnic*", "--mtu", "1500")
    street.netmgr("host", "set", "h1", "--zone", "a", "--zone", "street", "--zone", "alley")
    said = street.netmgr("network", "create", "clash", "--zone", "alley", "--segment-id", "100", code=2)
    assert "VLAN 100 is that of network office on switch sw-street, which has PNICs in common" in said
    street.netmgr("network", "create", "fits", "--zone", "alley", "--wait", "realized", "--timeout", "20")
    trunks = [one for one in street.vsctl("h1", "list-ports", street.uplink("h1")).split() if one.startswith("trunk-")]
    assert len(trunks) == 2
    street.netmgr("network", "delete", "fits")
    assert within(5, lambda: street.vsctl("h1", "list-ports", street.uplink("h1")).split().count(trunks[0]) <= 1)
    street.netmgr("host", "set", "h1", "--zone", "a", "--zone", "street")
    street.netmgr("switch", "delete", "sw-alley")
    street.netmgr("zone", "delete", "alley")
    assert within(5, lambda: street.verified("h1"))


def test_a_host_rejects_a_vlan_that_it_carries_already(street: Street) -> None:
    """The manager could not know: the host came into the second zone when both networks were there.

    Of the two it keeps the one in use, here without libvirt to tell which that is.
    """
    street.netmgr("zone", "create", "alley", "--kind", "vlan")
    street.netmgr("switch", "create", "sw-alley", "--zone", "alley", "--pnic", "pnic*", "--mtu", "1500")
    street.netmgr("network", "create", "late", "--zone", "alley", "--segment-id", "100")
    try:
        street.netmgr("host", "set", "h1", "--zone", "a", "--zone", "street", "--zone", "alley")

        def rejected() -> bool:
            said = street.netmgr("network", "realization", "late")
            return "vlan segment 100 is carried for network office" in said and "by switch sw-street" in said

        assert within(5, rejected), street.netmgr("network", "realization", "late")
        assert street.reach("e1", "10.20.0.2")
    finally:
        street.netmgr("network", "delete", "late")
        street.netmgr("host", "set", "h1", "--zone", "a", "--zone", "street")
        street.netmgr("switch", "delete", "sw-alley")
        street.netmgr("zone", "delete", "alley")
    assert within(10, lambda: street.reach("e1", "10.20.0.2"))


@pytest.mark.datapath
def test_with_the_last_vlan_network_the_patch_goes_and_nothing_else(street: Street) -> None:
    street.netmgr("zone", "create", "lane", "--kind", "vlan")
    street.netmgr("switch", "set", "sw-a", "--zone", "a", "--zone", "lane")  # a switch of both kinds
    street.netmgr("host", "set", "h1", "--zone", "a", "--zone", "street", "--zone", "lane")
    street.netmgr("network", "create", "lane", "--zone", "lane", "--wait", "realized", "--timeout", "20")
    ports = street.vsctl("h1", "list-ports", street.bridge("h1", "blue")).split()
    assert [one.split("-")[0] for one in ports if one.startswith(("patch-", "vxlan-"))] == ["patch", "vxlan"]
    assert street.reach("t1", "10.20.0.2")
    street.netmgr("network", "delete", "lane")
    assert within(
        5,
        lambda: not [p for p in street.vsctl("h1", "list-ports", street.bridge("h1", "blue")).split() if "patch-" in p],
    )
    assert within(5, lambda: street.verified("h1"))
    assert street.reach("t1", "10.20.0.2")
    assert street.reach("e1", "10.20.0.51")


@pytest.mark.datapath
def test_a_vlan_network_that_the_street_is_too_narrow_for_is_rejected_with_the_reason(street: Street) -> None:
    """Nothing answers on a VLAN by itself; the tunnels on the same PNICs have measured the way."""
    street.netmgr("switch", "set", "sw-street", "--mtu", "1650")
    street.lab.exec("fabric", ["ip", "link", "set", "h2-pnic0", "mtu", "1590"])
    try:
        measured = lambda: {peer["mtu_passed"] for peer in street.show("h2")["peers"]}  # noqa: E731
        assert within(60, lambda: measured() in ({1590}, {1594})), measured()
        (passes,) = measured()
        words = ["network", "create", "broad", "--zone", "street", "--segment-id", "300", "--mtu", "1650"]
        said = street.netmgr(*words, "--wait", "realized", "--timeout", "10", code=1)
        assert "host h2: rejected: network broad: its MTU of 1650 needs packets of 1650 bytes" in said
        assert f"but at most {passes} to h1" in said
        assert f"or lower the network's to {passes}" in said
        assert {one["name"]: one["status"] for one in street.show("h2")["networks"]}["office"] == "up"
        street.lab.exec("fabric", ["ip", "link", "set", "h2-pnic0", "mtu", "1700"])
        assert within(
            40, lambda: {one["name"]: one["status"] for one in street.show("h2")["networks"]}.get("broad") == "up"
        )
    finally:
        street.lab.exec("fabric", ["ip", "link", "set", "h2-pnic0", "mtu", "1700"])
        street.lab.exec("mgr", ["netmgr", "network", "delete", "broad"], check=False)
        street.netmgr("switch", "set", "sw-street", "--mtu", "1500")
