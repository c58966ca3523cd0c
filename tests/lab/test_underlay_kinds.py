"""Underlays of other kinds: two address families on one host, all tunnel types over IPv6, PNICs that fail over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from scripts.labkit.patience import patient
from tests.support.agent_words import agent_shows
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

TWO_FAMILIES = """
switches:
- {name: sw-4, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}
- {name: sw-6, zones: [b], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: "fd00:200::/64"}
networks:
- {name: four, type: vxlan, zone: a, mtu: 1500}
- {name: six, type: vxlan, zone: b, mtu: 1500}
- {name: six-geneve, type: geneve, zone: b, mtu: 1500}
- {name: six-nvgre, type: nvgre, zone: b, mtu: 1500}
"""
TWO_PNICS = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24, teaming: active-backup}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
# Listens on port 9, then says how many bytes came; sends argv 2 of them to argv 1.
TAKE = "import socket\ns = socket.create_server(('', 9))\nprint('ready', flush=True)\nc, _ = s.accept()\nn = 0\n"
TAKE += "while (d := c.recv(65536)):\n    n += len(d)\nprint(n)\n"
GIVE = "import socket, sys\ns = socket.create_connection((sys.argv[1], 9), timeout=5)\n"
GIVE += "s.sendall(bytes(int(sys.argv[2])))\n"


def show(lab: Lab, host: str) -> dict[str, Any]:
    return agent_shows(lab, host)


def attach(lab: Lab, network: str, host: str, number: int) -> str:
    """An endpoint on *network*, whose MTU it has; its name."""
    shown = show(lab, host)
    (on,) = [one["switch"] for one in shown["networks"] if one["name"] == network]
    (bridge,) = [one["bridge"] for one in shown["switches"] if one["name"] == on]
    name, vif, mac = f"e{number}", str(uuid4()), f"52:54:00:00:00:{number:02x}"
    words = ["netmgr", "port", "create", name, "--network", network, "--vif", vif, "--mac", mac]
    lab.exec("mgr", words)
    mtu = next(one["mtu"] for one in shown["networks"] if one["name"] == network)
    lab.attach(host, name, bridge=bridge, vif_uuid=vif, mac=mac, addresses=[f"10.10.0.{number}/24"], mtu=mtu)
    return name


def test_switches_of_both_families_share_a_host_and_its_pnic(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a,b", "h2": "a,b"})
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=TWO_FAMILIES)
    number = 0
    for network in ("four", "six", "six-geneve", "six-nvgre"):
        number += 2
        one = attach(lab, network, "h1", number)
        two = attach(lab, network, "h2", number + 1)
        other = f"10.10.0.{number + 1}"
        assert within(5, lambda: all(vif["state"] == "lit" for host in lab.hosts for vif in show(lab, host)["vifs"]))
        ping = lab.exec(one, ["ping", "-c2", "-i0.2", "-W1", other], check=False).stdout
        assert "2 received" in ping, f"{network}: {ping}"
        full = lab.exec(one, ["ping", "-c1", "-W1", "-M", "do", "-s", "1472", other], check=False).stdout
        assert "1 received" in full, f"{network}: {full}"
        taker = lab.popen(two, ["python3", "-c", TAKE], stdout=-1, text=True)
        assert taker.stdout is not None
        assert taker.stdout.readline().strip() == "ready"
        lab.exec(one, ["python3", "-c", GIVE, other, "300000"])
        assert int(taker.communicate(timeout=patient(10))[0]) == 300000, network
        lab.detach(two)
        lab.detach(one)
    peers = {(one["switch"], one["type"]): one for one in show(lab, "h1")["peers"]}
    assert set(peers) == {("sw-4", "vxlan"), ("sw-6", "vxlan"), ("sw-6", "geneve"), ("sw-6", "nvgre")}
    assert {(one["state"], one["mtu_passed"]) for one in peers.values()} == {("up", 1650)}


@pytest.mark.parametrize("kind", ["vxlan", "geneve", "nvgre"])
def test_a_switch_moves_from_one_family_to_the_other_under_its_ports(make_lab: Callable[..., Lab], kind: str) -> None:
    lab = make_lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a,b", "h2": "a,b"})
    document = TWO_FAMILIES.replace("four, type: vxlan", f"four, type: {kind}")
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=document)
    one = attach(lab, "four", "h1", 1)
    attach(lab, "four", "h2", 2)
    for pool in ("fd00:201::/64", "10.200.0.0/24"):
        assert within(5, lambda: lab.exec(one, ["ping", "-c1", "-W1", "10.10.0.2"], check=False).returncode == 0), pool
        lab.exec(
            "mgr", ["netmgr", "switch", "set", "sw-4", "--vtep-pool", pool, "--wait", "realized", "--timeout", "10"]
        )
    assert within(5, lambda: lab.exec(one, ["ping", "-c1", "-W1", "10.10.0.2"], check=False).returncode == 0)
    for host in lab.hosts:
        peers = [peer for peer in show(lab, host)["peers"] if peer["switch"] == "sw-4"]
        assert [(peer["state"], peer["cut"], ":" in peer["vtep"]) for peer in peers] == [("up", False, False)]
        verify = lab.exec(host, ["hostagent", "verify"], check=False)
        assert verify.returncode == 0, verify.stdout


def test_no_peer_is_lost_while_a_pnic_fails_over(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(hosts=3, pnics=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a", "h3": "a"})
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=TWO_PNICS)
    one = attach(lab, "blue", "h1", 1)
    attach(lab, "blue", "h2", 2)
    assert within(5, lambda: {peer["state"] for peer in show(lab, "h1")["peers"]} == {"up"})
    for pnic in ("pnic0", "pnic1"):
        lab.exec("fabric", ["ip", "link", "set", f"h1-{pnic}", "down"])
        assert not within(4, lambda: {peer["state"] for peer in show(lab, "h1")["peers"]} != {"up"})
        assert lab.exec(one, ["ping", "-c1", "-W1", "10.10.0.2"], check=False).returncode == 0
        lab.exec("fabric", ["ip", "link", "set", f"h1-{pnic}", "up"])
        time.sleep(1)
