"""MACs behind a port on real hosts: guests within a container, and several machines behind a physical host's NIC."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.labkit import Lab
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450, subnets: [10.10.0.0/24]}]
ports:
  - {name: outer, network: blue, vif_uuid: 0a0a0a0a-0000-4000-8000-000000000001, ips: [10.10.0.1],
     nested: [{mac: "02:00:00:00:01:01", ips: [10.10.0.11]}]}
  - {name: rack, network: blue, vif_uuid: 0a0a0a0a-0000-4000-8000-000000000002, allow: [nested]}
  - {name: peer, network: blue, vif_uuid: 0a0a0a0a-0000-4000-8000-000000000003, ips: [10.10.0.3]}
"""
# A second station on the segment of eth0 in a namespace of its own: a bridge puts both behind the one VIF.
SEGMENT = """
set -e
ip netns add {inner}
ip -n {outer} link add br0 type bridge
ip -n {outer} link set eth0 master br0 up
ip -n {outer} link add in0 type veth peer name eth0 address {mac} netns {inner}
ip netns exec {inner} ethtool -K eth0 tx off >/dev/null
ip -n {outer} link set in0 master br0 up
ip -n {outer} link set br0 up
ip -n {inner} link set eth0 mtu 1450
ip -n {inner} address add {ip}/24 dev eth0
ip -n {inner} link set eth0 up
"""


def inside(lab: Lab, host: str, namespace: str, *command: str) -> Any:
    return lab.exec(host, ["ip", "netns", "exec", namespace, *command], check=False)


def reach(lab: Lab, host: str, namespace: str, address: str) -> bool:
    return inside(lab, host, namespace, "ping", "-c1", "-W1", address).returncode == 0


def table(lab: Lab) -> dict[str, dict[str, Any]]:
    rows = json.loads(lab.exec("mgr", ["netmgr", "mac", "list", "--network", "blue", "-o", "json"]).stdout)
    return {row["mac"]: row for row in rows}


def station(lab: Lab, host: str, outer: str, inner: str, mac: str, ip: str) -> None:
    lab.exec(host, ["sh", "-c", SEGMENT.format(outer=outer, inner=inner, mac=mac, ip=ip)])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Container outer on h1 with a guest of its own inside; peer on h2; on h3 two stations behind NIC rack0."""
    with Lab(hosts=3, with_libvirt=False, with_vmctl=False, zones=dict.fromkeys(("h1", "h2", "h3"), "a")) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        for host, name in (("h1", "outer"), ("h2", "peer")):
            made.exec(host, ["ip", "netns", "add", name])
            made.exec(host, ["hostagent", "port", "attach", name, "--network", "blue", "--netns", name])
        station(made, "h1", "outer", "inner", "02:00:00:00:01:01", "10.10.0.11")
        made.exec("h3", ["ip", "netns", "add", "rack"])
        made.exec("h3", ["ip", "link", "add", "rack0", "type", "veth", "peer", "name", "eth0", "netns", "rack"])
        made.exec("h3", ["hostagent", "port", "attach", "rack", "--network", "blue", "--pnic", "rack0"])
        for index in (1, 2):
            if index == 1:
                station(made, "h3", "rack", "s1", "02:00:00:00:02:01", "10.10.0.21")
            else:
                more = SEGMENT.replace("ip -n {outer} link add br0 type bridge\n", "").replace("in0", "in1")
                words = more.format(outer="rack", inner="s2", mac="02:00:00:00:02:02", ip="10.10.0.22")
                made.exec("h3", ["sh", "-c", words])
        yield made


def test_a_guest_in_a_guest_is_reached_by_its_own_mac_and_address(lab: Lab) -> None:
    assert within(10, lambda: reach(lab, "h2", "peer", "10.10.0.11"))
    assert "02:00:00:00:01:01" in inside(lab, "h2", "peer", "ip", "neigh", "show", "10.10.0.11").stdout
    row = table(lab)["02:00:00:00:01:01"]
    assert (row["behind"], row["defined"], row["port"], row["host"]) == ("defined", ["10.10.0.11"], "outer", "h1")


def test_machines_behind_a_physical_nic_are_learned_and_reached(lab: Lab) -> None:
    assert within(20, lambda: all([reach(lab, "h3", "s1", "10.10.0.3"), reach(lab, "h3", "s2", "10.10.0.3")]))
    assert within(5, lambda: "10.10.0.22" in table(lab).get("02:00:00:00:02:02", {}).get("learned", ()))
    row = table(lab)["02:00:00:00:02:01"]
    assert (row["behind"], row["learned"], row["port"], row["host"]) == ("learned", ["10.10.0.21"], "rack", "h3")
    assert reach(lab, "h2", "peer", "10.10.0.22")
    explained = lab.exec("h3", ["hostagent", "vif", "explain", "0a0a0a0a-0000-4000-8000-000000000002"]).stdout
    assert "MACs learned behind its VIF: " in " ".join(explained.split())


def test_the_underlay_carries_no_arp_for_addresses_behind_vifs(lab: Lab) -> None:
    assert within(20, lambda: reach(lab, "h2", "peer", "10.10.0.11") and reach(lab, "h2", "peer", "10.10.0.21"))
    words = ["tcpdump", "-n", "-l", "--immediate-mode", "-i", "pnic0", "udp port 4789"]
    capture = lab.popen("h2", words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("listening" in line for line in iter(capture.stderr.readline, ""))
    inside(lab, "h2", "peer", "ping", "-c1", "-W1", "10.10.0.77")  # nobody's: flooded
    for address in ("10.10.0.11", "10.10.0.21"):
        inside(lab, "h2", "peer", "ip", "neigh", "flush", "all")
        assert reach(lab, "h2", "peer", address)
    capture.send_signal(signal.SIGINT)
    heard = str(capture.communicate(timeout=10)[0])
    assert "who-has 10.10.0.77 " in heard, "the capture sees what crosses"
    assert heard.count("ICMP echo request") == 2
    assert "who-has 10.10.0.11 " not in heard
    assert "who-has 10.10.0.21 " not in heard


def test_the_trace_finds_the_mac_behind_the_port(lab: Lab) -> None:
    done = lab.exec("mgr", ["netmgr", "trace", "--from", "peer", "--to", "10.10.0.11", "-o", "json"], check=False)
    found = json.loads(done.stdout)
    assert (found["result"], found["frame"]["eth_dst"]) == ("delivered", "02:00:00:00:01:01")


def test_a_mac_that_another_port_has_is_not_learned_and_both_ports_say_so(lab: Lab) -> None:
    inside(lab, "h3", "s2", "ip", "link", "set", "eth0", "address", "02:00:00:00:01:01")
    inside(lab, "h3", "s2", "ping", "-c2", "-W1", "10.10.0.3")
    assert within(10, lambda: bool(port(lab, "outer")["address_conflicts"]))
    assert port(lab, "outer")["address_conflicts"] == ["02:00:00:00:01:01: the guest of port rack uses it too"]
    assert "02:00:00:00:01:01: it is defined for port outer" in port(lab, "rack")["address_conflicts"]
    assert reach(lab, "h2", "peer", "10.10.0.11"), "the first one keeps working"
    assert not reach(lab, "h3", "s2", "10.10.0.3")


def test_what_is_behind_a_port_outlives_its_agent_and_its_manager(lab: Lab) -> None:
    lab.stop_daemon("mgr", "netmgr", number=signal.SIGKILL)
    lab.stop_daemon("h3", "hostagent", number=signal.SIGKILL)
    lab.start_daemon("h3", "hostagent")
    assert reach(lab, "h2", "peer", "10.10.0.21")
    lab.start_daemon("mgr", "netmgr")
    assert within(20, lambda: table(lab)["02:00:00:00:02:01"]["learned"] == ["10.10.0.21"])


def port(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.exec("mgr", ["netmgr", "port", "show", name, "-o", "json"]).stdout)
    return found
