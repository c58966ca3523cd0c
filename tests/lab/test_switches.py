"""Several opaque switches on one host, each with its own VTEP; tunnels of each type with TCP through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from netmgr.contract.types import NetworkType
from scripts.labkit import Lab
from tests.support.agent_words import agent_shows
from tests.support.tcp_copy import copies
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

TUNNELS = [kind.value for kind in NetworkType if kind.tunneled]
# sw-a and sw-b share a PNIC where there is one; with two, each has its own
SHARED = """
zones: [{name: a}, {name: b}]
switches:
  - {name: sw-a, zones: [a], pnic_globs: [pnic0], mtu: 1650, vtep_pool: 10.200.0.0/24}
  - {name: sw-b, zones: [b], pnic_globs: [PNIC], mtu: 1600, vtep_pool: 10.201.0.0/24}
hosts: [{name: h1, zones: [a, b]}, {name: h2, zones: [a, b]}]
networks:
"""
NETWORK = "  - {{name: {kind}-{zone}, zone: {zone}, type: {kind}, segment_id: {segment}, mtu: 1500}}\n"


def show(lab: Lab, host: str) -> dict[str, Any]:
    return agent_shows(lab, host)


def reach(lab: Lab, endpoint: str, address: str) -> bool:
    ping = ["ping", "-c1", "-W1", "-s", "1472", "-M", "do", address]
    return lab.exec(endpoint, ping, check=False).returncode == 0


@pytest.mark.parametrize("pnics", [1, 2], ids=["one PNIC for both", "a PNIC each"])
def test_two_switches_with_tunnels_of_every_type_carry_tcp_and_keep_apart(
    make_lab: Callable[..., Lab], pnics: int
) -> None:
    """The same segment id on both switches, the same addresses on all networks."""
    lab = make_lab(hosts=2, pnics=pnics, with_libvirt=False, with_vmctl=False)
    document = SHARED.replace("PNIC", f"pnic{pnics - 1}")
    for zone in "ab":
        for number, kind in enumerate(TUNNELS):
            document += NETWORK.format(kind=kind, zone=zone, segment=5000 + number)
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=document)

    shown = {one["name"]: one for one in show(lab, "h1")["switches"]}
    assert {name: (one["status"], one["vteps"], one["pnics"]) for name, one in shown.items()} == {
        "sw-a": ("up", ["10.200.0.1"], ["pnic0"]),
        "sw-b": ("up", ["10.201.0.1"], [f"pnic{pnics - 1}"]),
    }
    bridges = lab.exec("h1", ["ovs-vsctl", "list-br"]).stdout.split()
    assert sum(one.startswith("upl-") for one in bridges) == pnics

    macs = {}
    for index, (zone, kind) in enumerate((zone, kind) for zone in "ab" for kind in TUNNELS):
        for number, host in ((1, "h1"), (2, "h2")):
            name, vif, mac = f"{kind}{zone}{number}", str(uuid4()), f"52:54:00:00:{index:02x}:{number:02x}"
            port = ["netmgr", "port", "create", name, "--network", f"{kind}-{zone}", "--vif", vif, "--mac", mac]
            lab.exec("mgr", port)
            bridge = next(one["bridge"] for one in show(lab, host)["switches"] if one["name"] == f"sw-{zone}")
            address = f"10.10.0.{number}/24"
            lab.attach(host, name, bridge=bridge, vif_uuid=vif, mac=mac, addresses=[address], mtu=1500)
            macs[name] = mac
    for zone in "ab":
        for kind in TUNNELS:
            source, sink = f"{kind}{zone}2", f"{kind}{zone}1"
            assert within(10, lambda sink=sink: reach(lab, sink, "10.10.0.2")), sink
            assert macs[source] in lab.exec(sink, ["ip", "neigh", "show", "10.10.0.2"]).stdout
            assert copies(lab, source, sink, "10.10.0.2", mib=4), sink
    for host in lab.hosts:
        done = lab.exec(host, ["hostagent", "verify"], check=False)
        assert done.returncode == 0, done.stdout
    setting = f"/proc/sys/net/ipv4/conf/pnic{pnics - 1}/arp_ignore"  # else it answers for other PNICs' VTEPs
    lab.stop_daemon("h1", "hostagent")  # or it may mend this before anyone has looked
    lab.exec("h1", ["sh", "-c", f"echo 0 > {setting}"])
    done = lab.exec("h1", ["hostagent", "verify"], check=False)
    lab.start_daemon("h1", "hostagent")
    assert (done.returncode, f"SetArpIgnore link=pnic{pnics - 1} arp_ignore=1" in done.stdout) == (1, True), done.stdout
    assert within(10, lambda: lab.exec("h1", ["cat", setting]).stdout.strip() == "1")
    lab.exec("h1", ["sh", "-c", f"echo 0 > {setting}"])
    assert within(40, lambda: any("answer ARP" in one["what"] for one in show(lab, "h1")["repairs"]))
    assert lab.exec("h1", ["cat", setting]).stdout.strip() == "1"
