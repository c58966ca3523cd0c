"""Addresses learned from guests, on real hosts: told, answered for, kept; and what the underlay then carries."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from scripts.labkit import Lab
from tests.support.waiting import within

pytestmark = pytest.mark.lab

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
GUESTS = {"h1": ("c1", ("10.10.0.1/24", "fd00::1/64")), "h2": ("c2", ("10.10.0.2/24", "fd00::2/64"))}
# Claims the address of argv 1 for the MAC of eth0, as a guest does that comes up with it.
CLAIM = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
mac, ip = s.getsockname()[4], socket.inet_aton(sys.argv[1])
arp = bytes.fromhex("0001080006040001") + mac + ip + bytes(6) + ip
s.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + arp + bytes(18))
"""

SAY = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
mac, ip = bytes.fromhex(sys.argv[1].replace(":", "")), socket.inet_aton(sys.argv[2])
s.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + bytes.fromhex("0001080006040001") + mac + ip + bytes(6) + ip + bytes(18))
"""

# Probes for the address of argv 1 (RFC 5227), as `arping -D` and DHCP clients do; prints who answers.
PROBE = """
import sys
from scapy.all import ARP, Ether, get_if_hwaddr, srp1
mac = get_if_hwaddr("eth0")
probe = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc="0.0.0.0", pdst=sys.argv[1])
answer = srp1(probe, iface="eth0", timeout=2, verbose=False)
print(answer[ARP].hwsrc if answer is not None else "nobody")
"""


def inside(lab: Lab, host: str, *command: str, check: bool = True) -> Any:
    return lab.exec(host, ["ip", "netns", "exec", GUESTS[host][0], *command], check=check)


def reach(lab: Lab, host: str, address: str) -> bool:
    return inside(lab, host, "ping", "-c1", "-W1", address, check=False).returncode == 0


def learned(lab: Lab) -> dict[str, list[str]]:
    rows = json.loads(lab.exec("mgr", ["netmgr", "mac", "list", "--network", "blue", "-o", "json"]).stdout)
    return {row["port"]: [one for one in row["learned"] if "." in one] for row in rows}


def start_capture(lab: Lab, host: str) -> Any:
    """tcpdump of the VXLAN packets at a host's PNIC, ready when this returns; without probes, which have VNI 0."""
    words = ["tcpdump", "-n", "-l", "--immediate-mode", "-i", "pnic0", "udp port 4789 and udp[12:4] != 0"]
    capture = lab.popen(host, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("listening" in line for line in iter(capture.stderr.readline, ""))
    return capture


def end_capture(capture: Any) -> str:
    capture.send_signal(signal.SIGINT)
    return str(capture.communicate(timeout=10)[0]).strip()


def resolving(heard: str, address: str) -> list[str]:
    """Lines of a capture that ask for the MAC of *address* or tell it: ARP and neighbour discovery."""
    words = (f"who-has {address} ", f"Reply {address} ", f"who has {address},", f"tgt is {address},")
    return [line for line in heard.splitlines() if any(word in line for word in words)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts; a container on two of them, with addresses that nobody has defined."""
    with Lab(hosts=3, with_libvirt=False, with_vmctl=False, zones=dict.fromkeys(("h1", "h2", "h3"), "a")) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        for host, (name, addresses) in GUESTS.items():
            made.exec(host, ["ip", "netns", "add", name])
            attach = ["hostagent", "port", "attach", "--network", "blue", "--netns", name, "--name", name]
            made.exec(host, [*attach, *(word for address in addresses for word in ("--ip", address))])
        assert within(10, lambda: reach(made, "h1", "10.10.0.2") and reach(made, "h1", "fd00::2"))
        yield made


def test_what_guests_use_is_known_to_the_manager_and_to_the_other_host(lab: Lab) -> None:
    assert within(5, lambda: learned(lab) == {"c1": ["10.10.0.1"], "c2": ["10.10.0.2"]})
    explained = lab.exec("h1", ["hostagent", "vif", "explain", _vif(lab, "c1")]).stdout
    assert "Learned from its guest: 10.10.0.1" in " ".join(explained.split())


@pytest.mark.datapath
@pytest.mark.parametrize("prefix", ["10.10.0.", "fd00::"], ids=["arp", "nd"])
def test_the_underlay_carries_no_question_for_a_learned_address_and_nothing_to_a_host_without_a_port(
    lab: Lab, prefix: str
) -> None:
    own, other, nobodys = (f"{prefix}{number}" for number in ("1", "2", "77"))
    ways = (("h1", other), ("h2", own))
    assert within(10, lambda: all(reach(lab, *way) for way in ways) and other in _known(lab, "c2"))
    assert within(5, lambda: own in _known(lab, "c1"))
    captures = {host: start_capture(lab, host) for host in ("h2", "h3")}
    inside(lab, "h1", "ping", "-c1", "-W1", nobodys, check=False)  # flooded
    for _ in range(3):
        for host, address in ways:
            inside(lab, host, "ip", "neigh", "flush", "all")
            assert reach(lab, host, address)
    heard = {host: end_capture(capture) for host, capture in captures.items()}
    assert resolving(heard["h2"], nobodys), "the capture sees what crosses"
    assert heard["h2"].count("echo request") == 6
    assert resolving(heard["h2"], other) == []
    assert resolving(heard["h2"], own) == []
    assert heard["h3"] == ""


@pytest.mark.datapath
def test_guests_that_just_came_ask_nobody_on_the_underlay_for_each_other_s_defined_addresses(lab: Lab) -> None:
    guests = {"h1": ("c3", "fd00::3"), "h2": ("c4", "fd00::4")}
    words = ["netmgr", "port", "create", "--network", "blue"]
    for name, address in guests.values():
        lab.exec("mgr", [*words, name, "--vif", str(uuid4()), "--ip", address])
    capture = start_capture(lab, "h2")
    for host, (name, address) in guests.items():
        lab.exec(host, ["ip", "netns", "add", name])
        attach = ["hostagent", "port", "attach", name, "--network", "blue", "--netns", name]
        lab.exec(host, [*attach, "--ip", f"{address}/64"])
    lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)  # each host knows both
    for host, (name, _) in guests.items():
        shown = ["ip", "-n", name, "-6", "address", "show", "dev", "eth0", "tentative"]
        assert within(10, lambda host=host, shown=shown: lab.exec(host, shown).stdout == "")
    ping = lab.exec("h1", ["ip", "netns", "exec", "c3", "ping", "-c1", "-W1", "fd00::4"], check=False)
    heard = end_capture(capture)
    assert ping.returncode == 0, ping.stdout
    assert "fd00::3 > fd00::4: ICMP6, echo request" in heard
    asked = {line.partition(" > ")[0] for _, address in guests.values() for line in resolving(heard, address)}
    assert asked == {"IP6 ::"}, "whether its own address is free, which others must hear"

    for host, (name, _) in guests.items():
        lab.exec(host, ["hostagent", "port", "detach", name])
        lab.exec(host, ["ip", "netns", "delete", name])
        assert within(
            5, lambda name=name: lab.exec("mgr", ["netmgr", "port", "delete", name], check=False).returncode == 0
        )


@pytest.mark.datapath
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_neighbour_is_found_though_the_asker_s_agent_is_dead(lab: Lab, number: signal.Signals) -> None:
    """Where the switch can't answer a solicitation, the agent does; when it is not there the owner is asked."""
    lab.stop_daemon("h1", "hostagent", number=number)
    try:
        inside(lab, "h1", "ip", "neigh", "flush", "all")
        assert within(25 if number is signal.SIGKILL else 3, lambda: reach(lab, "h1", "fd00::2"))
    finally:
        lab.start_daemon("h1", "hostagent")
    assert within(10, lambda: lab.exec("h1", ["hostagent", "verify"], check=False).returncode == 0)


@pytest.mark.datapath
def test_a_second_guest_with_the_address_is_told_on_both_ports_and_the_first_keeps_it(lab: Lab) -> None:
    inside(lab, "h2", "python3", "-c", CLAIM, "10.10.0.1")
    assert within(5, lambda: bool(_port(lab, "c1")["address_conflicts"]))
    assert _port(lab, "c1")["address_conflicts"] == ["10.10.0.1: the guest of port c2 uses it too"]
    assert _port(lab, "c2")["address_conflicts"] == ["10.10.0.1: port c1 had it before"]
    inside(lab, "h1", "ip", "neigh", "flush", "all")
    assert reach(lab, "h1", "10.10.0.2")
    explained = lab.exec("h2", ["hostagent", "vif", "explain", _vif(lab, "c2")], check=False).stdout
    assert "Its guest uses 10.10.0.1, which is not its own" in " ".join(explained.split())


def test_what_is_learned_outlives_manager_and_agents(lab: Lab) -> None:
    before = learned(lab)
    lab.stop_daemon("mgr", "netmgr", number=signal.SIGKILL)
    lab.stop_daemon("h1", "hostagent", number=signal.SIGKILL)
    lab.start_daemon("h1", "hostagent")
    inside(lab, "h1", "ip", "neigh", "flush", "all")
    assert reach(lab, "h1", "10.10.0.2")
    lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: learned(lab) == before)


@pytest.mark.datapath
def test_a_guest_that_uses_anothers_mac_or_address_is_told_on_both_ports_though_it_may_learn_none(lab: Lab) -> None:
    lab.exec("mgr", ["netmgr", "port", "set", "blue/c2", "--ip", "10.10.0.2"])
    mac1, mac2 = (_port(lab, name)["mac"] for name in ("c1", "c2"))
    said = ["ip", "netns", "exec", "c2", "python3", "-c", SAY]
    lab.exec("h2", [*said, mac2, "10.10.0.1"])
    lab.exec("h2", [*said, mac1, "10.10.0.1"])
    told = sorted(["10.10.0.1: the guest of port c2 uses it too", f"{mac1}: the guest of port c2 uses it too"])
    assert within(5, lambda: _port(lab, "c1")["address_conflicts"] == told), _port(lab, "c1")
    second = sorted(["10.10.0.1: port c1 had it before", f"{mac1}: it is defined for port c1"])
    assert _port(lab, "c2")["address_conflicts"] == second
    for host, name, word in (("h1", "c1", "The guest of port c2 uses its 10.10.0.1 too"), ("h2", "c2", f"MAC {mac1}")):
        explained = lab.exec(host, ["hostagent", "vif", "explain", _vif(lab, name)], check=False).stdout
        assert word in " ".join(explained.split())
    assert reach(lab, "h1", "10.10.0.2"), "the first one keeps working, and so does what is the second's"
    lab.exec("mgr", ["netmgr", "port", "set", "blue/c2", "--no-ips"], check=False)


def test_a_link_local_address_of_a_port_with_defined_ones_is_its_guests_who_took_it_first(lab: Lab) -> None:
    chosen = "fe80::abcd"

    def ask(host: str) -> None:
        inside(lab, host, "ip", "addr", "replace", f"{chosen}/64", "dev", "eth0", "nodad")
        inside(lab, host, "ping", "-c1", "-W1", "-I", f"{chosen}%eth0", "fe80::99%eth0", check=False)

    def known() -> list[str]:
        rows = json.loads(lab.exec("mgr", ["netmgr", "mac", "list", "--network", "blue", "-o", "json"]).stdout)
        return [row["port"] for row in rows if chosen in row["learned"]]

    lab.exec("mgr", ["netmgr", "port", "set", "blue/c2", "--ip", "10.10.0.2"])
    ask("h2")
    assert within(5, lambda: known() == ["c2"])
    lab.stop_daemon("h2", "hostagent", number=signal.SIGKILL)
    lab.start_daemon("h2", "hostagent")
    ask("h1")
    assert within(5, lambda: f"{chosen}: port c2 had it before" in _port(lab, "c1")["address_conflicts"])
    assert f"{chosen}: the guest of port c1 uses it too" in _port(lab, "c2")["address_conflicts"]
    assert known() == ["c2"]
    for host in ("h1", "h2"):
        inside(lab, host, "ip", "addr", "del", f"{chosen}/64", "dev", "eth0")
    lab.exec("mgr", ["netmgr", "port", "set", "blue/c2", "--no-ips"], check=False)


def test_a_vif_that_is_plugged_with_the_mac_of_a_port_is_told_on_that_port(lab: Lab) -> None:
    mac = _port(lab, "c1")["mac"]
    vif = "0b0b0b0b-0000-4000-8000-000000000001"
    bridge = lab.exec("h3", ["sh", "-c", "ovs-vsctl list-br | grep ^osw-"]).stdout.strip()
    ids = [f"external_ids:{key}={value}" for key, value in (("iface-id", vif), ("attached-mac", f'"{mac}"'))]
    lab.exec("h3", ["ovs-vsctl", "add-port", bridge, "twin0", "--", "set", "interface", "twin0", "type=internal", *ids])
    try:
        told = f"{mac}: VIF {vif}, which has no port, is plugged as twin0 on host h3 with it, dark"
        assert within(10, lambda: told in _port(lab, "c1")["address_conflicts"]), _port(lab, "c1")
        assert reach(lab, "h2", "10.10.0.1")
    finally:
        lab.exec("h3", ["ovs-vsctl", "del-port", "twin0"])
    assert within(10, lambda: told not in _port(lab, "c1")["address_conflicts"])


def test_a_second_guest_that_only_probes_for_the_address_is_told_on_both_ports_too(lab: Lab) -> None:
    """Duplicate address detection as guests do it: IPv6's by the kernel, and IPv4's; the second one gives up."""
    four, six = "10.10.0.61", "fd00::61"
    inside(lab, "h1", "ip", "addr", "add", f"{four}/24", "dev", "eth0")
    inside(lab, "h1", "python3", "-c", CLAIM, four)
    inside(lab, "h1", "ip", "addr", "add", f"{six}/64", "dev", "eth0", "nodad")
    inside(lab, "h1", "ping", "-c1", "-W1", "-I", six, "fd00::99", check=False)
    assert within(5, lambda: {four, six} <= set(_known(lab, "c1"))), _port(lab, "c1")

    inside(lab, "h2", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1")
    inside(lab, "h2", "ip", "addr", "add", f"{six}/64", "dev", "eth0")
    assert within(5, lambda: "dadfailed" in inside(lab, "h2", "ip", "addr", "show", "dev", "eth0").stdout)
    answered = inside(lab, "h2", sys.executable, "-c", PROBE, four).stdout.strip()
    assert answered == _port(lab, "c1")["mac"], "the guest is told of the collision"

    first = {f"{one}: the guest of port c2 has probed for it" for one in (four, six)}
    second = {f"{one}: port c1 had it before; its guest has probed for it" for one in (four, six)}
    assert within(5, lambda: first <= set(_port(lab, "c1")["address_conflicts"])), _port(lab, "c1")
    assert second <= set(_port(lab, "c2")["address_conflicts"])
    for host, name, words in (
        ("h1", "c1", f"The guest of port c2 has probed for its {six}, and is denied it."),
        ("h2", "c2", f"Its guest has probed for {six}, which is not its own: port c1 had it before."),
    ):
        explained = lab.exec(host, ["hostagent", "vif", "explain", _vif(lab, name)], check=False).stdout
        assert words in " ".join(explained.split())
    assert {four, six} <= set(_known(lab, "c1")), "the first one keeps it"
    assert inside(lab, "h2", "ping", "-c1", "-W1", four, check=False).returncode == 0
    lab.stop_daemon("h2", "hostagent", number=signal.SIGKILL)
    lab.start_daemon("h2", "hostagent")
    assert second <= set(_port(lab, "c2")["address_conflicts"])

    inside(lab, "h2", "ip", "addr", "del", f"{six}/64", "dev", "eth0")
    for address in (f"{four}/24", f"{six}/64"):
        inside(lab, "h1", "ip", "addr", "del", address, "dev", "eth0")


def test_a_guest_with_a_defined_address_that_probes_for_anothers_is_told_on_both_ports(lab: Lab) -> None:
    four, six = "10.10.0.62", "fd00::62"
    lab.exec("mgr", ["netmgr", "port", "set", "blue/c1", "--ip", "10.10.0.1", "--ip", four, "--ip", six])
    lab.exec("mgr", ["netmgr", "port", "set", "blue/c2", "--ip", "10.10.0.2"])
    mac = _port(lab, "c1")["mac"]
    assert within(10, lambda: inside(lab, "h2", sys.executable, "-c", PROBE, four).stdout.strip() == mac)
    inside(lab, "h2", "ip", "addr", "add", f"{six}/64", "dev", "eth0")
    told = {f"{one}: the guest of port c2 has probed for it" for one in (four, six)}
    assert within(5, lambda: told <= set(_port(lab, "c1")["address_conflicts"])), _port(lab, "c1")
    second = {f"{one}: it is defined for port c1; its guest has probed for it" for one in (four, six)}
    assert second <= set(_port(lab, "c2")["address_conflicts"])
    inside(lab, "h2", "ip", "addr", "del", f"{six}/64", "dev", "eth0")
    for name in ("c1", "c2"):
        lab.exec("mgr", ["netmgr", "port", "set", f"blue/{name}", "--no-ips"])


def _known(lab: Lab, name: str) -> list[str]:
    return [one["address"] for one in _port(lab, name)["learned"] if not one["refused"]]


def _vif(lab: Lab, name: str) -> str:
    return str(_port(lab, name)["vif_uuid"])


def _port(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
    return found
